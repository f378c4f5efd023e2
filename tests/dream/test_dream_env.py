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
from iris_wm.data.segment import Segment
from iris_wm.dream.env import DreamEnv, DreamVectorEnv
from iris_wm.tokenizer.tokenizer import FiniteScalarQuantizerConfig, to_uint8

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


def test_real_steps_before_the_start_are_seen(one_agent, frames):
    past, actions = frames[None, :6], torch.tensor([[0, 1, 2, 1, 0]])[..., None]
    with_past = DreamEnv(one_agent, Segment.seen(past, actions), temperature=0)
    padded = DreamEnv(
        one_agent,
        Segment.seen(past.roll(3, 1), actions, torch.tensor([[False] * 5 + [True]])),
        temperature=0,
    )
    without = DreamEnv(one_agent, past[:, 2], temperature=0)
    thinks = []
    for env in (with_past, padded, without):
        env.reset(seed=0)
        thinks.append(env.step(0)[4]["reward_probabilities"])
    assert not np.allclose(thinks[0], thinks[2])
    assert np.allclose(thinks[1], thinks[2], atol=1e-5), "what is padding is not seen"


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


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal but for the last bit: a convolution rounds a batch otherwise than a single frame."""
    return bool((np.abs(one.astype(int) - other.astype(int)) <= 1).all())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows_of_a_batch_dream_what_they_dream_alone(agent, frames, mode):
    """Whenever their neighbours end and start again: row i of seed s is DreamEnv of seed s + i."""
    past = frames[:15].unfold(0, 4, 1)[:12].permute(0, 4, 1, 2, 3)
    starts = Segment.seen(past, (torch.arange(36).view(12, 3, 1) % 3))
    env = DreamVectorEnv(agent, starts, 4, horizon=7, autoreset_mode=mode)
    observations, infos = env.reset(seed=11)
    alone = [DreamEnv(agent, starts, horizon=7) for _ in range(4)]
    now = [each.reset(seed=11 + i) for i, each in enumerate(alone)]
    is_over = np.zeros(4, dtype=bool)
    for t in range(25):
        for i, (observation, info) in enumerate(now):
            assert alike(observations[i], observation)
            assert (infos["obs_tokens"][i] == info["obs_tokens"]).all()
            assert infos["first_frame"][i] == info["first_frame"]
        actions = (np.arange(4) + t) % 3
        observations, _, terminations, truncations, infos = env.step(actions)
        for i, each in enumerate(alone):
            if is_over[i]:  # NextStep: this step only shows the next start
                now[i], is_over[i] = each.reset(), False
                continue
            observation, _, terminated, truncated, info = each.step(actions[i])
            assert (terminated, truncated) == (terminations[i], truncations[i])
            now[i], is_over[i] = (observation, info), terminated or truncated
            if is_over[i] and mode is AutoresetMode.SAME_STEP:
                assert alike(infos["final_obs"][i], observation)
                now[i], is_over[i] = each.reset(), False


def test_made_by_name_from_a_run(run_folder):
    env = gymnasium.make("iris_wm/Dream-v0", run=run_folder, horizon=5)
    observation, _ = env.reset(seed=1)
    assert observation.shape == (16, 16, 3)
    env.step(0)
    starts = env.unwrapped._dreams.starts
    assert len(starts) == 30 + 20
    # Frames are filled with their step: the past must be the steps before, and its actions theirs.
    steps = starts.frames[:, :, 0, 0, 0].int()
    places = torch.arange(-3, 1) + steps[:, -1:]
    is_there = places % 100 == places - 100 * (steps[:, -1:] >= 100)
    is_there &= places >= 100 * (steps[:, -1:] >= 100)
    assert torch.equal(starts.is_real, is_there)
    assert (steps == places)[is_there].all()
    taken = (steps % 100 + (steps >= 100)) % 3
    assert (starts.actions[:, :-1, 0] == taken[:, :-1])[is_there[:, :-1]].all()
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
        (lambda: DreamEnv(agent, frames.float()), "first_frames: got float32"),
        (lambda: DreamEnv(agent, frames[0]), "first_frames: got uint8 .3, 16, 16., expected uint8"),
        (lambda: DreamEnv(agent, frames[:, :, :8]), "first_frames: got uint8"),
        (lambda: DreamEnv(agent, frames[:0]), "at least one frame"),
        (lambda: DreamEnv(SimpleNamespace(tokenizer=1), frames), "expected an agent with a world"),
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


@pytest.mark.parametrize("case", range(22))
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
