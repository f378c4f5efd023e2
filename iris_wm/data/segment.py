"""A padded batch of pieces of episodes: what the networks train on."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Segment:
    """B pieces of T steps each, padded where an episode is shorter.

    frames: (B, T, C, H, W) uint8. actions: (B, T, n) int64. rewards: (B, T) float32.
    terminations: (B, T) bool. is_real: (B, T) bool, False where padded.
    frame_indices: (B, T) int64, where the frame stands in the replay (0 where padded).
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    is_real: Tensor
    frame_indices: Tensor

    def to(self, device: torch.device | str) -> "Segment":
        """The same batch on another device."""
        return Segment(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})
