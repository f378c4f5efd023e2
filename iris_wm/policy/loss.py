"""Losses of the actor-critic: REINFORCE with a baseline, or PPO, on lambda-returns; and entropy."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_wm.config import Config, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from iris_wm.policy.actor_critic import PolicyOutput
from iris_wm.two_hot import two_hot


@dataclass(frozen=True)
class Reinforce(Config):
    """One update from each batch of roll-outs (the paper's)."""

    kind: Literal["reinforce"] = field(default="reinforce", init=False)


@dataclass(frozen=True)
class PPO(Config):
    """Several updates from each batch of roll-outs, held near the policy that acted (Schulman et al., 2017)."""

    kind: Literal["ppo"] = field(default="ppo", init=False)
    clip: PositiveFloat = 0.2
    """An action's probability may change by this share before it counts no more."""
    passes: PositiveInt = 3
    """Over every batch."""
    minibatches: PositiveInt = 2
    """Updates of each pass."""


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
    update: Reinforce | PPO = Reinforce()
    """What is made of a batch of roll-outs."""


class Targets(NamedTuple):
    """What a batch of roll-outs says, fixed before anything is learned from it.

    returns, advantages, weights: (B, T - 1) float32, weights add up to 1. value_scale: () what errors of the value are
    measured in. log_probs: (B, T - 1) of the actions, by the policy that chose them.
    """

    returns: Tensor
    advantages: Tensor
    weights: Tensor
    value_scale: Tensor
    log_probs: Tensor

    def rows(self, rows: Tensor) -> "Targets":
        """Of some of the roll-outs, (M,) int64 numbers."""
        weights = self.weights[rows]
        return Targets(
            self.returns[rows],
            self.advantages[rows],
            weights / weights.sum().clamp_min(1e-8),
            self.value_scale,
            self.log_probs[rows],
        )


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


@torch.no_grad()
def policy_targets(
    output: PolicyOutput,
    actions: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    config: PolicyLossConfig,
) -> Targets:
    """What there is to learn from a batch of roll-outs.

    Args:
        output: of the policy that acted, rows (B, T).
        actions: (B, T, n) int64; rewards: (B, T) float; terminations: (B, T) bool; as imagined.
        config: returns and weights.
    """
    values = output.values.float()
    returns = lambda_returns(rewards, values, terminations, config.gamma, config.lambda_)[:, :-1]
    advantages = returns - values[:, :-1]
    value_scale = torch.ones((), device=values.device)
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
    log_probs = output.actions[:, :-1].log_prob(actions[:, :-1])
    return Targets(returns, advantages, weights / weights.sum(), value_scale, log_probs)


def policy_loss(
    output: PolicyOutput,
    actions: Tensor,
    targets: Targets,
    config: PolicyLossConfig,
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss (IRIS, section 2.3 and appendix A.3; PPO, equation 7).

    Args:
        output: with gradient, of the policy as it is now, rows (B, T).
        actions: (B, T, n) int64, as imagined.
        targets: of the same roll-outs.
        config: returns and weights.
    """
    distribution = output.actions[:, :-1]
    taken, entropy = distribution.log_prob(actions[:, :-1]), distribution.entropy()
    gain = taken * targets.advantages
    if isinstance(config.update, PPO):
        ratio = (taken - targets.log_probs).exp()
        clipped = ratio.clamp(1 - config.update.clip, 1 + config.update.clip)
        gain = torch.minimum(ratio * targets.advantages, clipped * targets.advantages)
    if output.value_logits is None:
        errors = F.mse_loss(output.values.float()[:, :-1], targets.returns, reduction="none")
        errors = errors / targets.value_scale**2
    else:
        log_shares = output.value_logits[:, :-1].float().log_softmax(-1)
        errors = -(two_hot(targets.returns, log_shares.shape[-1]) * log_shares).sum(-1)
    return {
        "policy_loss": -(gain * targets.weights).sum(),
        "entropy_loss": -config.entropy_weight * (entropy * targets.weights).sum(),
        "value_loss": (errors * targets.weights).sum(),
    }
