"""What the operations take, written once: the weights of a layer and of the head, and how a token is drawn.

Letters: C width, H hidden width, V codes, P positions. All but the matrices of linear layers may be float32 beside
16-bit matrices.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

LN_EPS = 1e-5


class LayerWeights(NamedTuple):
    """The weights of one transformer layer for `decode_layers`. packed: a copy for a CPU, made by `pack`."""

    ln_1_weight: Tensor  # (C,)
    ln_1_bias: Tensor  # (C,)
    qkv_weight: Tensor  # (3C, C), rows packed q | k | v, each N * D
    qkv_bias: Tensor  # (3C,)
    out_weight: Tensor  # (C, C)
    out_bias: Tensor  # (C,)
    ln_2_weight: Tensor  # (C,)
    ln_2_bias: Tensor  # (C,)
    fc_1_weight: Tensor  # (H, C)
    fc_1_bias: Tensor  # (H,)
    fc_2_weight: Tensor  # (C, H)
    fc_2_bias: Tensor  # (C,)
    packed: "LayerWeights | None" = None

    @staticmethod
    def of(layer: nn.Module, dtype: torch.dtype) -> "LayerWeights":
        """Of a module with ln_1, qkv, out, ln_2, fc_1 and fc_2: views where it has that dtype, else copies.

        Norms stay float32.
        """
        return LayerWeights.of_tensors(_cast(_parts(layer), dtype))

    @staticmethod
    def of_tensors(tensors: Iterable[Tensor]) -> "LayerWeights":
        """Of the twelve tensors."""
        return LayerWeights._make([*tensors, None])

    @property
    def tensors(self) -> list[Tensor]:
        """The twelve tensors."""
        return list(self[:12])

    def update(self, layer: nn.Module) -> None:
        """Copy the module's current weights in place, so that a captured graph sees them; not what is packed."""
        _update(self.tensors, _parts(layer))


class HeadWeights(NamedTuple):
    """The weights of `head_sample`: a norm, two linear layers, and what the next token's input is made of."""

    ln_weight: Tensor  # (C,)
    ln_bias: Tensor  # (C,)
    fc_1_weight: Tensor  # (H, C)
    fc_1_bias: Tensor  # (H,)
    fc_2_weight: Tensor  # (V, H)
    fc_2_bias: Tensor  # (V,)
    token_embedding: Tensor  # (V, C)
    position_embedding: Tensor  # (P, C)

    @staticmethod
    def of(
        layers: tuple[nn.Module, nn.Module, nn.Module],
        token_embedding: nn.Embedding,
        position_embedding: nn.Embedding,
        dtype: torch.dtype,
    ) -> "HeadWeights":
        """Of (norm, first, second layer): views where they have that dtype, else copies.

        The norm stays float32 and the embeddings as they are.
        """
        embeddings = (token_embedding.weight.detach(), position_embedding.weight.detach())
        return HeadWeights._make([*_cast(layers, dtype), *embeddings])

    def update(self, layers: tuple[nn.Module, nn.Module, nn.Module]) -> None:
        """Copy the layers' current weights in place, so that a captured graph sees them."""
        _update(list(self[:6]), layers)


class Draws(NamedTuple):
    """How tokens are drawn; see `iris_kernels.sample_tokens`."""

    seed: Tensor  # (B,) int64
    step: Tensor  # (B,) int64
    stream: int
    place: int
    temperature: float
    top_k: int
    top_p: float


def _parts(layer: nn.Module) -> list[nn.Module]:
    return [layer.get_submodule(name) for name in ("ln_1", "qkv", "out", "ln_2", "fc_1", "fc_2")]


def _parameters(layers: Sequence[nn.Module]) -> Iterator[Tensor]:
    for layer in layers:
        yield layer.get_parameter("weight").detach()
        yield layer.get_parameter("bias").detach()


def _cast(layers: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[Tensor]:
    for layer in layers:
        keep = torch.float32 if isinstance(layer, nn.LayerNorm) else dtype
        yield from (parameter.to(keep) for parameter in _parameters([layer]))


def _update(copies: list[Tensor], layers: Sequence[nn.Module]) -> None:
    for copy, parameter in zip(copies, _parameters(layers), strict=True):
        if copy.data_ptr() != parameter.data_ptr():
            copy.copy_(parameter)
