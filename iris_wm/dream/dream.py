"""The one dreamer for people: dreams to watch, to play, to measure and to train in."""

from typing import Generic

import torch
from torch import Tensor

from iris_wm.data.segment import Segment
from iris_wm.protocols import Outcome, S, World
from iris_wm.streams import Draw, stream_seed


def dream_seed(seed: int, episode: int = 0) -> int:
    """The seed of a dream's draws: through every door, the same start, seed and actions bring the same dream."""
    return stream_seed(seed, "dream", episode)


class Dream(Generic[S]):
    """B dreams of a world. Rows are independent: each has its start and its seed, and begins again alone.

    Args:
        world: where.
        past: (B, T) real steps, padding in front; the last frame is where each dream begins.
        seeds: of each row's draws, see `dream_seed`.
    """

    def __init__(self, world: World[S], past: Segment, seeds: list[int]) -> None:
        self.world = world
        self.state = world.observe(past)
        self.draw = Draw.start(seeds)

    def step(self, actions: Tensor) -> Outcome:
        """Dream what the actions (B, n) int64 bring."""
        self.state, outcome = self.world.step(self.state, actions, self.draw)
        self.draw = self.draw.next()
        return outcome

    def restart(self, rows: Tensor, past: Segment, seeds: list[int]) -> None:
        """Let the rows (M,) int64 begin at other starts with other seeds."""
        self.state = self.world.put(self.state, rows, self.world.observe(past))
        seed, step = self.draw.seed.clone(), self.draw.step.clone()
        seed[rows], step[rows] = torch.tensor(seeds), 0
        self.draw = Draw(seed, step)

    def keep(self) -> S:
        """A copy of the state, to come back to."""
        return self.world.fork(self.state, torch.arange(len(self.draw.seed)))

    def go_back(self, state: S, seeds: list[int]) -> None:
        """Go on from a state that keep gave, which stays as it is, with draws that belong to these seeds."""
        self.draw = Draw.start(seeds)
        self.state = self.world.fork(state, torch.arange(len(seeds)))

    @property
    def frames(self) -> Tensor:
        """(B, C, H, W) uint8, the current frames; ValueError for a world without pictures."""
        frames = self.world.frames(self.state)
        if frames is None:
            raise ValueError("frames: this world has no decoder, so its dreams cannot be shown")
        return frames.cpu()
