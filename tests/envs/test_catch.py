"""The toy game: its rules, its best and its random return, its speed, and Gymnasium's own checker."""

import time

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.catch import CatchEnv


def play(env, seed, choose):
    """(return, steps) of an episode."""
    env.reset(seed=seed)
    total, steps = 0.0, 0
    while True:
        _, reward, terminated, truncated, _ = env.step(choose(env))
        assert not truncated
        total += reward
        steps += 1
        if terminated:
            return total, steps


def test_the_scripted_policy_is_optimal():
    env = CatchEnv()
    results = {play(env, seed, CatchEnv.optimal_action) for seed in range(300)}
    assert results == {(CatchEnv.OPTIMAL_RETURN, 42)}


def test_random_actions_stay_near_the_bottom():
    env, generator = CatchEnv(), np.random.default_rng(0)
    returns = [play(env, seed, lambda _: int(generator.integers(3)))[0] for seed in range(1500)]
    # The standard deviation of a return is 1.2.
    assert abs(np.mean(returns) - CatchEnv.RANDOM_RETURN) < 4 * 1.2 / 1500**0.5
    assert min(returns) == -1


def test_a_caught_bomb_costs_one_and_ends_the_episode():
    def into_the_bomb(env):
        """Goes where the optimal policy would, had fruits and bombs changed places."""
        env._kinds = [not kind for kind in env._kinds]
        action = env.optimal_action()
        env._kinds = [not kind for kind in env._kinds]
        return action

    env = CatchEnv()
    for seed in range(30):
        env.reset(seed=seed)
        first_bomb = env._kinds.index(False)
        total, steps = play(env, seed, into_the_bomb)
        assert (total, steps) == (-1.0, 6 * (first_bomb + 1))


def test_the_picture_shows_what_matters():
    env = CatchEnv()
    frame, _ = env.reset(seed=0)
    marks = [len(np.unique(np.nonzero((frame[2] == (90, 110, 160)).all(-1))[0] // 8))]
    for _ in range(42):
        frame, _, terminated, _, _ = env.step(env.optimal_action())
        marks.append(len(np.unique(np.nonzero((frame[2] == (90, 110, 160)).all(-1))[0] // 8)))
        assert ((frame[59] == (250, 220, 70)).all(-1)).sum() == 16
    assert terminated
    assert marks == [6] * 6 + [5] * 6 + [4] * 6 + [3] * 6 + [2] * 6 + [1] * 6 + [0] * 7


def test_same_seed_same_episode():
    first, second = CatchEnv(), gymnasium.make("iris_wm/Catch-v0")
    for seed in (0, 1):
        assert np.array_equal(first.reset(seed=seed)[0], second.reset(seed=seed)[0])
        for action in (0, 1, 2, 2, 1, 0, 0, 1, 2):
            assert np.array_equal(first.step(action)[0], second.step(action)[0])
    assert not np.array_equal(first.reset(seed=0)[0], first.reset(seed=1)[0])


def test_through_the_door_with_a_snapshot():
    env = make_env(EnvConfig("iris_wm/Catch-v0"))
    observation, _ = env.reset(0)
    assert np.array_equal(observation, CatchEnv().reset(seed=0)[0])
    for _ in range(20):
        env.step(0)
    snapshot = env.snapshot()
    expected = [env.step(action)[0].tobytes() for action in (1, 2, 1)]
    env.reset(3)
    env.restore(snapshot)
    assert [env.step(action)[0].tobytes() for action in (1, 2, 1)] == expected


def test_gymnasium_accepts_it():
    check_env(CatchEnv(), skip_render_check=True)


def test_it_is_fast():
    env = CatchEnv()
    started, steps = time.perf_counter(), 0
    for seed in range(50):
        steps += play(env, seed, CatchEnv.optimal_action)[1]
    assert steps / (time.perf_counter() - started) > 5000
