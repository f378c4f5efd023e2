"""Dreams as Gymnasium environments: the contract, the window, new starts in a batch, bad input."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import iris_wm  # noqa: F401 (registers the environments)
from iris_wm.agent import Agent
from iris_wm.dream.dream_batch import DreamBatch, DreamStarts
from iris_wm.dream.env import DreamEnv, DreamVectorEnv
from iris_wm.dream.token_env import SamplingConfig
from iris_wm.tokenizer.quantizer import FiniteScalarQuantizerConfig
from iris_wm.tokenizer.tokenizer import to_uint8

NEVER_ENDS = 1e9


def without_ends(agent, monkeypatch):
    """The same agent, dreaming no terminations."""
    bias = agent.world.termination_head[2].bias
    monkeypatch.setattr(bias, "data", torch.tensor([NEVER_ENDS, 0.0]))


def play(env, seed, num_steps, options=None):
    """Observations, rewards and tokens of a dream by a fixed row of actions."""
    observation, info = env.reset(seed=seed, options=options)
    result = [(observation, 0.0, info["obs_tokens"])]
    for t in range(num_steps):
        observation, reward, terminated, truncated, info = env.step(t % 3)
        result.append((observation, reward, info["obs_tokens"]))
        if terminated or truncated:
            break
    return result


def same(a, b):
    return len(a) == len(b) and all(
        (x[0] == y[0]).all() and x[1] == y[1] and (x[2] == y[2]).all() for x, y in zip(a, b, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*not recommended.*", "ignore:.*render.*", "ignore:.*spec.*")
def test_gymnasium_checks_it(agent, frames):
    check_env(DreamEnv(agent, frames, horizon=30), skip_render_check=True)


def test_same_seed_same_dream(agent, frames):
    env = DreamEnv(agent, frames, horizon=40)
    first, other = play(env, 5, 40), play(env, 6, 40)
    assert same(first, play(env, 5, 40))
    assert same(first, play(DreamEnv(agent, frames, horizon=40), 5, 40))
    assert not same(first, other)


def test_first_frame_by_number_or_frame(agent, frames):
    env = DreamEnv(agent, frames)
    by_number, info = env.reset(seed=0, options={"first_frame": 7})
    assert info["first_frame"] == 7
    expected = to_uint8(agent.tokenizer.reconstruct(frames[7:8]))[0].permute(1, 2, 0).numpy()
    assert (by_number == expected).all()
    for given in (frames[7], frames[7].numpy(), frames[7].permute(1, 2, 0).numpy()):
        observation, info = env.reset(seed=0, options={"first_frame": given})
        assert (observation == expected).all()
        assert info["first_frame"] == -1


def test_info_tells_what_the_world_thinks(agent, frames):
    env = DreamEnv(agent, frames)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(1)
    assert reward in (-1.0, 0.0, 1.0)
    assert info["obs_tokens"].shape == (4,)
    assert info["obs_tokens"].dtype == np.int64
    assert info["token_entropy"].shape == (4,)
    assert (info["token_entropy"] >= 0).all()
    assert (info["token_entropy"] <= np.log(32) + 1e-5).all()
    assert info["reward_probabilities"].sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= info["termination_probability"] <= 1


def test_horizon_truncates(one_agent, frames, monkeypatch):
    without_ends(one_agent, monkeypatch)
    env = DreamEnv(one_agent, frames, horizon=9)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(9)]
    assert ends == [(False, False)] * 8 + [(False, True)]
    with pytest.raises(ValueError, match="call reset first"):
        env.step(0)


def test_temperature_can_change_on_the_way(one_agent, frames, monkeypatch):
    without_ends(one_agent, monkeypatch)
    env = DreamEnv(one_agent, frames, temperature=0)
    greedy = play(env, 1, 5, {"first_frame": 3})
    assert same(greedy, play(env, 2, 5, {"first_frame": 3})), "the likeliest tokens need no seed"
    env.temperature = 1.0
    assert not same(greedy, play(env, 2, 5, {"first_frame": 3}))


def test_window_slides_as_a_fresh_context_of_the_last_steps(agent, frames, monkeypatch):
    """When the context is full, the next frame's distribution is that of the last kept steps alone."""
    without_ends(agent, monkeypatch)
    kept = 2
    env = DreamEnv(agent, frames, sampling=SamplingConfig(context_overflow="slide"), num_kept_steps=kept)
    batch: DreamBatch = env._dreaming.batch
    env.reset(seed=0)
    tokens, actions = [batch.obs_tokens[0]], []
    for t in range(30):
        action = t % 3
        _, _, _, _, info = env.step(action)
        actions.append(action)
        seen = batch.num_seen_steps
        window = torch.from_numpy(np.stack(tokens[len(tokens) - seen :]))[None]
        with torch.no_grad():
            output = agent.world(window, torch.tensor([actions[len(actions) - seen :]])[..., None])
        expected = output.termination_logits[0, -1].softmax(-1)[1]
        assert info["termination_probability"] == pytest.approx(float(expected), abs=1e-4)
        rewards = output.reward_logits[0, -1].softmax(-1).numpy()
        assert info["reward_probabilities"] == pytest.approx(rewards, abs=1e-3)
        tokens.append(info["obs_tokens"])
        assert min(t + 1, kept + 1) <= seen <= batch.max_past_steps + 1


def test_real_steps_before_the_start_are_seen(one_agent, frames):
    past, actions = frames[None, :5], torch.tensor([[0, 1, 2, 1, 0]])
    with_past = DreamEnv(one_agent, DreamStarts(frames[5:6], past, actions))
    without = DreamEnv(one_agent, frames[5:6])
    with_past.reset(seed=0)
    without.reset(seed=0)
    with_past.step(0)
    without.step(0)
    assert with_past._dreaming.batch.num_seen_steps == 1 + with_past._dreaming.batch.max_past_steps
    assert without._dreaming.batch.num_seen_steps == 1


def test_one_row_of_a_batch_is_a_dream(agent, frames, monkeypatch):
    without_ends(agent, monkeypatch)
    single = play(DreamEnv(agent, frames), 4, 20)
    env = DreamVectorEnv(agent, frames, 1)
    observations, infos = env.reset(seed=4)
    rows = [(observations[0], 0.0, infos["obs_tokens"][0])]
    for t in range(20):
        observations, rewards, _, _, infos = env.step(np.array([t % 3]))
        rows.append((observations[0], rewards[0], infos["obs_tokens"][0]))
    assert same(single, rows)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_modes(one_agent, frames, mode):
    env = DreamVectorEnv(one_agent, frames, 5, horizon=8, autoreset_mode=mode)
    assert env.metadata["autoreset_mode"] is mode
    observations, _ = env.reset(seed=0)
    assert observations.shape == (5, 16, 16, 3)
    ended = np.zeros(5, dtype=bool)
    num_ends = 0
    for _ in range(40):
        observations, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
        ends = terminations | truncations
        starts = infos["first_frame"]
        recon = to_uint8(one_agent.tokenizer.reconstruct(frames[starts])).permute(0, 2, 3, 1).numpy()
        if mode is AutoresetMode.NEXT_STEP:
            assert not ends[ended].any()
            assert (rewards[ended] == 0).all()
            assert (observations[ended] == recon[ended]).all()
            assert (infos["token_entropy"][ended] == 0).all()
        elif mode is AutoresetMode.SAME_STEP:
            assert (observations[ends] == recon[ends]).all()
            if ends.any():
                assert (infos["_final_obs"] == ends).all()
                assert all(infos["final_obs"][i].shape == (16, 16, 3) for i in np.flatnonzero(ends))
                assert infos["final_info"]["obs_tokens"].shape == (5, 4)
        elif ends.any():
            with pytest.raises(ValueError, match="reset_mask"):
                env.step(np.zeros(5, dtype=np.int64))
            before = observations.copy()
            observations, infos = env.reset(options={"reset_mask": ends})
            assert (observations[~ends] == before[~ends]).all()
            assert (infos["_obs_tokens"] == ends).all()
        ended = ends
        num_ends += int(ends.sum())
    assert num_ends > 10


def test_a_batch_with_new_starts_is_repeatable_and_sees_only_own_steps(one_agent, frames):
    """Every prediction in a batch with ends all over the place is that of the row's own last steps."""
    past = frames[:15].unfold(0, 3, 1)[:13].permute(0, 4, 1, 2, 3)
    starts = DreamStarts(frames[3:16], past, torch.arange(39).view(13, 3) % 3)
    dreams = []
    for _ in range(2):
        env = DreamVectorEnv(one_agent, starts, 4, horizon=7)
        env.reset(seed=11)
        batch = env._dreaming.batch
        rows = []
        generator = np.random.default_rng(0)
        for _ in range(25):
            tokens = batch._past_tokens.clone(), batch._past_actions.clone(), batch._tokens.clone()
            actions = generator.integers(3, size=4)
            has_ended = env._has_ended.copy()
            observations, _, _, _, infos = env.step(actions)
            seen = batch.num_seen_steps - 1
            for i in np.flatnonzero(~has_ended):
                first = batch.max_past_steps - seen
                window = torch.cat([tokens[0][i, first:], tokens[2][i : i + 1]])[None]
                taken = torch.cat([tokens[1][i, first:], torch.from_numpy(actions[i : i + 1, None])])[None]
                with torch.no_grad():
                    output = one_agent.world(window, taken)
                expected = output.termination_logits[0, -1].softmax(-1)[1]
                assert infos["termination_probability"][i] == pytest.approx(float(expected), abs=1e-4)
            assert seen >= 2, "starts with a past keep a context of steps"
            rows.append(observations)
        dreams.append(np.stack(rows))
    assert (dreams[0] == dreams[1]).all()


def test_made_by_name_from_a_run(run_folder):
    env = gymnasium.make("iris_wm/Dream-v0", run=run_folder, horizon=5)
    observation, _ = env.reset(seed=1)
    assert observation.shape == (16, 16, 3)
    env.step(0)
    starts = env.unwrapped._dreaming.starts
    assert len(starts) == 30 + 20 - 2 * 3
    # Frames are filled with their step: the past must be the steps before, and its actions theirs.
    first = starts.frames[:, 0, 0, 0].int()
    past = starts.past_frames[:, :, 0, 0, 0].int()
    assert (past == first[:, None] - torch.tensor([3, 2, 1])).all()
    assert (starts.past_actions[..., 0] == (past % 100 + (past >= 100)) % 3).all()
    many = gymnasium.make_vec("iris_wm/Dream-v0", num_envs=3, run=run_folder, autoreset_mode="SameStep")
    assert many.reset(seed=1)[0].shape == (3, 16, 16, 3)
    assert many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(many)
    wrapped.reset(seed=1)
    for _ in range(30):
        wrapped.step(many.action_space.sample())


def test_catch_is_registered():
    env = gymnasium.make("iris_wm/Catch-v0")
    assert env.reset(seed=0)[0].shape == (64, 64, 3)


def bad(agent, frames):
    """(what to do, what the line says)."""
    return [
        (lambda: DreamEnv(agent, frames, horizon=0), "horizon: got 0"),
        (lambda: DreamEnv(agent, frames, horizon=True), "horizon: got True"),
        (lambda: DreamEnv(agent, frames.float()), "first_frames: expected uint8"),
        (lambda: DreamEnv(agent, frames[0]), "first_frames: expected uint8"),
        (lambda: DreamEnv(agent, frames[:, :, :8]), "first_frames: expected uint8"),
        (lambda: DreamEnv(agent, frames[:0]), "at least one frame"),
        (lambda: DreamEnv(SimpleNamespace(tokenizer=1), frames), "no world"),
        (lambda: DreamEnv(agent, frames, num_kept_steps=99), "num_kept_steps: got 99"),
        (lambda: DreamEnv(agent, frames, temperature=-1), "temperature: got -1"),
        (lambda: DreamEnv(agent, frames, top_k=-1), "top_k: got -1"),
        (lambda: DreamEnv(agent, frames, render_mode="human"), "render_mode"),
        (lambda: DreamEnv(agent, frames).step(0), "call reset first"),
        (lambda: DreamVectorEnv(agent, frames, 0), "num_envs: got 0"),
        (lambda: DreamVectorEnv(agent, frames, 2, autoreset_mode="x"), "autoreset_mode: got 'x'"),
        (lambda: DreamVectorEnv(agent, frames, 2).step([0, 0]), "call reset first"),
        (lambda: DreamVectorEnv(agent, frames, 2).reset(seed=[1, 2]), "seed: got"),
        (lambda: DreamEnv(agent, frames).reset(options={"x": 1}), "unknown 'x'"),
        (lambda: DreamEnv(agent, frames).reset(options={"first_frame": 20}), "0 to 19"),
        (lambda: DreamEnv(agent, frames).reset(options={"first_frame": -1}), "0 to 19"),
        (lambda: DreamEnv(agent, frames).reset(options={"first_frame": 1.5}), "0 to 19"),
        (lambda: DreamEnv(agent, frames).reset(options={"first_frame": frames[0].float()}), "uint8"),
        (lambda: DreamEnv(agent, frames).reset(options={"first_frame": frames[0, :, :4]}), "uint8"),
        (
            lambda: DreamVectorEnv(agent, frames, 2).reset(options={"reset_mask": np.array([True, False])}),
            "first reset",
        ),
    ]


@pytest.mark.parametrize("case", range(23))
def test_bad_input_is_one_clear_line(case, one_agent, frames):
    action, text = bad(one_agent, frames)[case]
    with pytest.raises(ValueError, match=text) as error:
        action()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", [3, -1, 1.0, "left", None, [0, 1], True, np.float32(1)])
def test_bad_actions(action, one_agent, frames):
    env = DreamEnv(one_agent, frames)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action: ") as error:
        env.step(action)
    assert "\n" not in str(error.value)
    many = DreamVectorEnv(one_agent, frames, 2)
    many.reset(seed=0)
    with pytest.raises(ValueError, match="actions: "):
        many.step([action, action])


def test_runs_that_cannot_dream(tmp_path: Path, make_run):
    with pytest.raises(ValueError, match="not a run folder"):
        gymnasium.make("iris_wm/Dream-v0", run=tmp_path / "nothing")
    with pytest.raises(ValueError, match="world model is not trained yet"):
        gymnasium.make("iris_wm/Dream-v0", run=make_run(epoch=2))
    with pytest.raises(ValueError, match="num_starts: got 0"):
        gymnasium.make("iris_wm/Dream-v0", run=make_run(epoch=3), num_starts=0)
    with pytest.raises(ValueError, match="replay is empty"):
        gymnasium.make("iris_wm/Dream-v0", run=make_run(epoch=3, num_steps=0))


def test_an_agent_with_fsq_tokens_is_loaded_and_dreams(tmp_path: Path, frames, one_agent):
    config = one_agent.config
    tokenizer = dataclasses.replace(config.tokenizer, quantizer=FiniteScalarQuantizerConfig((4, 8)))
    agent = Agent(dataclasses.replace(config, tokenizer=tokenizer))
    loaded = Agent.load(agent.save(tmp_path / "agent"))
    assert same(play(DreamEnv(agent.eval(), frames), 0, 5), play(DreamEnv(loaded, frames), 0, 5))
