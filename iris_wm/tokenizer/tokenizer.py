"""The tokenizer: frames -> K tokens of a codebook -> frames."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_wm.config import Config
from iris_wm.tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder
from iris_wm.tokenizer.quantizer import (
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
)


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
