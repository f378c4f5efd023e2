"""A padded batch of pieces of episodes: what the networks train on."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Segment:
    """B pieces of T steps each, padded where an episode is shorter.

    frames: (B, T, C, H, W) uint8. actions: (B, T, n) int64. rewards: (B, T) float32.
    terminations: (B, T) bool. is_real: (B, T) bool, False where padded.
    frame_indices: (B, T) int64, where the frame stands in the replay (0 where padded).
    obs_tokens: (B, T, K) int64, where somebody has encoded the frames already.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    is_real: Tensor
    frame_indices: Tensor
    obs_tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @staticmethod
    def seen(frames: Tensor, actions: Tensor, is_real: Tensor | None = None) -> "Segment":
        """What was seen and done, (B, T, C, H, W), (B, T, n), to go on from: rewards and terminations are 0.

        actions may leave out the last step, whose action is still to be chosen. is_real: None where all are.
        """
        shape = frames.shape[:2]
        if actions.shape[1] < shape[1]:
            actions = torch.cat([actions, actions.new_zeros(shape[0], 1, actions.shape[2])], dim=1)
        zeros = torch.zeros(shape)
        is_real = torch.ones(shape, dtype=torch.bool) if is_real is None else is_real
        return Segment(frames, actions, zeros, zeros.bool(), is_real, zeros.long())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Segment":
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(value) for name, value in columns.items() if value is not None}
        return Segment(**changed)

    def to(self, device: torch.device | str) -> "Segment":
        """The same batch on another device."""
        return self._each(lambda column: column.to(device))

    def rows(self, rows: Tensor) -> "Segment":
        """Some of the pieces, (M,) int64 numbers."""
        return self._each(lambda column: column[rows.to(column.device)])

    @staticmethod
    def concatenate(parts: "list[Segment]") -> "Segment":
        """The pieces of all parts, which are of one length."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Segment)}
        known = {name: values for name, values in columns.items() if values[0] is not None}
        return Segment(**{name: torch.cat(values) for name, values in known.items()})
