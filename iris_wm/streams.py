"""Counter-based randomness: every random draw belongs to a stream named (seed, name, step).

Nothing here holds state, so resuming a run needs no generator state: the step alone brings the stream back.
`stream_seed` and `stream_generator` serve the host; a `Draw` serves rows of a batch, also on a device.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def stream_seed(seed: int, name: str, step: int = 0) -> int:
    """A 63-bit seed for the stream (seed, name, step); equal arguments give equal seeds on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream_generator(
    seed: int, name: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator at the start of the stream (seed, name, step)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name, step))


class Draw(NamedTuple):
    """All randomness of one step of B rows, each row on its own: what a row draws does not depend on its neighbours.

    seed, step: (B,) int64, the row's own seed and how many steps it has taken since. stream: which of the step's draws.
    The samplers of `iris_kernels` take the three as they are: `sample_tokens(logits, *draw.of("reward"))`.
    """

    seed: Tensor
    step: Tensor
    stream: int = 0

    @staticmethod
    def start(seeds: "list[int] | Tensor", device: torch.device | str = "cpu") -> "Draw":
        """Rows at their first step, one for each of the seeds."""
        seed = torch.as_tensor(seeds, dtype=torch.int64).to(device)
        return Draw(seed, torch.zeros_like(seed))

    def of(self, stream: str) -> "Draw":
        """The draws of that name in the same step: independent of those of every other name."""
        return self._replace(stream=_stream_number(stream))

    def next(self) -> "Draw":
        """The same rows one step later."""
        return self._replace(step=self.step + 1)

    def to(self, device: torch.device | str) -> "Draw":
        """The same draws on another device."""
        return self._replace(seed=self.seed.to(device), step=self.step.to(device))


def _stream_number(name: str) -> int:
    """16 bits of the name's hash: what the samplers have room for."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "little")


def row_seeds(seed: int, num_rows: int, device: torch.device | str = "cpu") -> Tensor:
    """(num_rows,) int64: distinct seeds for rows that share one; row 0 has the seed itself."""
    steps = (
        torch.arange(num_rows, dtype=torch.int64, device=device) * 0x1E3779B97F4A7C15
    )  # wraps: odd, so all differ
    return (steps + seed) & 0x7FFFFFFFFFFFFFFF
