"""The tokenizer: frames -> K tokens of a codebook -> frames. Its quantizers are vector-quantize-pytorch's.

Nearest-code search is always float32: in bfloat16 nearly every token comes out wrong.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_wm.config import Config, PositiveInt, Range
from iris_wm.tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder


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


@dataclass(frozen=True)
class TokenizerConfig(Config):
    """The discrete autoencoder (the paper's)."""

    kind: Literal["autoencoder"] = field(default="autoencoder", init=False)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    quantizer: VectorQuantizerConfig | FiniteScalarQuantizerConfig = field(
        default_factory=VectorQuantizerConfig
    )
    """vq: a learned codebook (the paper's). fsq: finite scalar quantization, no codebook to collapse."""
    has_background: bool = False
    """A learned still picture is taken off the encoder's input and put under the decoder's output, so that the
    tokens speak of what moves; it starts as the mean of the first frames. Not the paper's."""

    @property
    def tokens_per_frame(self) -> int:
        """K."""
        return self.autoencoder.latent_resolution**2

    @property
    def resolution(self) -> int:
        """Width and height of frames in pixels."""
        return self.autoencoder.resolution


class TokenizerOutput(NamedTuple):
    """One training pass over B frames.

    latents: (B, E, h, w) before quantization. obs_tokens: (B, K) int64.
    reconstructions: (B, 3, H, W), about [-1, 1]. commitment_loss: scalar.
    """

    latents: Tensor
    obs_tokens: Tensor
    reconstructions: Tensor
    commitment_loss: Tensor


class Tokenizer(nn.Module):
    """Encoder, quantizer and decoder."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens_per_frame = config.tokens_per_frame
        quantizer = config.quantizer
        self.quantizer = (
            VectorQuantizer(quantizer.codebook_size, quantizer.embedding_dim)
            if isinstance(quantizer, VectorQuantizerConfig)
            else FiniteScalarQuantizer(quantizer.levels)
        )
        embedding_dim, latent_dim = self.quantizer.embedding_dim, config.autoencoder.latent_dim
        self.encoder = Encoder(config.autoencoder)
        self.to_codes = nn.Conv2d(latent_dim, embedding_dim, 1)
        self.from_codes = nn.Conv2d(embedding_dim, latent_dim, 1)
        self.decoder = Decoder(config.autoencoder)
        if config.has_background:
            size = config.autoencoder.resolution
            self.background = nn.Parameter(torch.zeros(3, size, size))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def normalize(frames: Tensor) -> Tensor:
        """uint8 frames -> float32 in [-1, 1]."""
        return frames.float().div_(127.5).sub_(1)

    def latents(self, frames: Tensor) -> Tensor:
        """Encoder output before quantization. (B, C, H, W) uint8 -> (B, E, h, w)."""
        inputs = self.normalize(frames)
        return self.to_codes(self.encoder(inputs - self.background if self.config.has_background else inputs))

    def forward(self, frames: Tensor) -> TokenizerOutput:
        """A training pass. frames: (B, C, H, W) uint8."""
        latents = self.latents(frames)
        quantized = self.quantizer(latents)
        reconstructions = self._decode_maps(quantized.latents)
        return TokenizerOutput(latents, quantized.obs_tokens, reconstructions, quantized.commitment_loss)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) uint8 -> obs_tokens (..., K) int64."""
        tokens = self.quantizer.encode(self.latents(frames.reshape(-1, *frames.shape[-3:])))
        return tokens.reshape(*frames.shape[:-3], self.tokens_per_frame)

    @torch.no_grad()
    def decode(self, obs_tokens: Tensor) -> Tensor:
        """obs_tokens (..., K) -> frames (..., C, H, W) float32 in [0, 1]."""
        side = self.config.autoencoder.latent_resolution
        codes = self.quantizer.lookup(obs_tokens.reshape(-1, self.tokens_per_frame))
        maps = codes.transpose(1, 2).unflatten(2, (side, side))
        frames = self._decode_maps(maps).float().add(1).div(2).clamp(0, 1)
        return frames.reshape(*obs_tokens.shape[:-1], *frames.shape[1:])

    def _decode_maps(self, codes: Tensor) -> Tensor:
        """Codes (B, E, h, w) -> frames, about [-1, 1]."""
        frames = self.decoder(self.from_codes(codes))
        return frames + self.background if self.config.has_background else frames

    @torch.no_grad()
    def set_background(self, frames: Tensor) -> None:
        """Start the background as the mean of real frames (B, C, H, W) uint8."""
        self.background.copy_(self.normalize(frames).mean(0))

    def reconstruct(self, frames: Tensor) -> Tensor:
        """encode, then decode. (..., C, H, W) uint8 -> float32 in [0, 1]."""
        return self.decode(self.encode(frames))


def to_uint8(frames: Tensor) -> Tensor:
    """Frames in [0, 1] -> uint8, rounded."""
    return frames.mul(255).round().clamp(0, 255).to(torch.uint8)
