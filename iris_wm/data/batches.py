"""Draws the batches of a run: each is a function of (seed, learner, epoch, index) and the source alone."""

import torch
from torch import Tensor

from iris_wm.data.segment import Segment
from iris_wm.protocols import Learner, Source
from iris_wm.streams import stream_generator


class Batches:
    """What learners take from a source; rank keeps the processes of a distributed run apart."""

    def __init__(self, source: Source, seed: int, rank: int = 0) -> None:
        self.source, self.seed, self.rank = source, seed, rank

    def segment(self, learner: Learner, epoch: int, index: int) -> Segment:
        """The batch of a learner's index-th step in an epoch, where the source is."""
        return self.source.gather(*self._indices(learner, epoch, index))

    def frames_needed(self, learner: Learner, epoch: int) -> Tensor:
        """(num_steps of the source,) bool: the frames that a learner will be given in an epoch."""
        needed = torch.zeros(self.source.num_steps, dtype=torch.bool)
        for index in range(learner.optimization.num_steps(epoch)):
            needed[self._indices(learner, epoch, index)[0].flatten()] = True
        return needed

    def _indices(self, learner: Learner, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        generator = stream_generator(self.seed, f"{learner.name} batch {epoch} rank {self.rank}", index)
        return self.source.indices(learner.pieces, generator)
