"""Given the published weights, we compute what published IRIS computes."""

import os

import pytest
import torch

from iris_wm.agent import Agent, AgentConfig
from iris_wm.interop.published_iris import (
    agent_from_published,
    config_from_published,
    load_published,
    published_state,
)
from iris_wm.policy.actor_critic import policy_inputs
from iris_wm.policy.loss import lambda_returns
from iris_wm.streams import Draw
from iris_wm.tokenizer.learner import TokenizerLossConfig, tokenizer_loss
from iris_wm.world.learner import world_loss
from iris_wm.world.network import BlockPrediction, WorldConfig
from iris_wm.world.token_layout import RotaryPositions
from iris_wm.world.token_world import SamplingConfig

DEVICE = os.environ.get("IRIS_TEST_DEVICE", "cpu")
torch.backends.cudnn.allow_tf32 = False  # ten bits are not enough for 1e-4


@pytest.fixture(scope="module")
def agent(golden_state, golden_manifest) -> Agent:
    agent = agent_from_published(golden_state, num_heads=golden_manifest["config"]["heads"])
    return agent.to(DEVICE).eval()


@pytest.fixture(scope="module")
def golden(golden):
    return {name: tensor.to(DEVICE) for name, tensor in golden.items()}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.abs().max()
    assert (actual - expected).abs().max() <= 1e-4 * scale


def test_tokenizer(agent, golden):
    frames = golden["frames"]
    with torch.no_grad():
        latents = agent.tokenizer.latents(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    assert_close(latents, golden["latents"])
    tokens = agent.tokenizer.encode(frames)
    assert torch.equal(tokens, golden["tokens"])
    assert_close(agent.tokenizer.decode(tokens), golden["reconstructions"])


def test_world(agent, golden):
    with torch.no_grad():
        output = agent.world(golden["tokens"], golden["actions"][..., None])
    assert_close(output.hidden, golden["hidden"])
    assert_close(output.observation_logits, golden["logits_observations"])
    assert_close(output.reward_logits, golden["logits_rewards"])
    assert_close(output.termination_logits, golden["logits_ends"])


def test_losses(agent, golden, golden_manifest):
    expected = golden_manifest["losses"]
    frames = golden["frames"].flatten(0, 1)
    output = agent.tokenizer.train()(frames)
    losses = tokenizer_loss(
        output, agent.tokenizer.normalize(frames), TokenizerLossConfig(l1=1.0, l2=0.0, max_pixel=0.0)
    )
    agent.eval()
    assert losses["commitment_loss"].item() == pytest.approx(
        expected["tokenizer"]["commitment_loss"], rel=1e-4
    )
    reconstruction = expected["tokenizer"]["reconstruction_loss"]
    assert losses["reconstruction_loss"].item() == pytest.approx(reconstruction, rel=1e-4)

    with torch.no_grad():
        output = agent.world(golden["tokens"], golden["actions"][..., None])
    losses = world_loss(
        agent.world,
        output,
        golden["tokens"],
        golden["batch_rewards"],
        golden["batch_ends"].bool(),
        golden["batch_mask"],
    )
    for ours, theirs in (("observation", "obs"), ("reward", "rewards"), ("termination", "ends")):
        value = expected["world_model"][f"loss_{theirs}"]
        assert losses[f"{ours}_loss"].item() == pytest.approx(value, rel=1e-4)


def test_policy_and_value(agent, golden):
    reconstructions = golden["reconstructions"]
    state = agent.start(len(reconstructions))
    for t in range(reconstructions.shape[1]):
        with torch.no_grad():
            output, state = agent.policy(reconstructions[:, t], state)
        assert_close(output.actions.logits, golden["policy_logits"][:, t])
        assert_close(output.values, golden["values"][:, t])
    with torch.no_grad():
        hidden, last = agent.policy.sequence(reconstructions, agent.start(len(reconstructions)))
        output = agent.policy.heads(hidden)
    assert_close(output.actions.logits, golden["policy_logits"])
    assert_close(output.values, golden["values"])
    assert_close(last.cell, state.cell)


def test_lambda_returns(golden):
    returns = lambda_returns(
        golden["lambda_rewards"], golden["lambda_values"], golden["lambda_ends"], gamma=0.995, lambda_=0.95
    )
    assert_close(returns, golden["lambda_returns"])


def test_argmax_rollout_through_the_cache(agent, golden):
    world = agent.new_world(SamplingConfig(temperature=0.0), should_measure=True)
    actions = golden["rollout_actions"][..., None]
    state = world.observe_tokens(golden["tokens"][:, :1], actions[:, :0])
    for t in range(actions.shape[1]):
        state, outcome = world.step(state, actions[:, t], Draw.start([0] * len(actions)))
        assert torch.equal(state.obs_tokens, golden["rollout_tokens"][:, t])
        shares = golden["rollout_reward_logits"][:, t].softmax(-1)
        assert_close(outcome.measures["reward_probabilities"], shares)
        ends = golden["rollout_end_logits"][:, t].softmax(-1)[:, 1]
        assert_close(outcome.termination_probability, ends)
        assert_close(agent.tokenizer.decode(state.obs_tokens), golden["rollout_frames"][:, t])


def test_policy_sees_reconstructions(agent, golden):
    inputs = policy_inputs(agent.tokenizer, agent.policy, golden["tokens"])
    assert_close(inputs, golden["reconstructions"])


def test_writes_the_published_format(agent, golden_state, golden_manifest):
    state = published_state(agent)
    buffers = golden_manifest["buffers"]
    assert state.keys() == golden_state.keys() | buffers.keys()
    for key, value in golden_state.items():
        assert torch.equal(state[key], value), key
    for key, (shape, dtype) in buffers.items():
        assert list(state[key].shape) == shape
        assert str(state[key].dtype) == dtype
    again = agent_from_published(state, num_heads=golden_manifest["config"]["heads"])
    assert all(torch.equal(value, again.weights()[key]) for key, value in agent.weights().items())


def test_paper_size_survives_the_round_trip(tmp_path):
    agent = Agent(AgentConfig(action_sizes=(6,)))
    torch.save(published_state(agent), tmp_path / "last.pt")
    loaded = load_published(tmp_path / "last.pt")
    assert loaded.config == agent.config
    assert all(torch.equal(value, loaded.weights()[key]) for key, value in agent.weights().items())


@pytest.mark.parametrize("values", [{"prediction": BlockPrediction()}, {"positions": RotaryPositions()}])
def test_worlds_that_the_format_cannot_express_are_refused(values):
    agent = Agent(AgentConfig(action_sizes=(6,), world=WorldConfig(num_layers=1, embed_dim=16, **values)))
    with pytest.raises(ValueError, match="predicts autoregressively from learned positions"):
        published_state(agent)


def test_parameter_counts_match_the_paper():
    agent = Agent(AgentConfig(action_sizes=(6,)))
    counts = [
        sum(parameter.numel() for parameter in network.parameters()) / 1e6
        for network in (agent.tokenizer, agent.world, agent.policy)
    ]
    assert [round(count, 2) for count in counts] == [4.03, 8.45, 3.22]


def test_foreign_files_are_refused_in_one_line(tmp_path, golden_state):
    broken = dict(golden_state)
    del broken["world_model.pos_emb.weight"]
    with pytest.raises(ValueError, match=r"world_model\.pos_emb\.weight is missing"):
        config_from_published(broken)
    with pytest.raises(ValueError, match=r"1 unknown tensors, first surprise"):
        agent_from_published(golden_state | {"surprise": torch.zeros(1)}, num_heads=2)
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="not a published IRIS checkpoint"):
        load_published(tmp_path / "page.pt")
    with pytest.raises(ValueError, match="no such file"):
        load_published(tmp_path / "missing.pt")
