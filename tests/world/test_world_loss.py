"""The three cross-entropies, every term written out by hand."""

import math

import pytest
import torch

from iris_wm.spaces import ActionSpace
from iris_wm.world.learner import WorldLossConfig, world_loss
from iris_wm.world.network import (
    AutoregressivePrediction,
    BlockPrediction,
    ParallelPrediction,
    WorldConfig,
    WorldNetwork,
    WorldOutput,
)

PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(),
    "block": BlockPrediction(),
}

K, V, T = 2, 5, 3


def new_world(prediction: str = "autoregressive") -> WorldNetwork:
    config = WorldConfig(
        num_layers=1, num_heads=1, embed_dim=4, context_steps=T, prediction=PREDICTIONS[prediction]
    )
    return WorldNetwork(config, V, K, ActionSpace.discrete(2))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two segments of three steps; the second has one real step only."""
    generator = torch.Generator().manual_seed(0)
    return {
        "obs_tokens": torch.randint(V, (2, T, K), generator=generator),
        "rewards": torch.tensor([[0.0, 4.0, -0.5], [1.0, 0.0, 0.0]]),
        "terminations": torch.tensor([[False, False, True], [False, True, True]]),
        "is_real": torch.tensor([[True, True, True], [True, False, False]]),
    }


@pytest.fixture
def output() -> WorldOutput:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, T * (K + 1), 4), (2, T * K, V), (2, T, 3), (2, T, 2))
    return WorldOutput(*(torch.randn(shape, generator=generator) for shape in shapes))


def nll(logits: torch.Tensor, label: int) -> float:
    """-log softmax(logits)[label], in plain Python."""
    values = logits.tolist()
    return math.log(sum(math.exp(value) for value in values)) - values[label]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(("prediction", "ahead"), [("autoregressive", 1), ("parallel", K)])
def test_observation_loss_by_hand(batch, output, prediction, ahead):
    losses = world_loss(new_world(prediction), output, **batch)
    terms = []
    for b, num_real in enumerate((T, 1)):
        tokens = batch["obs_tokens"][b].flatten()
        # The label of row n is frame token n + ahead, as long as that one is real.
        terms += [
            nll(output.observation_logits[b, n], int(tokens[n + ahead])) for n in range(num_real * K - ahead)
        ]
    assert losses["observation_loss"].item() == pytest.approx(mean(terms), rel=1e-5)


def test_reward_and_termination_losses_by_hand(batch, output):
    losses = world_loss(new_world(), output, **batch)
    real = [(0, 0), (0, 1), (0, 2), (1, 0)]
    signs = [0, 1, -1, 1]  # of 0, 4, -0.5 and 1
    expected = mean([nll(output.reward_logits[at], sign + 1) for at, sign in zip(real, signs, strict=True)])
    assert losses["reward_loss"].item() == pytest.approx(expected, rel=1e-5)
    ends = [0, 0, 1, 0]
    expected = mean([nll(output.termination_logits[at], end) for at, end in zip(real, ends, strict=True)])
    assert losses["termination_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_rare_events_weigh_more(batch, output):
    losses = world_loss(new_world(), output, **batch, config=WorldLossConfig(10.0))
    real, signs, ends = [(0, 0), (0, 1), (0, 2), (1, 0)], [0, 1, -1, 1], [0, 0, 1, 0]
    rewards = [nll(output.reward_logits[at], sign + 1) for at, sign in zip(real, signs, strict=True)]
    expected = (rewards[0] + 10 * sum(rewards[1:])) / 31
    assert losses["reward_loss"].item() == pytest.approx(expected, rel=1e-5)
    terminations = [nll(output.termination_logits[at], end) for at, end in zip(real, ends, strict=True)]
    expected = (terminations[0] + terminations[1] + 10 * terminations[2] + terminations[3]) / 13
    assert losses["termination_loss"].item() == pytest.approx(expected, rel=1e-5)
    plain = world_loss(new_world(), output, **batch)
    assert torch.equal(losses["observation_loss"], plain["observation_loss"])


def test_padding_never_counts(batch, output):
    """Whatever stands in padded places, labels or logits, the losses and gradients are the same."""
    other = {name: value.clone() for name, value in batch.items()}
    padded = ~batch["is_real"]
    other["obs_tokens"][padded] = 0
    other["rewards"][padded] = -7
    other["terminations"][padded] = False
    noisy = [value.clone() for value in output]
    noisy[1][1, K:] += 100  # rows of padded steps
    noisy[2][padded] -= 50
    noisy[3][padded] += 50
    first = world_loss(new_world(), output, **batch)
    second = world_loss(new_world(), WorldOutput(*noisy), **other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_gradient_of_padding_is_zero(batch, output):
    logits = [value.clone().requires_grad_() for value in output]
    losses = world_loss(new_world(), WorldOutput(*logits), **batch)
    torch.stack(list(losses.values())).sum().backward()
    assert not logits[2].grad[~batch["is_real"]].any()
    assert not logits[3].grad[~batch["is_real"]].any()
    assert logits[2].grad[batch["is_real"]].abs().sum(-1).all()
    # Rows whose label lies beyond the real part: the last real row, and everything after it.
    assert not logits[1].grad[1, K - 1 :].any()


def test_a_batch_of_single_steps_has_no_next_frame(batch, output):
    """In parallel prediction there is then nothing to learn about frames; the loss is 0, not 0 / 0."""
    batch["is_real"] = torch.tensor([[True, False, False], [True, False, False]])
    losses = world_loss(new_world("parallel"), output, **batch)
    assert losses["observation_loss"].item() == 0
    assert all(torch.isfinite(value) for value in losses.values())


def test_low_precision_logits_are_compared_in_float32(batch, output):
    low = WorldOutput(*(value.bfloat16() for value in output))
    for name, value in world_loss(new_world(), low, **batch).items():
        assert value.dtype == torch.float32, name


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_weights_are_refused(value):
    with pytest.raises(ValueError, match=r"rare_event_weight: got .*, expected a number above 0"):
        WorldLossConfig(value)
