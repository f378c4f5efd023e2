"""Evaluation: which episode is played where, from which seed, and for how long."""

import itertools

import pytest
import torch

from iris_wm.acting import AtTemperature, ConstantActor, RandomActor
from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.catch import CatchEnv
from iris_wm.evaluation import evaluate as module
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.streams import stream_seed

CATCH = EnvConfig("iris_wm/Catch-v0")
BREAKOUT = EnvConfig("Breakout")


@pytest.fixture(scope="module")
def agent(tiny_agent):
    return tiny_agent()


def play(actor, num_episodes: int = 5, **options):
    """actor: None plays at random."""
    config = options.pop("env", CATCH)
    actor = actor or RandomActor(make_env(config).actions)
    return evaluate(actor, config, **{"num_episodes": num_episodes, "seed": 0, **options})


@pytest.mark.parametrize("policy", ["agent", "random"])
def test_same_seed_same_returns(agent, policy):
    player = agent if policy == "agent" else None
    first = play(player, num_envs=2)
    torch.manual_seed(99)
    assert play(player, num_envs=2) == first
    assert play(player, num_envs=2, seed=1) != first
    assert len(first.returns) == len(first.lengths) == 5
    assert all(0 < length <= 42 for length in first.lengths)
    assert first.mean_return == pytest.approx(sum(first.returns) / 5)


@pytest.mark.parametrize("temperature", [0.0, 1.0, None])
def test_nothing_depends_on_num_envs(agent, temperature):
    """Each game has its own seeds, of the game and of the draws; None: random play."""
    actor = None if temperature is None else AtTemperature(agent, temperature)
    expected = play(actor, num_envs=1)
    for num_envs in (2, 3, 8):
        assert play(actor, num_envs=num_envs) == expected


def test_a_constant_action(agent):
    """In Catch, standing still catches what falls on the paddle alone."""
    stay = play(ConstantActor(agent.actions, 0), 20)
    assert stay == play(ConstantActor(agent.actions, 0), 20, num_envs=1)
    assert stay.mean_return < CatchEnv.OPTIMAL_RETURN
    with pytest.raises(ValueError, match="action: got 3, expected a whole number of 0 to 2"):
        ConstantActor(agent.actions, 3)


def test_more_episodes_begin_like_fewer(agent):
    few = play(agent, 3, num_envs=1)
    many = play(agent, 6, num_envs=4)
    assert many.returns[:3] == few.returns
    assert many.lengths[:3] == few.lengths


def test_each_episode_has_a_place_and_a_seed_of_its_own(monkeypatch):
    """Episode i runs in environment i mod num_envs, after i - num_envs: short games never crowd out long ones."""
    started: list[tuple[int, int]] = []
    seeds = {stream_seed(0, "evaluation game", episode) % 2**31: episode for episode in range(7)}
    original = module.make_env

    def recording(config, **options):
        env = original(config, **options)
        reset = env.reset

        def noting(seed=None, options=None):
            started.append((id(env), seeds[seed]))
            return reset(seed=seed)

        monkeypatch.setattr(env, "reset", noting)
        return env

    monkeypatch.setattr(module, "make_env", recording)
    play(None, 7, num_envs=3)
    places: dict[int, list[int]] = {}
    for place, episode in started:
        places.setdefault(place, []).append(episode)
    assert sorted(places.values()) == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_long_game_counts_as_much_as_a_short_one(monkeypatch):
    """Environment 0 plays games of 30 steps, the other games of one; all are played."""
    original, made = module.make_env, []

    def fixed(config, **options):
        env = original(config, **options)
        observation, _ = env.reset(seed=0)
        length = 1 if len(made) % 2 else 30
        made.append(env)
        steps = itertools.count(1)
        monkeypatch.setattr(
            env, "step", lambda action: (observation, 1.0, next(steps) % length == 0, False, {})
        )
        return env

    monkeypatch.setattr(module, "make_env", fixed)
    played = play(None, 6, num_envs=2)
    assert played.lengths == [30, 1, 30, 1, 30, 1]
    assert played.returns == [30.0, 1.0, 30.0, 1.0, 30.0, 1.0]


@pytest.mark.parametrize("env", [CATCH, BREAKOUT], ids=["Catch", "Breakout"])
@pytest.mark.parametrize("max_steps", [1, 5])
def test_max_steps_cuts_every_game(env, max_steps):
    """In agent steps, whatever the environment counts in."""
    played = play(None, 3, env=env, num_envs=2, max_steps=max_steps)
    assert played.lengths == [max_steps] * 3


def test_a_games_own_limit_still_holds():
    played = play(None, 2, env=EnvConfig("iris_wm/Catch-v0", max_emulator_frames_test=4))
    assert played.lengths == [4, 4]


def test_memory_begins_empty_in_every_episode(agent, monkeypatch):
    """Also where the environment has played before, and rows move up when another is done."""
    seen = []
    act = agent.act

    def recording(frames, state, *options):
        seen.append((state.hidden == 0).all(1).tolist())
        return act(frames, state, *options)

    monkeypatch.setattr(agent, "act", recording, raising=False)
    played = play(agent, 5, num_envs=2, max_steps=4)
    assert played.lengths == [4] * 5
    fresh = [[True, True], *[[False, False]] * 3]
    assert seen == [*fresh, *fresh, [True], [False], [False], [False]]


def test_lost_lives_end_nothing():
    """A random policy loses a life of Breakout in some 30 steps; a whole game takes all five."""
    played = play(None, 1, env=BREAKOUT)
    assert played.lengths[0] > 100
    env = make_env(BREAKOUT)
    env.reset(seed=0)
    steps = 0
    while not env.step(steps % 4)[2]:
        steps += 1
    assert steps < played.lengths[0]
    env.close()


def test_a_random_policy_scores_what_is_known():
    """10,000 episodes brought 0.53 on average; the spread of one is about 1.2."""
    played = play(None, 300, num_envs=16)
    assert played.mean_return == pytest.approx(CatchEnv.RANDOM_RETURN, abs=4 * 1.2 / 300**0.5)


def test_a_perfect_policy_scores_what_is_possible():
    envs: list = []
    original = module.make_env

    class Perfect(RandomActor):
        def act(self, frames, memory, draw):
            return torch.tensor([[env._env.unwrapped.optimal_action()] for env in envs]), None

    def remember(config, **options):
        envs.append(original(config, **options))
        return envs[-1]

    actions = make_env(CATCH).actions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_env", remember)
        played = evaluate(Perfect(actions), CATCH, num_episodes=2, num_envs=2, seed=0)
    assert played.returns == [CatchEnv.OPTIMAL_RETURN] * 2
    assert played.lengths == [42, 42]


def test_progress_and_interruption(monkeypatch):
    finished = []
    play(None, 4, num_envs=2, on_progress=finished.append)
    assert finished == sorted(finished)
    assert finished[-1] == 4
    closed = []
    original = module.make_env

    def counting(config, **options):
        env = original(config, **options)
        monkeypatch.setattr(env, "close", lambda: closed.append(1))
        return env

    monkeypatch.setattr(module, "make_env", counting)

    def interrupt(finished: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        play(None, 4, num_envs=3, on_progress=interrupt)
    assert len(closed) == 3


@pytest.mark.parametrize("num_episodes", [0, -3])
def test_no_episodes_are_refused(num_episodes):
    with pytest.raises(ValueError, match=f"episodes: got {num_episodes}, expected a positive number"):
        play(None, num_episodes)
