"""What an epoch consists of: short, interruptible steps in IRIS's order.

Collect, then train the tokenizer, the world model and the actor-critic in turn, then perhaps evaluate.
"""

from dataclasses import dataclass
from typing import Literal

from iris_wm.optimization import OptimizationConfig
from iris_wm.runs.config import RunConfig

Component = Literal["collection", "tokenizer", "world", "policy", "evaluation"]
NETWORKS: tuple[Component, ...] = ("tokenizer", "world", "policy")
COLLECTION_CHUNK = 50


@dataclass(frozen=True)
class Phase:
    """steps of one component in a row; the last collection step may be shorter than the others."""

    component: Component
    num_steps: int


def optimization_of(config: RunConfig, network: str) -> OptimizationConfig:
    """How a network is trained."""
    found: OptimizationConfig = getattr(config, network).optimization
    return found


def num_collection_steps(config: RunConfig, epoch: int) -> int:
    """Environment steps of an epoch, counted from 1."""
    if epoch > config.collection.stop_after_epoch:
        return 0
    return config.collection.first_epoch_env_steps if epoch == 1 else config.collection.env_steps_per_epoch


def phases(config: RunConfig, epoch: int) -> list[Phase]:
    """The phases of an epoch, counted from 1; empty ones are left out."""
    chunk = COLLECTION_CHUNK * config.collection.num_envs
    plan = [Phase("collection", -(-num_collection_steps(config, epoch) // chunk))]
    for network in NETWORKS:
        plan.append(Phase(network, optimization_of(config, network).num_steps(epoch)))
    every = config.evaluation.every_epochs
    plan.append(Phase("evaluation", int(bool(every) and epoch % every == 0)))
    return [phase for phase in plan if phase.num_steps]


def num_steps(config: RunConfig, epoch: int) -> int:
    """Steps of all components in an epoch, counted from 1."""
    return sum(phase.num_steps for phase in phases(config, epoch))
