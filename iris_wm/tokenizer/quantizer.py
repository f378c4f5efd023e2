"""Turns latent maps into codes and back: vector-quantize-pytorch behind one small face.

Nearest-code search is always float32: in bfloat16 nearly every token comes out wrong.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_wm.config import Config, PositiveInt, Range


@dataclass(frozen=True)
class VectorQuantizerConfig(Config):
    """A learned codebook (the paper's)."""

    kind: Literal["vq"] = field(default="vq", init=False)
    codebook_size: PositiveInt = 512
    """Codes, V."""
    embedding_dim: PositiveInt = 512
    """Size of a code, E."""


@dataclass(frozen=True)
class FiniteScalarQuantizerConfig(Config):
    """Finite scalar quantization: no codebook to collapse; as many codes as the product of its levels."""

    kind: Literal["fsq"] = field(default="fsq", init=False)
    levels: tuple[Annotated[int, Range(3)], ...] = (8, 8, 8)
    """Levels of each latent dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise ValueError("levels: got none, expected at least one")


class Quantized(NamedTuple):
    """latents (B, E, h, w) with straight-through gradient; obs_tokens (B, K) int64; commitment_loss scalar."""

    latents: Tensor
    obs_tokens: Tensor
    commitment_loss: Tensor


class VectorQuantizer(nn.Module):
    """A learned codebook of V codes of size E, trained by the codebook and commitment losses (van den Oord, 2017)."""

    def __init__(self, codebook_size: int, embedding_dim: int) -> None:
        from vector_quantize_pytorch import VectorQuantize  # slow to import, and only needed to build one

        super().__init__()
        self.embedding_dim = embedding_dim
        self.codebook_size = codebook_size
        self.library = VectorQuantize(
            dim=embedding_dim,
            codebook_size=codebook_size,
            accept_image_fmap=True,
            learnable_codebook=True,
            ema_update=False,
            rotation_trick=False,
            commitment_weight=1.0,
        )
        nn.init.uniform_(self.library._codebook.embed, -1.0 / codebook_size, 1.0 / codebook_size)

    @property
    def codebook(self) -> Tensor:
        """(V, E) float32."""
        return self.library._codebook.embed[0]

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize with gradients. The loss is |sg(z) - e|^2 + |z - sg(e)|^2, means over all elements.

        The library reports one of the two equal terms, with the gradients of both; hence the detached copy.
        """
        with torch.autocast(latents.device.type, enabled=False):
            quantized, codes, loss = self.library(latents.float())
        loss = loss.sum()
        return Quantized(quantized, codes.flatten(1), loss + loss.detach())

    def encode(self, latents: Tensor) -> Tensor:
        """Nearest codes. (B, E, h, w) -> (B, h * w) int64. Never changes the codebook."""
        with torch.autocast(latents.device.type, enabled=False):
            points = latents.float().flatten(2).transpose(1, 2)
            codebook = self.codebook
            distances = codebook.square().sum(1) - 2 * points @ codebook.T
            return distances.argmin(-1)

    def lookup(self, obs_tokens: Tensor) -> Tensor:
        """Codes' vectors. (..., K) -> (..., K, E) float32."""
        return self.codebook[obs_tokens]


class FiniteScalarQuantizer(nn.Module):
    """FSQ (Mentzer et al., 2023): every latent dimension rounded to a few levels; no codebook to learn or collapse."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        from vector_quantize_pytorch import FSQ  # slow to import, and only needed to build one

        super().__init__()
        with torch.device("cpu"):  # it computes with its tables at once, which meta tensors cannot
            self.library = FSQ(list(levels))
        self.embedding_dim = len(levels)
        self.codebook_size = self.library.codebook_size

    @property
    def codebook(self) -> Tensor:
        """(V, E) float32."""
        return self.library.implicit_codebook

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize with straight-through gradients; there is no commitment loss."""
        with torch.autocast(latents.device.type, enabled=False):
            quantized, codes = self.library(latents.float())
        return Quantized(quantized, codes.flatten(1).long(), latents.new_zeros(()))

    def encode(self, latents: Tensor) -> Tensor:
        """(B, E, h, w) -> (B, h * w) int64."""
        return self(latents).obs_tokens

    def lookup(self, obs_tokens: Tensor) -> Tensor:
        """Codes' vectors. (..., K) -> (..., K, E) float32."""
        return self.codebook[obs_tokens]


def codebook_usage(obs_tokens: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How much of the codebook a batch uses: (codes seen at least once, perplexity), float scalars."""
    codes = obs_tokens.flatten()
    counts = torch.zeros(codebook_size, device=codes.device)
    counts.index_add_(
        0, codes, torch.ones_like(codes, dtype=counts.dtype)
    )  # bincount would wait for the device
    frequencies = counts / counts.sum()
    entropy = -(frequencies * frequencies.clamp_min(1e-12).log()).sum()
    return (counts > 0).sum().float(), entropy.exp()
