"""The whole configuration of a run; a YAML file of configs/ holds one."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from iris_wm.agent import AgentConfig
from iris_wm.collection import CollectionConfig
from iris_wm.config import (
    Config,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    to_mapping,
)
from iris_wm.data.replay import ReplayConfig
from iris_wm.dream.rollout import ImaginationConfig
from iris_wm.envs import EnvConfig
from iris_wm.policy.actor_critic import PolicyConfig
from iris_wm.policy.learner import PolicyLearnerConfig
from iris_wm.spaces import ActionSpace
from iris_wm.tokenizer.learner import PatchesLearnerConfig, TokenizerLearnerConfig
from iris_wm.tokenizer.patches import PatchesConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig
from iris_wm.world.learner import WorldLearnerConfig
from iris_wm.world.network import WorldConfig

_Base = TypeVar("_Base")


def _as(cls: type[_Base], config: _Base) -> _Base:
    """The fields of a dataclass alone, of one that adds to it."""
    return cls(**{each.name: getattr(config, each.name) for each in fields(cls) if each.init})  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingConfig(Config):
    """How long the run goes on and when it is saved; how a network is trained stands in its own section."""

    num_epochs: PositiveInt = 600
    """When the run is finished; a finished run goes on when it is raised."""
    checkpoint_every_minutes: PositiveFloat = 5.0
    """Longest time between two checkpoints."""
    checkpoint_every_epochs: PositiveInt = 10
    """Most epochs between two checkpoints."""
    max_minutes: NonNegativeFloat = 0.0
    """Save and stop, resumable, after so many minutes in this process; 0: no limit."""


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """Playing the real game to measure the agent, not to learn."""

    every_epochs: NonNegativeInt = 5
    """0: never during training."""
    num_episodes: PositiveInt = 16
    """Whole games."""
    num_envs: PositiveInt = 8
    """Played side by side."""
    policy_temperature: NonNegativeFloat = 0.5
    """Of the draws of actions; 0 takes the most likely. The paper's."""
    max_steps: PositiveInt = 27000
    """Agent steps an episode may take (27,000 of 4 emulator frames are the 108,000 frames of the Atari protocol)."""


@dataclass(frozen=True)
class TrainerConfig(Config):
    """What Lightning's Trainer is told."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: a GPU where there is one."""
    devices: PositiveInt = 1
    """More than one train together (DDP)."""
    timeout_minutes: PositiveFloat = 5.0
    """Longest wait of processes that train together for one another; then the run ends."""
    precision: Literal["32", "bf16"] = "32"
    """bf16: networks run under bfloat16 autocast, the quantizer's distances and all losses stay float32."""
    num_threads: NonNegativeInt = 0
    """CPU threads of torch; 0 leaves torch's choice. Bit-exact resume needs the same number."""


@dataclass(frozen=True)
class RunConfig(Config):
    """Everything that defines a run."""

    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """All randomness of the run follows from it."""
    env: EnvConfig = field(default_factory=EnvConfig)
    tokenizer: TokenizerLearnerConfig | PatchesLearnerConfig = field(default_factory=TokenizerLearnerConfig)
    """autoencoder: trained. patches: the squares of the frame are looked up in a table that grows."""
    world: WorldLearnerConfig = field(default_factory=WorldLearnerConfig)
    policy: PolicyLearnerConfig = field(default_factory=PolicyLearnerConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env.resolution != self.tokenizer.resolution:
            raise ValueError(
                f"env.resolution: got {self.env.resolution}, expected the tokenizer's ({self.tokenizer.resolution})"
            )
        longest = self.world.max_past
        if self.imagination.context == "burn_in" and self.imagination.burn_in > longest:
            raise ValueError(
                f"imagination.burn_in: got {self.imagination.burn_in}, expected at most {longest} "
                f"(what fits into world.context_steps: {self.world.context_steps} before the current "
                f"frame and the next) where imagination.context is burn_in"
            )

    def agent_config(self, actions: ActionSpace) -> AgentConfig:
        """The shape of the three networks for a game of these actions, without how they are trained."""
        return AgentConfig(
            actions.sizes,
            actions.names,
            _as(PatchesConfig, self.tokenizer)
            if isinstance(self.tokenizer, PatchesConfig)
            else _as(TokenizerConfig, self.tokenizer),
            _as(WorldConfig, self.world),
            _as(PolicyConfig, self.policy),
        )

    def identity(self) -> dict[str, Any]:
        """What must not change in a run: all but how long it trains, what is measured, and on which machine."""
        mapping = to_mapping(self)
        for name in ("trainer", "evaluation"):
            del mapping[name]
        for name in ("num_epochs", "checkpoint_every_minutes", "checkpoint_every_epochs", "max_minutes"):
            del mapping["training"][name]
        return mapping

    @property
    def total_env_steps(self) -> int:
        """Agent steps that a whole run collects."""
        epochs = min(self.collection.stop_after_epoch, self.training.num_epochs)
        if epochs == 0:
            return 0
        return self.collection.first_epoch_env_steps + (epochs - 1) * self.collection.env_steps_per_epoch
