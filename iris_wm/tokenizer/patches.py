"""Nearest-neighbour patches (Dedieu et al., 2025): a token is the number of the most similar square met before.

Nothing is trained and a code never moves, so a token means the same to the world for ever. It fits games of sprites on
a still ground; where hardly a square is met twice, an autoencoder is better.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, unfold

from iris_wm.config import Config, NonNegativeFloat, PositiveInt
from iris_wm.protocols import Source
from iris_wm.tokenizer.tokenizer import Tokenizer, TokenizerConfig

CHUNK = 256
"""Frames whose squares are compared at once."""


@dataclass(frozen=True)
class PatchesConfig(Config):
    """The frame in squares; a square unlike all codes becomes a new code. No gradients and no training phase."""

    kind: Literal["patches"] = field(default="patches", init=False)
    resolution: PositiveInt = 64
    """Width and height of the frames in pixels."""
    patch_size: PositiveInt = 8
    """Width and height of a square."""
    codebook_size: PositiveInt = 1024
    """V, most squares that are kept. When the table is full, a new square is given the code most like it."""
    threshold: NonNegativeFloat = 0.0
    """A square is new where it is farther than this from every code, in squared differences of values in [0, 1], added
    up over its pixels and colours. 0: where it is not equal to one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution % self.patch_size:
            raise ValueError(
                f"patch_size: got {self.patch_size}, expected a divisor of resolution ({self.resolution})"
            )

    @property
    def tokens_per_frame(self) -> int:
        """K."""
        return (self.resolution // self.patch_size) ** 2


class PatchTokenizer(nn.Module):
    """A table of squares, the first num_codes of it in use. It is its own quantizer.

    Distances are of whole numbers small enough for float32 to be exact (up to 8 x 8 pixels), on every device.
    """

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens_per_frame, self.codebook_size = config.tokens_per_frame, config.codebook_size
        self.embedding_dim = 3 * config.patch_size**2
        self.squares: Tensor
        self.num_codes: Tensor
        self.num_seen: Tensor
        squares = torch.zeros(self.codebook_size, self.embedding_dim, dtype=torch.uint8)
        self.register_buffer("squares", squares)
        self.register_buffer("num_codes", torch.ones((), dtype=torch.int64))  # the first is black
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    @property
    def quantizer(self) -> "PatchTokenizer":
        """What has a codebook."""
        return self

    @property
    def codebook(self) -> Tensor:
        """(V, E) float32 in [-1, 1]; codes not yet in use are like the first."""
        return _centred(self.squares) / 127.5

    def lookup(self, obs_tokens: Tensor) -> Tensor:
        """Codes' vectors. (..., K) -> (..., K, E) float32."""
        return _centred(self.squares[obs_tokens]) / 127.5

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) uint8 -> obs_tokens (..., K) int64."""
        squares = self._cut(frames.reshape(-1, *frames.shape[-3:])).flatten(0, 1)
        return self._nearest(squares)[0].view(*frames.shape[:-3], self.tokens_per_frame)

    @torch.no_grad()
    def decode(self, obs_tokens: Tensor) -> Tensor:
        """obs_tokens (..., K) -> frames (..., C, H, W) float32 in [0, 1]."""
        squares = self.squares[obs_tokens.reshape(-1, self.tokens_per_frame)].float() / 255
        size, side = self.config.resolution, self.config.patch_size
        return fold(squares.mT, size, side, stride=side).view(*obs_tokens.shape[:-1], 3, size, size)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """encode, then decode. (..., C, H, W) uint8 -> float32 in [0, 1]."""
        return self.decode(self.encode(frames))

    @torch.no_grad()
    def grow(self, source: Source) -> float:
        """Take in the squares of the steps that came since the last call, the most frequent first.

        Returns:
            The share of these steps' squares that have a code now (within threshold of it); 1 where nothing came.
        """
        start, stop = int(self.num_seen), source.num_steps
        if start == stop:
            return 1.0
        squares, counts = self._distinct(source, start, stop)
        limit = self.config.threshold * 255**2
        unknown = self._nearest(squares)[1] > limit
        candidates = squares[unknown][counts[unknown].argsort(descending=True, stable=True)]
        size = int(self.num_codes)
        while size < self.codebook_size and len(candidates):
            num = self.codebook_size - size if limit == 0 else 1  # distinct squares are all new to each other
            added = candidates[:num]
            self.squares[size : size + len(added)] = added
            size += len(added)
            candidates = candidates[num:]
            if limit and len(candidates):
                candidates = candidates[_distances(candidates, added)[:, 0] > limit]
        self.num_codes.fill_(size)
        self.num_seen.fill_(stop)
        known = self._nearest(squares)[1] <= limit
        return float(counts[known].sum() / counts.sum())

    def _distinct(self, source: Source, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The distinct squares (M, E) of steps start to stop, and how often each is there (M,)."""
        squares, counts = self.squares[:0], torch.zeros(0, dtype=torch.int64, device=self.squares.device)
        for first in range(start, stop, CHUNK):
            steps = torch.arange(first, min(first + CHUNK, stop))[None]
            frames = source.gather(steps, torch.ones_like(steps, dtype=torch.bool)).frames[0]
            found = self._cut(frames.to(self.squares.device)).flatten(0, 1)
            squares = torch.cat([squares, found])
            counts = torch.cat([counts, counts.new_ones(len(found))])
            squares, counts = _merged(squares, counts)
        return squares, counts

    def _cut(self, frames: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> squares (B, K, E) uint8."""
        side = self.config.patch_size
        return unfold(frames.float(), side, stride=side).mT.to(torch.uint8)

    def _nearest(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Of squares (M, E) uint8 the most similar codes (M,) and the distances to them, in squared whole numbers."""
        if squares.device.type == "cpu":
            used = self.squares[: int(self.num_codes)]
            parts = [_distances(part, used).min(1) for part in squares.split(CHUNK * 16)]
        else:  # the host does not wait to know how many are in use
            is_free = torch.arange(self.codebook_size, device=squares.device) >= self.num_codes
            parts = [
                _distances(part, self.squares).masked_fill_(is_free, torch.inf).min(1)
                for part in squares.split(CHUNK * 16)
            ]
        return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _centred(squares: Tensor) -> Tensor:
    return squares.float() - 127.5


def _distances(squares: Tensor, codes: Tensor) -> Tensor:
    """(M, E), (V, E) uint8 -> (M, V) float32."""
    with torch.autocast(squares.device.type, enabled=False):
        one, other = squares.float() - 128, codes.float() - 128
        return torch.addmm(other.square().sum(1), one, other.T, alpha=-2) + one.square().sum(1, keepdim=True)


def _merged(squares: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Equal squares in one row, in the order of their first appearance; told apart by a 62-bit hash."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(2**62, (squares.shape[1],), generator=generator).to(squares.device)
    _, inverse = (squares.long() * factors).sum(1).unique(return_inverse=True)
    first = torch.full_like(counts, len(counts)).scatter_reduce_(
        0, inverse, torch.arange(len(inverse), device=inverse.device), "amin"
    )
    total = torch.zeros_like(counts).scatter_add_(0, inverse, counts)
    order = first.argsort()[: int(inverse.max()) + 1]
    return squares[first[order]], total[order]


AnyTokenizer = Tokenizer | PatchTokenizer


def new_tokenizer(config: TokenizerConfig | PatchesConfig) -> AnyTokenizer:
    """Of the kind that the config is of."""
    return PatchTokenizer(config) if isinstance(config, PatchesConfig) else Tokenizer(config)
