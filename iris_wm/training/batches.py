"""Draws the batches of an epoch: each is a function of (seed, epoch, component, index) and the replay alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_wm.data.replay import Replay
from iris_wm.data.segment import Segment
from iris_wm.runs.config import RunConfig
from iris_wm.streams import stream_generator
from iris_wm.training.schedule import Component, optimization_of, phases


@dataclass(frozen=True)
class Step:
    """What Lightning hands to training_step: the index-th step of a component in an epoch, of num_steps.

    The data is drawn when the step runs, not when it is handed out: Lightning asks one step ahead.
    """

    epoch: int
    component: Component
    index: int
    num_steps: int

    @property
    def is_last(self) -> bool:
        """Whether the component's phase ends with this step."""
        return self.index + 1 == self.num_steps


class EpochSteps:
    """The steps of one epoch in order, from a position on."""

    def __init__(self, config: RunConfig, epoch: int, position: int = 0) -> None:
        self.steps = [
            Step(epoch, phase.component, index, phase.num_steps)
            for phase in phases(config, epoch)
            for index in range(phase.num_steps)
        ]
        self.position = position

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps[self.position :])


class BatchSampler:
    """Draws segments for the networks; rank keeps the processes of a distributed run apart."""

    def __init__(self, config: RunConfig, replay: Replay, rank: int = 0) -> None:
        self.config, self.replay, self.rank = config, replay, rank

    def indices(self, component: Component, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """(frame_indices, is_real), both (B, T), of one batch, by IRIS's rules."""
        config = self.config
        generator = stream_generator(config.seed, f"{component} batch {epoch} rank {self.rank}", index)
        if component == "tokenizer":
            return self.replay.sample_indices(config.tokenizer.optimization.batch_size, 1, generator)
        if component == "world":
            length = config.world.segment_steps
            return self.replay.sample_indices(config.world.optimization.batch_size, length, generator)
        length = config.imagination.burn_in + 1
        return self.replay.sample_indices(
            config.policy.optimization.batch_size, length, generator, from_start=False
        )

    def sample(self, step: Step) -> Segment:
        """The batch of a step, on the replay's device."""
        return self.replay.gather(*self.indices(step.component, step.epoch, step.index))

    def frames_needed(self, epoch: int, component: Component) -> Tensor:
        """(num_steps of the replay,) bool: the frames that a network will see in an epoch."""
        needed = torch.zeros(self.replay.num_steps, dtype=torch.bool)
        for index in range(optimization_of(self.config, component).num_steps(epoch)):
            needed[self.indices(component, epoch, index)[0].flatten()] = True
        return needed
