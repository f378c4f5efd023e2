"""What is learned from what: the list of learners, and the list of what an epoch does, in IRIS's order.

To add a network, add its learner to the list that `iris_learners` returns (or hand `fit` a function of your own).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch

from iris_wm.agent import Agent, AgentConfig
from iris_wm.policy.learner import PolicyLearner
from iris_wm.protocols import Learner
from iris_wm.runs.config import RunConfig
from iris_wm.tokenizer.learner import new_learner
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.world.learner import WorldLearner
from iris_wm.world.token_world import SamplingConfig

COLLECTION_CHUNK = 50
Numbers = dict[str, float]
Report = Callable[[str, int, int], None]
"""Told what goes on inside a step, how much is done, and of how much; may raise to leave the step."""
MakeAgent = Callable[[AgentConfig], Agent]
MakeLearners = Callable[[RunConfig, Agent, Report], list[Learner]]


def iris_learners(config: RunConfig, agent: Agent, report: Report) -> list[Learner]:
    """The tokenizer learns from frames, the world from their tokens, the policy from what the world imagines."""
    cache = TokenCache(agent.tokenizer, partial(report, "encoding"))
    new_world = partial(
        agent.new_world,
        SamplingConfig(config.imagination.temperature),
        dtype=torch.bfloat16 if config.trainer.precision == "bf16" else torch.float32,
    )
    return [
        new_learner(config.tokenizer, agent.tokenizer, cache),
        WorldLearner(config.world, agent.world, cache),
        PolicyLearner(config.policy, agent.policy, cache, config.imagination, new_world, agent.look),
    ]


@dataclass(frozen=True)
class Step:
    """What Lightning hands to training_step: the index-th step of a phase in an epoch, of num_steps.

    Its data is drawn when it runs, not when it is handed out: Lightning asks one step ahead.
    """

    epoch: int
    component: str
    index: int
    num_steps: int
    work: Callable[["Step"], Numbers] = field(compare=False, repr=False)

    @property
    def is_last(self) -> bool:
        """Whether the phase ends with this step."""
        return self.index + 1 == self.num_steps

    @property
    def place(self) -> str:
        """For messages."""
        return f"epoch {self.epoch}, step {self.index}"


@dataclass(frozen=True)
class Phase:
    """num_steps(epoch) steps in a row, epochs counted from 1; work does one and returns what it measured."""

    component: str
    num_steps: Callable[[int], int]
    work: Callable[[Step], Numbers]


def phases(
    config: RunConfig,
    learners: list[Learner],
    collect: Callable[[Step], Numbers],
    learn: Callable[[Learner, Step], Numbers],
    evaluate: Callable[[Step], Numbers],
) -> list[Phase]:
    """What an epoch does: collect, train each network in turn, and every few epochs evaluate."""
    chunk, every = COLLECTION_CHUNK * config.collection.num_envs, config.evaluation.every_epochs
    return [
        Phase("collection", lambda epoch: -(-num_collection_steps(config, epoch) // chunk), collect),
        *(Phase(each.name, each.optimization.num_steps, partial(learn, each)) for each in learners),
        Phase("evaluation", lambda epoch: int(bool(every) and epoch % every == 0), evaluate),
    ]


def num_collection_steps(config: RunConfig, epoch: int) -> int:
    """Environment steps of an epoch, counted from 1."""
    if epoch > config.collection.stop_after_epoch:
        return 0
    return config.collection.first_epoch_env_steps if epoch == 1 else config.collection.env_steps_per_epoch


class EpochSteps:
    """The steps of one epoch in order, from a position on: what Lightning takes for a data loader."""

    def __init__(self, plan: list[Phase], epoch: int, position: int = 0) -> None:
        self.steps = [
            Step(epoch, phase.component, index, num_steps, phase.work)
            for phase in plan
            for num_steps in [phase.num_steps(epoch)]
            for index in range(num_steps)
        ]
        self.position = position

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps[self.position :])
