"""Lambda-returns and the three terms of the actor-critic's loss, by hand."""

import math
from typing import Any

import pytest
import torch

from iris_wm.policy.actor_critic import PolicyOutput
from iris_wm.policy.loss import PPO, PolicyLossConfig, Targets, lambda_returns, policy_loss, policy_targets
from iris_wm.spaces import ActionDistribution
from iris_wm.two_hot import mean_of, two_hot_values


def test_lambda_returns_by_hand():
    """gamma 1/2, lambda 1/2: every number below can be checked with a pencil."""
    rewards = torch.tensor([[1.0, 0.0, 2.0, 9.0]])
    values = torch.tensor([[8.0, 4.0, 6.0, 10.0]])
    ends = torch.zeros(1, 4, dtype=torch.bool)
    # G3 = v3 = 10; G2 = 2 + (v3 + G3) / 4 = 7; G1 = 0 + (v2 + G2) / 4 = 3.25; G0 = 1 + (v1 + G1) / 4 = 2.8125
    returns = lambda_returns(rewards, values, ends, gamma=0.5, lambda_=0.5)
    assert returns.tolist() == [[2.8125, 3.25, 7.0, 10.0]]


def test_a_termination_ends_the_sum():
    rewards = torch.tensor([[1.0, 5.0, 2.0, 9.0]])
    values = torch.tensor([[8.0, 4.0, 6.0, 10.0]])
    ends = torch.tensor([[False, True, False, False]])
    # G1 = 5, nothing after it; G0 = 1 + (v1 + G1) / 4
    returns = lambda_returns(rewards, values, ends, gamma=0.5, lambda_=0.5)
    assert returns.tolist() == [[3.25, 5.0, 7.0, 10.0]]


def test_extremes_of_lambda():
    """1: discounted rewards and the last value. 0: one step and the next value."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(3, 6, generator=generator) for _ in range(2))
    ends = torch.zeros(3, 6, dtype=torch.bool)
    whole = lambda_returns(rewards, values, ends, gamma=0.9, lambda_=1.0)
    expected = sum(0.9**i * rewards[:, i] for i in range(5)) + 0.9**5 * values[:, 5]
    assert torch.allclose(whole[:, 0], expected, atol=1e-5)
    one_step = lambda_returns(rewards, values, ends, gamma=0.9, lambda_=0.0)
    assert torch.allclose(one_step[:, :-1], rewards[:, :-1] + 0.9 * values[:, 1:], atol=1e-6)


def test_the_last_reward_is_beyond_the_horizon():
    values = torch.zeros(1, 3)
    ends = torch.zeros(1, 3, dtype=torch.bool)
    first = lambda_returns(torch.tensor([[0.0, 0.0, 0.0]]), values, ends, 0.9, 0.9)
    second = lambda_returns(torch.tensor([[0.0, 0.0, 5.0]]), values, ends, 0.9, 0.9)
    assert torch.equal(first, second)


@pytest.fixture
def rollout() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "distribution": ActionDistribution(torch.randn(2, 3, 4, generator=generator), (4,)),
        "values": torch.randn(2, 3, generator=generator),
        "actions": torch.randint(4, (2, 3, 1), generator=generator),
        "rewards": torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]]),
        "terminations": torch.tensor([[False, False, False], [True, False, False]]),
    }


def output_of(rollout: dict[str, Any]) -> PolicyOutput:
    return PolicyOutput(rollout["distribution"], rollout["values"])


def targets_of(rollout: dict[str, Any], config: PolicyLossConfig) -> Targets:
    played = (rollout[name] for name in ("actions", "rewards", "terminations"))
    return policy_targets(output_of(rollout), *played, config)


def loss_of(rollout: dict[str, Any], config: PolicyLossConfig) -> dict[str, torch.Tensor]:
    """Of the policy that acted."""
    return policy_loss(output_of(rollout), rollout["actions"], targets_of(rollout, config), config)


def by_hand(rollout: dict[str, Any], config: PolicyLossConfig, counted: list) -> dict[str, float]:
    """The loss over the (b, t) in counted, in plain Python."""
    returns = lambda_returns(
        rollout["rewards"], rollout["values"], rollout["terminations"], config.gamma, config.lambda_
    )
    policy, entropy, value = 0.0, 0.0, 0.0
    for b, t in counted:
        exps = [math.exp(logit) for logit in rollout["distribution"].logits[b, t].tolist()]
        probabilities = [each / sum(exps) for each in exps]
        advantage = returns[b, t].item() - rollout["values"][b, t].item()
        policy -= math.log(probabilities[rollout["actions"][b, t]]) * advantage
        entropy -= sum(p * math.log(p) for p in probabilities)
        value += advantage**2
    num = len(counted)
    return {
        "policy_loss": policy / num,
        "entropy_loss": -config.entropy_weight * entropy / num,
        "value_loss": value / num,
    }


def test_loss_by_hand(rollout):
    """The last step has no return of its own, so it is left out; steps after a termination count."""
    config = PolicyLossConfig(gamma=0.9, lambda_=0.8, entropy_weight=0.1)
    expected = by_hand(rollout, config, [(b, t) for b in range(2) for t in range(2)])
    losses = loss_of(rollout, config)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_stop_at_termination_by_hand(rollout):
    """The terminating step itself still counts."""
    config = PolicyLossConfig(gamma=0.9, lambda_=0.8, entropy_weight=0.1, stop_at_termination=True)
    expected = by_hand(rollout, config, [(0, 0), (0, 1), (1, 0)])
    losses = loss_of(rollout, config)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_return_normalization(rollout, scale):
    """Advantages are divided by the returns' spread, at least 1; values still learn unscaled returns."""
    rollout["rewards"] = rollout["rewards"] * scale
    plain = loss_of(rollout, PolicyLossConfig())
    config = PolicyLossConfig(return_normalization="batch")
    normalized = loss_of(rollout, config)
    returns = lambda_returns(
        rollout["rewards"], rollout["values"], rollout["terminations"], config.gamma, config.lambda_
    )[:, :-1]
    spread = max(1.0, (returns.quantile(0.95) - returns.quantile(0.05)).item())
    assert normalized["policy_loss"].item() == pytest.approx(plain["policy_loss"].item() / spread, rel=1e-4)
    assert torch.equal(normalized["value_loss"], plain["value_loss"])
    assert spread > 10 or scale == 1.0


@pytest.mark.parametrize("scale", [0.03, 100.0])
def test_deviation_makes_the_loss_blind_to_the_rewards_scale(rollout, scale):
    """By the advantages' deviation, both terms: of the plain loss, and of rewards and values in another unit."""
    plain = loss_of(rollout, PolicyLossConfig())
    config = PolicyLossConfig(return_normalization="deviation")
    normalized = loss_of(rollout, config)
    scaled = {**rollout, "rewards": rollout["rewards"] * scale, "values": rollout["values"] * scale}
    for name, value in loss_of(scaled, config).items():
        assert value.item() == pytest.approx(normalized[name].item(), rel=1e-4), name
    returns = lambda_returns(
        rollout["rewards"], rollout["values"], rollout["terminations"], config.gamma, config.lambda_
    )[:, :-1]
    deviation = (returns - rollout["values"][:, :-1]).std().item()
    assert normalized["policy_loss"].item() == pytest.approx(
        plain["policy_loss"].item() / deviation, rel=1e-4
    )
    assert normalized["value_loss"].item() == pytest.approx(
        plain["value_loss"].item() / deviation**2, rel=1e-4
    )
    assert torch.equal(normalized["entropy_loss"], plain["entropy_loss"])


def test_a_rollout_without_news_moves_nothing(rollout):
    """All advantages zero: the least deviation keeps the loss finite."""
    zeros = {name: torch.zeros_like(rollout[name]) for name in ("rewards", "values")}
    losses = loss_of({**rollout, **zeros}, PolicyLossConfig(return_normalization="deviation"))
    assert losses["policy_loss"] == 0
    assert losses["value_loss"] == 0


def test_returns_carry_no_gradient(rollout):
    """The value learns towards a fixed return, and the policy's term moves no value."""
    values = rollout["values"].clone().requires_grad_()
    logits = rollout["distribution"].logits.clone().requires_grad_()
    rollout |= {"values": values, "distribution": ActionDistribution(logits, (4,))}
    losses = loss_of(rollout, PolicyLossConfig())
    losses["policy_loss"].backward(retain_graph=True)
    assert values.grad is None
    assert not logits.grad[:, -1].any()
    losses["value_loss"].backward()
    returns = lambda_returns(rollout["rewards"], rollout["values"], rollout["terminations"], 0.995, 0.95)
    expected = 2 * (rollout["values"] - returns)[:, :-1].detach() / 4
    assert torch.allclose(values.grad[:, :-1], expected, atol=1e-6)
    assert not values.grad[:, -1].any()


def test_low_precision_outputs_are_compared_in_float32(rollout):
    low = {
        **rollout,
        "values": rollout["values"].bfloat16(),
        "distribution": ActionDistribution(rollout["distribution"].logits.bfloat16(), (4,)),
    }
    for name, value in loss_of(low, PolicyLossConfig()).items():
        assert value.dtype == torch.float32, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 1.5}, "gamma: got 1.5, expected a number from 0 to 1"),
        ({"gamma": float("nan")}, "gamma: got nan, expected a number from 0 to 1"),
        ({"lambda_": -0.1}, "lambda_: got -0.1, expected a number from 0 to 1"),
        ({"entropy_weight": -1.0}, "entropy_weight: got -1.0, expected a number of at least 0"),
        ({"entropy_weight": float("inf")}, "entropy_weight: got inf"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PolicyLossConfig(**values)


def test_ppo_by_hand(rollout):
    """Gains stop growing with an action's probability outside of 1 +- clip; at first they have REINFORCE's gradient."""
    config = PolicyLossConfig(gamma=0.9, lambda_=0.8, update=PPO(clip=0.1))
    targets = targets_of(rollout, config)
    logits = rollout["distribution"].logits.clone().requires_grad_()
    same = ActionDistribution(logits, rollout["distribution"].sizes)
    gradients = []
    for each in (config, PolicyLossConfig(gamma=0.9, lambda_=0.8)):
        loss = policy_loss(PolicyOutput(same, rollout["values"]), rollout["actions"], targets, each)[
            "policy_loss"
        ]
        gradients.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
    torch.testing.assert_close(*gradients)

    moved = ActionDistribution(logits.detach() * 3, rollout["distribution"].sizes)
    loss = policy_loss(PolicyOutput(moved, rollout["values"]), rollout["actions"], targets, config)[
        "policy_loss"
    ]
    expected = 0.0
    for b in range(2):
        for t in range(2):
            action = rollout["actions"][b, t]
            before, now = (
                each.logits[b, t].softmax(-1)[action].item() for each in (rollout["distribution"], moved)
            )
            advantage = targets.advantages[b, t].item()
            expected -= min(now / before * advantage, min(max(now / before, 0.9), 1.1) * advantage) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert abs(now / before - 1) > 0.1


def test_targets_of_some_rows_keep_their_shares(rollout):
    targets = targets_of(rollout, PolicyLossConfig(stop_at_termination=True))
    part = targets.rows(torch.tensor([1]))
    torch.testing.assert_close(part.weights.sum(), torch.tensor(1.0))
    assert torch.equal(part.returns, targets.returns[1:])


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_two_hot_values_learn_their_returns(rollout, scale):
    """By gradient steps on the loss alone the values become the returns, whatever their size."""
    rollout["rewards"], rollout["values"] = rollout["rewards"] * scale, torch.zeros(2, 3)
    config = PolicyLossConfig(gamma=0.9, lambda_=0.8)
    targets, bins = targets_of(rollout, config), two_hot_values(255)
    logits = torch.zeros(2, 3, 255, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(300):
        output = PolicyOutput(rollout["distribution"], rollout["values"], logits)
        optimizer.zero_grad()
        policy_loss(output, rollout["actions"], targets, config)["value_loss"].backward()
        optimizer.step()
    values = mean_of(logits.detach().softmax(-1), bins)[:, :-1]
    torch.testing.assert_close(values, targets.returns, atol=0.02 * scale, rtol=0.02)
