"""Vector environments: the same pixels as single ones, NEXT_STEP autoreset, and bad input before C++."""

import numpy as np
import pytest
import torch

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.vector import AtariVector, SequentialVector, make_vector_env


def pixels(observations):
    return torch.from_numpy(np.stack(observations)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_area_pixels_of_both_engines_are_equal(game):
    config = EnvConfig(game, resize="area", noop_max=0)
    vector = make_vector_env(config, 2, seed=4, is_test=True)
    assert isinstance(vector, AtariVector)
    singles = [make_env(config, is_test=True) for _ in range(2)]
    assert torch.equal(vector.reset(), pixels([env.reset(4 + i)[0] for i, env in enumerate(singles)]))
    choose = np.random.default_rng(0)
    for _ in range(100):
        actions = choose.integers(vector.num_actions, size=2)
        step = vector.step(actions)
        rows = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert torch.equal(step.frames, pixels([row[0] for row in rows]))
        assert step.rewards.tolist() == [row[1] for row in rows]
    vector.close()


def test_bilinear_runs_the_training_environments():
    config = EnvConfig("Pong")
    vector = make_vector_env(config, 2, seed=0)
    assert isinstance(vector, SequentialVector)
    single = make_env(config)
    frames = vector.reset(seeds=[8, 9])
    assert torch.equal(frames[1:], pixels([single.reset(9)[0]]))
    assert torch.equal(vector.step([0, 2]).frames[1:], pixels([single.step(2)[0]]))
    assert vector.action_names == single.action_names


@pytest.mark.parametrize(
    "config", [EnvConfig("Breakout", resize="area"), EnvConfig("Breakout")], ids=["c++", "python"]
)
def test_autoreset_happens_in_the_step_after_the_end(config):
    vector = make_vector_env(config, 2, seed=3, is_test=True)
    first = vector.reset()
    assert first.shape == (2, 3, 64, 64)
    assert first.dtype == torch.uint8
    ended, totals, num_resets = torch.zeros(2, dtype=torch.bool), torch.zeros(2), 0
    for count in range(700):
        step = vector.step(torch.tensor([count % 2, (count + 1) % 2]))
        assert [part.dtype for part in step[1:]] == [torch.float32, torch.bool, torch.bool, torch.bool]
        assert torch.equal(step.was_reset, ended)
        assert not step.rewards[ended].any()
        assert not (step.terminations | step.truncations)[ended].any()
        if ended.any():
            # A new game: the ball is not in play and all bricks stand, as in the very first frame.
            rows = slice(10, 60)
            assert torch.equal(step.frames[ended][0, :, rows, 10:50], first[0, :, rows, 10:50])
            num_resets += int(ended.sum())
        totals += step.rewards
        ended = step.terminations | step.truncations
        if num_resets >= 3:
            break
    assert num_resets >= 3
    vector.close()


def test_frame_limits_truncate_in_both_engines():
    for resize in ("area", "bilinear_then_max"):
        config = EnvConfig("Pong", resize=resize, max_emulator_frames=20, noop_max=0)
        vector = make_vector_env(config, 2, seed=0)
        vector.reset()
        history = [vector.step([0, 0]) for _ in range(12)]
        assert [bool(step.truncations.all()) for step in history] == [False] * 4 + [True] + [False] * 5 + [
            True,
            False,
        ]
        assert [bool(step.was_reset.all()) for step in history] == [False] * 5 + [True] + [False] * 5 + [True]
        assert not any(step.terminations.any() for step in history)
        vector.close()


def test_after_a_lost_life_cpp_goes_on_and_python_plays_one_no_op():
    for resize, resets in (("area", False), ("bilinear_then_max", True)):
        vector = make_vector_env(EnvConfig("Breakout", resize=resize), 1, seed=0)
        vector.reset()
        for count in range(200):
            if vector.step([count % 2]).terminations[0]:
                break
        step = vector.step([1])
        assert bool(step.was_reset[0]) == resets
        assert not step.terminations[0]
        vector.close()


def test_same_seeds_same_games_whatever_the_number_of_threads():
    def play(num_threads, seeds=None):
        vector = make_vector_env(EnvConfig("Seaquest", resize="area"), 3, 7, num_threads=num_threads)
        rows = [vector.reset(seeds)]
        rows += [vector.step([count % 18, count % 5, 1]).frames for count in range(60)]
        vector.close()
        return torch.stack(rows)

    assert torch.equal(play(1), play(2))
    assert torch.equal(play(1), play(1, [7, 8, 9]))
    assert not torch.equal(play(1), play(1, [8, 7, 9]))


def test_other_environments_run_in_python_too():
    vector = make_vector_env(EnvConfig("iris_wm/Catch-v0"), 3, seed=0)
    assert vector.reset().shape == (3, 3, 64, 64)
    assert vector.action_names == ["STAY", "LEFT", "RIGHT"]
    ends = torch.stack([vector.step([0, 1, 2]).terminations for _ in range(50)])
    assert (ends.sum(0) >= 1).all()


BAD = [
    [4, 0],
    [-1, 0],
    [0],
    [0, 0, 0],
    [0.0, 1.0],
    [float("nan"), 0],
    ["0", "1"],
    None,
    3,
    [[0, 1]],
    [True, False],
    [None, 1],
    [2**70, 0],
    torch.tensor([0.0, 1.0]),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("resize", ["area", "bilinear_then_max"])
def test_bad_actions_never_reach_the_emulator(resize):
    vector = make_vector_env(EnvConfig("Breakout", resize=resize), 2, seed=0)
    with pytest.raises(ValueError, match="call reset first"):
        vector.step([0, 0])
    vector.reset()
    for actions in BAD:
        with pytest.raises(ValueError, match=r'env "Breakout": actions'):
            vector.step(actions)
    with pytest.raises(ValueError, match=r"actions\[1\]: expected 0 to 3, got 4"):
        vector.step([0, 4])
    vector.step(np.array([0, 3], dtype=np.uint8))
    vector.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("resize", ["area", "bilinear_then_max"])
def test_bad_arguments_are_refused(resize):
    config = EnvConfig("Breakout", resize=resize)
    for num_envs in (0, -1, 1.0, True, 10**9, "2"):
        with pytest.raises(ValueError, match="num_envs: expected a whole number from 1 to 1024"):
            make_vector_env(config, num_envs, 0)
    for seed in (-5, 1.5, None, True):
        with pytest.raises(ValueError, match="seed: expected a whole number"):
            make_vector_env(config, 1, seed)
    with pytest.raises(ValueError, match="num_threads"):
        make_vector_env(config, 1, 0, num_threads=-1)
    vector = make_vector_env(config, 2, 0)
    for seeds in ([0], [0, -5], [0, 1.5], [0, 1, 2], 7):
        with pytest.raises(ValueError, match="seed"):
            vector.reset(seeds)
    vector.reset([0, 2**63 - 1])
    vector.close()


def test_area_averages_do_not_enlarge():
    with pytest.raises(ValueError, match="resolution: area averages need at most 160, got 200"):
        make_vector_env(EnvConfig("Breakout", resize="area", resolution=200), 1, 0)
