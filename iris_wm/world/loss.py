"""Losses of the world model: three cross-entropies, padding left out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_wm.config import Config, PositiveFloat
from iris_wm.world.network import WorldNetwork, WorldOutput

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
        obs_tokens: (B, T, K) int64. rewards: (B, T) float, their sign is learned. terminations: (B, T) bool.
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
    reward_labels = (rewards.sign() + 1).long()
    reward_loss = _event_loss(output.reward_logits, reward_labels, is_real, rewards != 0, config)
    termination_loss = _event_loss(
        output.termination_logits, terminations.long(), is_real, terminations, config
    )
    return {
        "observation_loss": observation_loss,
        "reward_loss": reward_loss,
        "termination_loss": termination_loss,
    }


def _event_loss(
    logits: Tensor, labels: Tensor, is_real: Tensor, is_event: Tensor, config: WorldLossConfig
) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    weights = is_real.float() * torch.where(is_event, config.rare_event_weight, 1.0)
    return (losses * weights.flatten()).sum() / weights.sum()
