"""What the page plays: a dream that steps, steps back and starts again from another real frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class DreamFrame:
    """One dreamed frame, and what brought it.

    frame: (C, H, W) uint8. tokens: (K,) int64. step: dreamed steps since the start, 0 for the first frame.
    action: what was done to come here; None for the first frame. reward: what that brought.
    termination_probability: in [0, 1]. is_over: the dream terminated here.
    entropy: (K,) nats, how unsure the world model was of each token; zeros for the first frame.
    real_frame: (C, H, W) uint8, the game after the same actions; None where no game runs beside the dream.
    real_reward: what the game gave. is_real_over: the game ended here or before.
    drift: mean absolute difference of frame and real_frame in [0, 1]; None without real_frame.
    """

    frame: Tensor
    tokens: Tensor
    step: int
    action: int | None
    reward: float
    termination_probability: float
    is_over: bool
    entropy: Tensor
    real_frame: Tensor | None = None
    real_reward: float = 0.0
    is_real_over: bool = False
    drift: float | None = None


class Dream(Protocol):
    """A world model that one person plays at a time. Calls come from one thread after the other, never at once."""

    title: str
    codebook_size: int
    num_starts: int
    """How many real frames there are to start from."""
    temperature: float
    """Of the world model's draws; settable at any step, 0 takes the most likely token."""

    @property
    def action_names(self) -> Sequence[str]:
        """One name an action."""

    def reset(self, first_frame_index: int, seed: int) -> DreamFrame:
        """Starts from a real frame of 0 to num_starts - 1; the seed decides all later draws."""

    def step(self, action: int | None) -> DreamFrame:
        """Dreams one step; None lets the agent choose. ValueError for an action out of range or after the end."""

    def back(self) -> DreamFrame:
        """Returns to the frame before, from which the dream may go on differently; at the first frame it stays."""
