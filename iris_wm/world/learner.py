"""How the world model is trained: on segments of tokens, by three cross-entropies that leave padding out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_wm.config import Config, PositiveFloat
from iris_wm.data.replay import Batches
from iris_wm.data.segment import Segment
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Named, Pieces
from iris_wm.streams import Draw
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.world.network import WorldConfig, WorldNetwork, WorldOutput

IGNORED = -100


@dataclass(frozen=True)
class WorldLossConfig(Config):
    """All 1 and 0 in the paper."""

    rare_event_weight: PositiveFloat = 1.0
    """Weight of steps with a reward or a termination in those two losses; above 1 counters their rarity."""


def world_loss(
    world: WorldNetwork,
    output: WorldOutput,
    obs_tokens: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    is_real: Tensor,
    config: WorldLossConfig | None = None,
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss (IRIS, section 2.2).

    Args:
        world: which knows which row predicts which token.
        output: of WorldNetwork.forward.
        obs_tokens: (B, T, K) int64. rewards: (B, T) float. terminations: (B, T) bool.
        is_real: (B, T) bool, False where padded. Predicted in one pass, these may have one step more than the output
            has seen; only its frame is learned.
        config: weights of rare events.
    """
    config = config or WorldLossConfig()
    rows, labels = world.observation_targets(obs_tokens.masked_fill(~is_real.unsqueeze(-1), IGNORED))
    summed = F.cross_entropy(
        output.observation_logits[:, rows].flatten(0, 1).float(), labels.flatten(), reduction="sum"
    )
    num_steps = output.reward_logits.shape[1]
    rewards, terminations, is_real = (
        rewards[:, :num_steps],
        terminations[:, :num_steps],
        is_real[:, :num_steps],
    )
    # In a small batch every piece may be a single step, whose next frame is not known.
    observation_loss = summed / (labels != IGNORED).sum().clamp_min(1)
    reward_labels = world.reward_labels(rewards)
    reward_loss = _event_loss(output.reward_logits, reward_labels, is_real, rewards != 0, config)
    ends = torch.stack([~terminations, terminations], dim=-1).float()
    termination_loss = _event_loss(output.termination_logits, ends, is_real, terminations, config)
    return {
        "observation_loss": observation_loss,
        "reward_loss": reward_loss,
        "termination_loss": termination_loss,
    }


def _event_loss(
    logits: Tensor, labels: Tensor, is_real: Tensor, is_event: Tensor, config: WorldLossConfig
) -> Tensor:
    """labels: shares, of the shape of logits."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(0, 1), reduction="none")
    weights = is_real.float() * torch.where(is_event, config.rare_event_weight, 1.0)
    return (losses * weights.flatten()).sum() / weights.sum()


@dataclass(frozen=True)
class WorldLearnerConfig(WorldConfig):
    """The transformer, its loss and its optimization."""

    loss: WorldLossConfig = field(default_factory=WorldLossConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(start_after_epoch=25, weight_decay=0.01)
    )


class WorldLearner:
    """A Learner."""

    name = "world"

    def __init__(self, config: WorldLearnerConfig, network: WorldNetwork, cache: TokenCache) -> None:
        self.config, self.network, self.cache = config, network, cache
        self.optimization = config.optimization
        self.pieces = Pieces(config.optimization.batch_size, config.segment_steps)
        cache.add_reader(self)

    def begin_phase(self, batches: Batches, epoch: int) -> None:
        """Encode the epoch's frames."""
        self.cache.prepare(batches, epoch)

    def losses(self, segment: Segment, draw: Draw) -> Iterator[tuple[Named, Named]]:
        """See Learner."""
        obs_tokens, num_steps = self.cache.obs_tokens(segment.frame_indices), self.config.context_steps
        output = self.network(obs_tokens[:, :num_steps], segment.actions[:, :num_steps])
        losses = world_loss(
            self.network,
            output,
            obs_tokens,
            segment.rewards,
            segment.terminations,
            segment.is_real,
            self.config.loss,
        )
        yield losses, {}
