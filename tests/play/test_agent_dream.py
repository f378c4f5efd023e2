"""An agent's dream: seeded starts from the real game, the game beside it, and the way back."""

import numpy as np
import pytest
import torch

from iris_wm.agent import Agent, AgentConfig
from iris_wm.envs.config import EnvConfig
from iris_wm.envs.make import make_env
from iris_wm.play import agent_dream
from iris_wm.play.agent_dream import AgentDream
from iris_wm.policy.actor_critic import PolicyConfig
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig, VectorQuantizerConfig, to_uint8
from iris_wm.world.network import AutoregressivePrediction, ParallelPrediction, WorldConfig

CATCH = EnvConfig(id="iris_wm/Catch-v0")


PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(attention="block_causal"),
}


def tiny_agent(prediction: str = "autoregressive", num_actions: int = 3) -> Agent:
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(
        channels=8, latent_dim=8, num_residual_blocks=1, patch_size=4, channel_multipliers=(1, 1, 1),
        attention_resolutions=(),
    )  # fmt: skip
    world = WorldConfig(
        num_layers=2, num_heads=2, embed_dim=32, context_steps=6,
        prediction=PREDICTIONS[prediction],
    )  # fmt: skip
    tokenizer = TokenizerConfig(autoencoder, VectorQuantizerConfig(32, 8))
    agent = Agent(AgentConfig((num_actions,), (), tokenizer, world, PolicyConfig(hidden_size=16))).eval()
    with torch.no_grad():
        # Random weights end a dream at once and hardly look at what they are given.
        agent.world.termination_head[-1].bias.copy_(torch.tensor([9.0, -9.0]))
        for parameter in agent.world.transformer.parameters():
            parameter.mul_(4)
    return agent


@pytest.fixture(autouse=True)
def short_starts(monkeypatch):
    """Few steps up to each start: enough to fill the context of six."""
    monkeypatch.setattr(agent_dream, "_LONGEST_START", 10)


@pytest.fixture(params=["autoregressive", "parallel"])
def dream(request) -> AgentDream:
    return AgentDream(tiny_agent(request.param), make_env(CATCH), num_starts=6)


def play(dream: AgentDream, actions: list[int | None], start: int = 0, seed: int = 0) -> list:
    return [dream.reset(start, seed), *(dream.step(action) for action in actions)]


def test_the_first_frame_is_the_reconstruction_of_a_real_one(dream):
    first = dream.reset(0, 0)
    tokens = dream.agent.tokenizer.encode(first.real_frame[None])
    assert torch.equal(first.tokens, tokens[0])
    assert torch.equal(first.frame, to_uint8(dream.agent.tokenizer.decode(tokens))[0])
    assert first.frame.shape == first.real_frame.shape == (3, 64, 64)
    assert first.frame.dtype == first.real_frame.dtype == torch.uint8
    assert (first.step, first.action, first.reward, first.is_over) == (0, None, 0.0, False)
    assert 0 < first.drift < 1


def test_same_seed_same_dream_other_seed_another(dream):
    first, again, other = (play(dream, [None] * 12, seed=seed) for seed in (3, 3, 4))
    assert [frame.action for frame in first] == [frame.action for frame in again]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a.tokens, b.tokens) for a, b in zip(first, other, strict=True))


def test_starts_are_real_moments_that_do_not_depend_on_the_order_of_calls(dream):
    moments = [dream.reset(index, 0).real_frame for index in range(6)]
    fresh = AgentDream(dream.agent, make_env(CATCH), num_starts=6)
    assert torch.equal(fresh.reset(4, 9).real_frame, moments[4])
    assert len({moment.numpy().tobytes() for moment in moments}) > 2


@pytest.mark.parametrize(("game", "num_actions"), [("iris_wm/Catch-v0", 3), ("Breakout", 4)])
def test_the_game_beside_it_is_played_by_the_same_actions(game, num_actions):
    config = EnvConfig(id=game)
    dream = AgentDream(tiny_agent(num_actions=num_actions), make_env(config), num_starts=3)
    actions = [1, 2, 2, num_actions - 1, 0, 1]
    frames = play(dream, actions, start=2)
    env = make_env(config)
    env.reset(seed=0)
    env.restore(dream._starts[2].snapshot)
    for action, shown in zip(actions, frames[1:], strict=True):
        observation, reward, *_ = env.step(action)
        assert np.array_equal(shown.real_frame.permute(1, 2, 0), observation)
        assert shown.real_reward == reward
        gap = (shown.frame.float() - shown.real_frame.float()).abs().mean() / 255
        assert shown.drift == pytest.approx(float(gap))


def test_entropy_and_termination_are_the_worlds(dream):
    shown = play(dream, [0, 1])[-1]
    assert shown.entropy.shape == (16,)
    assert ((shown.entropy > 0) & (shown.entropy <= np.log(32) + 1e-4)).all()
    assert 0 <= shown.termination_probability < 0.01


def test_after_a_step_back_the_same_actions_bring_the_same_game_and_context(dream):
    dream.temperature = 0.0
    start = 0
    actions = [1, 2, 2, 1, 0]
    frames = play(dream, actions, start=start)
    for _ in range(3):
        shown = dream.back()
    assert shown is frames[2]
    again = [dream.step(action) for action in actions[2:]]
    for first, second in zip(frames[3:], again, strict=True):
        assert torch.equal(first.real_frame, second.real_frame)
        assert first.step == second.step


@pytest.mark.parametrize("prediction", ["autoregressive", "parallel"])
def test_a_step_back_rebuilds_the_worlds_context_exactly(prediction):
    """At temperature 0 the way on from a frame depends on the context alone."""
    agent = tiny_agent(prediction)
    dream = AgentDream(agent, make_env(CATCH), num_starts=40)
    dream.temperature = 0.0
    start = next(i for i in range(40) if dream._find_start(i).past.frames.shape[1] > 2)
    frames = play(dream, [1, 2, 2, 1], start=start)
    dream.back(), dream.back()
    again = [dream.step(2), dream.step(1)]
    for first, second in zip(frames[3:], again, strict=True):
        assert torch.equal(first.tokens, second.tokens)
        assert torch.equal(first.entropy, second.entropy)


def test_at_the_first_frame_a_step_back_stays(dream):
    first = dream.reset(0, 0)
    assert dream.back() is first
    assert dream.step(0).step == 1


def test_a_dream_outlives_its_context_and_its_history(dream, monkeypatch):
    monkeypatch.setattr(agent_dream, "_LONGEST_HISTORY", 10)
    dream = AgentDream(dream.agent, make_env(CATCH), num_starts=6)
    frames = play(dream, [2] * 30)
    assert frames[-1].step == 30
    steps = [dream.back().step for _ in range(15)]
    assert steps == [*range(29, 20, -1), *[21] * 6]
    assert dream.step(1).step == 22


def test_the_game_stays_at_its_end_while_the_dream_goes_on(dream):
    shown = dream.reset(0, 0)
    while not shown.is_real_over:
        shown = dream.step(1)
    last, after = shown.real_frame, dream.step(1)
    assert torch.equal(after.real_frame, last)
    assert after.is_real_over
    assert (after.drift, after.real_reward) == (None, 0.0)
    assert not dream.back().is_over
    assert dream.step(0).step == shown.step + 1


def test_a_dream_that_ended_says_so():
    agent = tiny_agent()
    with torch.no_grad():
        agent.world.termination_head[-1].bias.copy_(torch.tensor([-50.0, 50.0]))
    dream = AgentDream(agent, make_env(CATCH), num_starts=1)
    dream.reset(0, 0)
    shown = dream.step(0)
    assert shown.is_over
    assert shown.termination_probability > 0.99
    with pytest.raises(ValueError, match="step: the dream is over"):
        dream.step(0)
    assert dream.back().step == 0


def test_bad_input_is_named(dream):
    with pytest.raises(ValueError, match="step: there is no running dream; call reset first"):
        dream.step(0)
    with pytest.raises(ValueError, match="back: there is no running dream"):
        dream.back()
    with pytest.raises(ValueError, match="first_frame_index: got 6, expected 0 to 5"):
        dream.reset(6, 0)
    dream.reset(0, 0)
    with pytest.raises(ValueError, match="action: got 3, expected a whole number of 0 to 2"):
        dream.step(3)


def test_a_game_that_does_not_fit_the_agent_is_named():
    env = make_env(CATCH)
    with pytest.raises(
        ValueError, match=r"env: it has \(3,\) actions, but the agent was trained with \(6,\)"
    ):
        AgentDream(tiny_agent(num_actions=6), env)
    with pytest.raises(ValueError, match="num_starts: got 0"):
        AgentDream(tiny_agent(), env, num_starts=0)
    small = AgentDream(tiny_agent(), make_env(EnvConfig(id="iris_wm/Catch-v0", resolution=32)))
    with pytest.raises(ValueError, match=r"observations have shape \(32, 32, 3\)"):
        small.reset(0, 0)
