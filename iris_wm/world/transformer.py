"""A GPT-style pre-norm transformer, whole sequences for training and through a cache for dreaming."""

from dataclasses import dataclass, field
from typing import Any, Literal

import iris_kernels
import torch
from torch import Tensor, nn

from iris_wm.world.blockwise_attention import blockwise_attention
from iris_wm.world.dropout import add_dropped
from iris_wm.world.kv_cache import KVCache


@dataclass(frozen=True)
class AttentionPattern:
    """Which rows see which: causal, block_causal or parallel (see iris_kernels.attention)."""

    mask: Literal["causal", "block_causal", "parallel"] = "causal"
    tokens_per_step: int = 0
    is_block_causal: bool = False


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)); the MLP is four times as wide with exact GELU."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.ln_1 = nn.LayerNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.ln_2 = nn.LayerNorm(embed_dim)
        self.fc_1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc_2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor, pattern: AttentionPattern) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        qkv = self.qkv(self.ln_1(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = _attend(q, k, v, pattern, dropout)
        x = add_dropped(x, self.out(mixed.transpose(1, 2).flatten(2)), dropout)
        hidden = nn.functional.gelu(self.fc_1(self.ln_2(x)))
        return add_dropped(x, self.fc_2(hidden), dropout)


def _attend(q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern, dropout: float) -> Tensor:
    """(B, N, S, D) each -> (B, N, S, D)."""
    options: dict[str, Any] = {
        "mask": pattern.mask,
        "tokens_per_step": pattern.tokens_per_step,
        "is_block_causal": pattern.is_block_causal,
    }
    if q.device.type == "cpu" and (dropout or pattern.mask != "causal"):
        return blockwise_attention(q, k, v, dropout=dropout, **options)
    seed = torch.randint(2**31, (1,), device=q.device) if dropout else None
    return iris_kernels.attention(q, k, v, dropout=dropout, seed=seed, **options)


class Transformer(nn.Module):
    """num_layers blocks and a final layer norm. Embeddings and heads belong to the world model."""

    def __init__(self, num_layers: int, num_heads: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embed_dim = embed_dim
        self.dropout = dropout
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.ln_out = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, pattern: AttentionPattern) -> Tensor:
        """Embedded sequences (B, S, C) -> hidden states (B, S, C), after the final layer norm."""
        x = nn.functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, pattern)
        return self.ln_out(x)

    def new_cache(self, batch_size: int, max_tokens: int, dtype: torch.dtype = torch.float32) -> KVCache:
        """An empty cache on the weights' device."""
        weight = self.ln_out.weight
        head_dim = self.embed_dim // self.num_heads
        return KVCache.empty(
            len(self.blocks), batch_size, self.num_heads, max_tokens, head_dim, weight.device, dtype
        )


@dataclass
class DecodeWeights:
    """One layer's weights as the decode kernels want them: a leading group axis, one dtype.

    In the parameters' own dtype these are views, always up to date; in another they are copies, see refresh.
    packed: on a CPU, copies in the layout that its products are fastest in; None where there is none.
    """

    ln_1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor]
    fc_1: tuple[Tensor, Tensor]
    fc_2: tuple[Tensor, Tensor]
    num_heads: int
    packed: iris_kernels.PackedLayer | None = field(init=False)

    def __post_init__(self) -> None:
        self._pack()

    @staticmethod
    def of(block: nn.Module, dtype: torch.dtype) -> "DecodeWeights":
        """The weights of one block, cast to dtype where that differs."""
        layers = {name: grouped(getattr(block, name), dtype) for name in _DECODE_LAYERS}
        return DecodeWeights(**layers, num_heads=block.num_heads)  # type: ignore[arg-type]

    def refresh(self, block: nn.Module) -> None:
        """Copy the block's current weights in place, so that a captured graph sees them."""
        for name in _DECODE_LAYERS:
            refresh_grouped(getattr(self, name), getattr(block, name))
        self._pack()

    def _pack(self) -> None:
        head_size = self.out[0].shape[-1] // self.num_heads
        is_packable = iris_kernels.PackedLayer.is_available(self.qkv[0], head_size)
        layers = (getattr(self, name) for name in _DECODE_LAYERS)
        self.packed = iris_kernels.PackedLayer(*layers) if is_packable else None


_DECODE_LAYERS = ("ln_1", "qkv", "out", "ln_2", "fc_1", "fc_2")


def grouped(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a layer with a leading group axis of 1; layer norms stay float32."""
    keep = torch.float32 if isinstance(layer, nn.LayerNorm) else dtype
    weight, bias = (layer.get_parameter(name).detach().to(keep)[None] for name in ("weight", "bias"))
    return weight, bias


def refresh_grouped(pair: tuple[Tensor, Tensor], layer: nn.Module) -> None:
    """Copy a layer's weight and bias into what grouped returned."""
    for copy, name in zip(pair, ("weight", "bias"), strict=True):
        source = layer.get_parameter(name)
        if copy.data_ptr() != source.data_ptr():
            copy.copy_(source.detach()[None])


def decode(
    x: Tensor,
    weights: list[DecodeWeights],
    cache: KVCache,
    *,
    num_heads: int,
    num_context: int | None = None,
    num_wanted: int | None = None,
    is_block_causal: bool = False,
) -> Tensor:
    """Push n new rows through all layers, appending them to the cache.

    Args:
        x: (B, n, C) float32, embedded. The last n - num_context rows are prediction queries: they see everything
            and each other, and the cache forgets them.
        weights: of each layer.
        cache: advanced in place by num_context (n when None); its dtype may differ from the weights'.
        num_heads: N.
        num_context: rows that stay in the cache.
        num_wanted: the last rows that anyone asks for; the last layer computes no others (n when None).
        is_block_causal: the context rows see each other in both directions.

    Returns:
        (B, num_wanted, C) float32, before the final layer norm.
    """
    batch_size, num_new, embed_dim = x.shape
    num_wanted = num_wanted or num_new
    num_kept = num_new if num_context is None else num_context
    options: dict[str, Any] = {
        "num_heads": num_heads,
        "num_context": num_kept,
        "is_block_causal": is_block_causal,
    }
    if (packed := _packed(weights, cache)) is not None and not torch.is_grad_enabled():
        iris_kernels.check_room(num_new, cache.position, cache.max_tokens)
        x = x.contiguous()
        for i, packed_layer in enumerate(packed):
            wanted = num_wanted if i + 1 == len(packed) else num_new
            x = packed_layer(x, cache.keys[i], cache.values[i], cache.position, num_wanted=wanted, **options)
        cache.position.add_(num_kept)
        return x
    residual = x.reshape(1, batch_size * num_new, embed_dim)
    for layer, keys, values in zip(weights, cache.keys, cache.values, strict=True):
        qkv = iris_kernels.ln_linear(residual, *layer.ln_1, *layer.qkv)
        mixed = iris_kernels.decode_attention(
            qkv.view(1, batch_size, num_new, 3 * embed_dim).to(keys.dtype),
            keys[None],
            values[None],
            cache.position,
            **options,
        )
        if layer is weights[-1] and num_wanted < num_new:
            mixed = mixed[:, :, -num_wanted:].reshape(1, -1, embed_dim)
            residual = residual.unflatten(1, (batch_size, num_new))[:, :, -num_wanted:].reshape(mixed.shape)
        mixed = mixed.view(1, -1, embed_dim).to(qkv.dtype)
        residual = iris_kernels.linear_residual(mixed, *layer.out, residual)
        hidden = iris_kernels.ln_linear(residual, *layer.ln_2, *layer.fc_1, activation="gelu")
        residual = iris_kernels.linear_residual(hidden, *layer.fc_2, residual)
    cache.position.add_(num_kept)
    return residual.view(batch_size, num_wanted, embed_dim)


def _packed(weights: list[DecodeWeights], cache: KVCache) -> list[iris_kernels.PackedLayer] | None:
    """All layers packed for a cache like this one, or None."""
    if cache.max_tokens > iris_kernels.PackedLayer.MAXIMUM_LENGTH:
        return None
    layers = [layer.packed for layer in weights if layer.packed and layer.packed.dtype == cache.keys.dtype]
    return layers if len(layers) == len(weights) else None


def kernels_in_use() -> dict[str, Any]:
    """Which kernels were asked for, and whether this CPU has the C ones: for reports of speed."""
    return {
        "kernels": iris_kernels.requested_backend(),
        "has_c_kernels": iris_kernels.has_c_decode_attention(64, torch.float32),
    }
