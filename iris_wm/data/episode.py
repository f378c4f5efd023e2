"""One life in a real or dreamed environment, as tensors."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass
class Episode:
    """T steps; row t holds the frame seen, the action taken in it, and what that action brought.

    frames: (T, C, H, W) uint8. actions: (T, n) int64. rewards: (T,) float32, as the environment gave them.
    terminations, truncations: (T,) bool; at most the last row is True.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            value = getattr(self, name)
            if value.dtype != dtype or len(value) != len(self.frames):
                raise ValueError(
                    f"Episode.{name}: expected {len(self.frames)} rows of {dtype}, "
                    f"got {len(value)} rows of {value.dtype}"
                )
        if self.actions.dim() != 2:
            raise ValueError(f"Episode.actions: expected (T, n), got {tuple(self.actions.shape)}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def episode_return(self) -> float:
        """Sum of rewards."""
        return float(self.rewards.sum())

    @property
    def is_finished(self) -> bool:
        """Whether the last step terminated or truncated the episode."""
        return bool(self.terminations[-1] | self.truncations[-1]) if len(self) else False

    def slice(self, start: int, stop: int) -> "Episode":
        """Steps start to stop as an episode of their own (a view)."""
        return Episode(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    @staticmethod
    def concatenate(parts: "list[Episode]") -> "Episode":
        """The parts one after the other."""
        return Episode(
            **{
                field.name: torch.cat([getattr(part, field.name) for part in parts])
                for field in fields(Episode)
            }
        )


_DTYPES = {
    "frames": torch.uint8,
    "actions": torch.int64,
    "rewards": torch.float32,
    "terminations": torch.bool,
    "truncations": torch.bool,
}


def to_frame(observation: np.ndarray) -> Tensor:
    """A Gymnasium observation (H, W, C) uint8 -> a frame of its own, (C, H, W) uint8."""
    return torch.from_numpy(observation).permute(2, 0, 1).contiguous()
