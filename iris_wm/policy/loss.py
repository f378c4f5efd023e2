"""Losses of the actor-critic: REINFORCE with a baseline on lambda-returns, and entropy."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_wm.config import Config, Fraction, NonNegativeFloat
from iris_wm.spaces import ActionDistribution


@dataclass(frozen=True)
class PolicyLossConfig(Config):
    """Returns and weights; defaults are the paper's."""

    gamma: Fraction = 0.995
    """Discount of a reward one step later."""
    lambda_: Fraction = 0.95
    """0: one-step returns; 1: whole imagined returns."""
    entropy_weight: NonNegativeFloat = 0.001
    """Of the policy's entropy, which keeps it from settling too early."""
    return_normalization: Literal["none", "batch", "deviation"] = "none"
    """batch: advantages divided by the spread (95th - 5th percentile, at least 1) of the batch's returns.
    deviation: advantages and value errors divided by the standard deviation of the batch's advantages (at least
    0.001), so that returns far below 1 are not drowned by the entropy."""
    stop_at_termination: bool = False
    """Leave imagined steps after a termination out of the loss; the paper keeps them."""


def lambda_returns(
    rewards: Tensor, values: Tensor, terminations: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """G_t = r_t + gamma (1 - d_t) ((1 - lambda) v_{t+1} + lambda G_{t+1}), with G_T = v_T for the last step.

    All (B, T) -> (B, T) (Sutton and Barto, 2018, section 12.3).
    """
    returns = [values[:, -1]]
    discounts = gamma * (1 - terminations.float())
    for t in reversed(range(rewards.shape[1] - 1)):
        mixed = (1 - lambda_) * values[:, t + 1] + lambda_ * returns[-1]
        returns.append(rewards[:, t] + discounts[:, t] * mixed)
    return torch.stack(returns[::-1], dim=1)


def policy_loss(
    distribution: ActionDistribution,
    values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    config: PolicyLossConfig,
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss (IRIS, section 2.3 and appendix A.3).

    Args:
        distribution: of the actions, rows (B, T); values: (B, T); both with gradient.
        actions: (B, T, n) int64; rewards: (B, T) float; terminations: (B, T) bool; as imagined.
        config: returns and weights.
    """
    values = values.float()
    with torch.no_grad():
        returns = lambda_returns(rewards, values, terminations, config.gamma, config.lambda_)[:, :-1]
        advantages = returns - values[:, :-1]
        value_scale: Tensor | float = 1.0
        if config.return_normalization == "batch":
            low, high = (torch.quantile(returns.flatten(), share) for share in (0.05, 0.95))
            advantages = advantages / (high - low).clamp_min(1.0)
        elif config.return_normalization == "deviation":
            value_scale = advantages.std().clamp_min(1e-3)
            advantages = advantages / value_scale
        weights = torch.ones_like(returns)
        if config.stop_at_termination:
            ended_before = terminations[:, :-1].cumsum(1) - terminations[:, :-1].long()
            weights = (ended_before == 0).float()
        weights = weights / weights.sum()
    distribution = distribution[:, :-1]
    taken, entropy = distribution.log_prob(actions[:, :-1]), distribution.entropy()
    squared = F.mse_loss(values[:, :-1], returns, reduction="none")
    return {
        "policy_loss": -(taken * advantages * weights).sum(),
        "entropy_loss": -config.entropy_weight * (entropy * weights).sum(),
        "value_loss": (squared * weights).sum() / value_scale**2,
    }
