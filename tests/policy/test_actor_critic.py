"""The policy's memory: many steps at once equal one after the other, and padding leaves no trace."""

import pytest
import torch

from iris_wm.policy.actor_critic import ActorCritic, FrameInputs, PolicyConfig, PolicyState, TokenInputs
from iris_wm.spaces import ActionSpace

B, T, A = 3, 5, 4


@pytest.fixture(scope="module", params=[FrameInputs(), TokenInputs(4)], ids=["frames", "tokens"])
def policy(request) -> ActorCritic:
    torch.manual_seed(0)
    config = PolicyConfig(request.param, hidden_size=24)
    return ActorCritic(config, ActionSpace.discrete(A), resolution=32, tokens_per_frame=6, embedding_dim=8)


@pytest.fixture(scope="module")
def inputs(policy) -> torch.Tensor:
    shape = (3, 32, 32) if policy.config.sees_frames else (6, 8)
    return torch.rand(B, T, *shape, generator=torch.Generator().manual_seed(0))


def random_state() -> PolicyState:
    generator = torch.Generator().manual_seed(1)
    return PolicyState(*(torch.randn(B, 24, generator=generator) for _ in range(2)))


@torch.no_grad()
def test_sequence_equals_step_by_step(policy, inputs):
    first = state = random_state()
    hidden, last = policy.sequence(inputs, first)
    together = policy.heads(hidden)
    for t in range(T):
        output, state = policy(inputs[:, t], state)
        assert output.actions.logits.shape == (B, A)
        assert output.values.shape == (B,)
        assert torch.allclose(together.actions.logits[:, t], output.actions.logits, atol=1e-6)
        assert torch.allclose(together.values[:, t], output.values, atol=1e-6)
    assert torch.allclose(last.hidden, state.hidden, atol=1e-6)
    assert torch.allclose(last.cell, state.cell, atol=1e-6)


@torch.no_grad()
def test_padding_before_the_beginning_leaves_no_trace(policy, inputs):
    """Row b has b padded steps; its memory is that of its real steps alone."""
    is_real = torch.arange(T)[None, :] >= torch.arange(B)[:, None]
    _, state = policy.sequence(inputs, policy.initial_state(B), is_real)
    for row in range(B):
        _, alone = policy.sequence(inputs[row : row + 1, row:], policy.initial_state(1))
        assert torch.allclose(state.hidden[row], alone.hidden[0], atol=1e-6)
        assert torch.allclose(state.cell[row], alone.cell[0], atol=1e-6)


@torch.no_grad()
def test_nothing_real_changes_nothing(policy, inputs):
    first = random_state()
    hidden, last = policy.sequence(inputs, first, torch.zeros(B, T, dtype=torch.bool))
    assert torch.equal(last.hidden, first.hidden)
    assert torch.equal(last.cell, first.cell)
    assert torch.equal(hidden, first.hidden[:, None].expand_as(hidden))


@torch.no_grad()
def test_everything_real_equals_no_mask(policy, inputs):
    masked, _ = policy.sequence(inputs, random_state(), torch.ones(B, T, dtype=torch.bool))
    plain, _ = policy.sequence(inputs, random_state())
    assert torch.equal(masked, plain)


def test_initial_state_is_nothing(policy):
    state = policy.initial_state(2)
    assert state.hidden.shape == state.cell.shape == (2, 24)
    assert not state.hidden.any()
    assert not state.cell.any()


def test_gradient_reaches_features_and_memory(policy, inputs):
    policy.zero_grad()
    hidden, _ = policy.sequence(inputs, policy.initial_state(B))
    output = policy.heads(hidden[:, -1])
    (output.actions.logits.square().sum() + output.values.square().sum()).backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("resolution", "expected"), [(64, 1024), (32, 256), (16, 64)])
def test_number_of_features(resolution, expected):
    policy = ActorCritic(PolicyConfig(hidden_size=8), ActionSpace.discrete(A), resolution=resolution)
    assert policy.features.num_features == expected
    assert policy.features(torch.rand(1, 3, resolution, resolution)).shape == (1, expected)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="hidden_size: got 0, expected a whole number of at least 1"):
        PolicyConfig(hidden_size=0)
    with pytest.raises(ValueError, match="features: got 0, expected a whole number of at least 1"):
        TokenInputs(0)
