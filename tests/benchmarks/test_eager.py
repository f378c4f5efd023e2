"""The eager reference computes what the package computes, so their speeds may be compared."""

import pytest
import torch
from eager import EagerReference

from iris_wm.policy.actor_critic import policy_inputs
from iris_wm.streams import Draw
from iris_wm.tokenizer.learner import TokenizerLossConfig, tokenizer_loss
from iris_wm.world.learner import world_loss
from iris_wm.world.token_world import SamplingConfig

B = 3


@pytest.fixture(scope="module")
def agent(tiny_agent):
    return tiny_agent("world.context_steps=5").eval()


@pytest.fixture(scope="module")
def reference(agent) -> EagerReference:
    return EagerReference(agent)


@pytest.fixture
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (B, 3, 64, 64), dtype=torch.uint8, generator=generator)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokenizer(agent, reference, frames):
    tokens = agent.tokenizer.encode(frames)
    assert torch.equal(reference.encode(frames), tokens)
    assert close(reference.decode(tokens), agent.tokenizer.decode(tokens))
    output = agent.tokenizer.train()(frames)
    agent.eval()
    losses = tokenizer_loss(
        output, agent.tokenizer.normalize(frames), TokenizerLossConfig(l1=1.0, l2=0.0, max_pixel=0.0)
    )
    assert close(reference.tokenizer_loss(frames), torch.stack(list(losses.values())).sum())


@torch.no_grad()
def test_world(agent, reference, frames):
    segment = frames[:, None].expand(-1, 4, -1, -1, -1)
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(3, (B, 4, 1), generator=generator)
    rewards = torch.randint(-1, 2, (B, 4), generator=generator).float()
    ends = torch.rand(B, 4, generator=generator) < 0.3
    tokens = agent.tokenizer.encode(segment)
    ours, theirs = agent.world(tokens, actions), reference.sequence(tokens, actions)
    assert close(theirs["observation"], ours.observation_logits)
    assert close(theirs["reward"], ours.reward_logits)
    assert close(theirs["termination"], ours.termination_logits)
    losses = world_loss(agent.world, ours, tokens, rewards, ends, torch.ones_like(ends))
    dropout = agent.config.world.dropout
    object.__setattr__(agent.config.world, "dropout", 0.0)
    try:
        loss = reference.world_loss(segment, actions, rewards, ends)
    finally:
        object.__setattr__(agent.config.world, "dropout", dropout)
    assert close(loss, torch.stack(list(losses.values())).sum())


@torch.no_grad()
def test_roll_out_of_likeliest_tokens_over_the_end_of_the_context(agent, reference, frames):
    tokens = agent.tokenizer.encode(frames)
    world = agent.new_world(SamplingConfig(temperature=0.0))
    state = world.observe_tokens(tokens[:, None], torch.zeros(B, 0, 1, dtype=torch.int64))
    reference.reset(tokens)
    generator = torch.Generator().manual_seed(2)
    for t in range(9):
        actions = torch.randint(3, (B, 1), generator=generator)
        is_last = t == 8
        draw = Draw.start([0] * B)
        state, ours = world.step(state, actions, draw, needs_frame=not is_last)
        obs_tokens, rewards, ends = reference.step(actions, is_last=is_last, is_greedy=True)
        assert torch.equal(obs_tokens, state.obs_tokens)
        assert torch.equal(rewards, ours.rewards)
        assert torch.equal(ends, ours.terminations)


@torch.no_grad()
def test_policy(agent, reference, frames):
    tokens = agent.tokenizer.encode(frames)
    inputs = policy_inputs(agent.tokenizer, agent.policy, tokens)
    state = agent.start(B)
    output, state = agent.policy(inputs, state)
    logits, values, memory = reference.policy(inputs, tuple(agent.start(B)))
    assert close(logits, output.actions.logits)
    assert close(values, output.values)
    assert close(memory[1], state.cell)


def test_losses_have_gradients(reference, frames):
    loss = reference.policy_loss(frames[:, None].expand(-1, 3, -1, -1, -1), horizon=3)
    loss.backward()
    assert all(weight.grad is not None for weight in reference.weights["policy"])


def test_other_agents_are_refused(tiny_agent):
    with pytest.raises(ValueError, match="the reference is autoregressive"):
        EagerReference(tiny_agent("policy.inputs=tokens"))
