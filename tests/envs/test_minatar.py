"""MinAtar: every set of things has a colour of its own, episodes end as published, snapshots go on bit for bit."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.minatar import colours_of

pytest.importorskip("minatar")
NAMES = {
    "Asterix": ("NOOP", "LEFT", "UP", "RIGHT", "DOWN"),
    "Breakout": ("NOOP", "LEFT", "RIGHT"),
    "Freeway": ("NOOP", "UP", "DOWN"),
    "Seaquest": ("NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE"),
    "SpaceInvaders": ("NOOP", "LEFT", "RIGHT", "FIRE"),
}


def make(game, **options):
    return make_env(EnvConfig(id=f"MinAtar/{game}-v1", resolution=10, **options))


@pytest.mark.parametrize("game", NAMES)
def test_games(game):
    env = make(game)
    assert env.actions.names == NAMES[game]
    frame, _ = env.reset(seed=1)
    assert frame.shape == (10, 10, 3)
    inner = env._env.unwrapped
    generator = np.random.default_rng(0)
    for _ in range(100):
        frame, _, terminated, truncated, _ = env.step(generator.integers(env.action_space.n))
        if terminated or truncated:
            frame, _ = env.reset()
        seen = {}
        for things, colour in zip(inner.game.state().reshape(100, -1), frame.reshape(100, 3), strict=True):
            assert seen.setdefault(things.tobytes(), colour.tobytes()) == colour.tobytes()
        assert len(set(seen.values())) == len(seen) >= 2


@pytest.mark.parametrize("num_kinds", [1, 4, 7, 10])
def test_every_set_of_things_has_a_colour(num_kinds):
    sets = np.array([list(itertools.product([False, True], repeat=num_kinds))])
    pictures = np.rint(sets.astype(np.float32) @ colours_of(num_kinds)).astype(np.uint8)[0]
    assert len({tuple(each) for each in pictures}) == 2**num_kinds
    assert pictures.max() == 255


@pytest.mark.parametrize(("game", "limit"), [("Freeway", 2500), ("Breakout", 1000)])
def test_episodes_end_where_published_ones_do(game, limit):
    env = make(game)
    env.reset(seed=0)
    follow = env._env.unwrapped.game.env
    num_steps, is_over = 0, False
    while not is_over:
        action = 0
        if game == "Breakout":  # stands where the ball comes down
            action = 1 + int(follow.ball_x > follow.pos) if follow.ball_x != follow.pos else 0
        *_, terminated, truncated, _ = env.step(action)
        num_steps, is_over = num_steps + 1, terminated or truncated
    assert (num_steps, terminated, truncated) == (limit, False, True)


def test_sticky_actions_and_snapshots():
    """An action of the episode before is not repeated in the next: a snapshot could not know it."""
    env, other = (make("Asterix", sticky=0.5) for _ in range(2))
    generator = np.random.default_rng(3)
    env.reset(seed=5)
    moved = {False: 0, True: 0}
    for _ in range(60):
        before = env._env.unwrapped.game.env.player_x
        *_, terminated, truncated, _ = env.step(3)
        moved[env._env.unwrapped.game.env.player_x > before] += 1
        if terminated or truncated:
            env.reset()
    env.reset()
    for _ in range(5):
        env.step(generator.integers(5))
    other.restore(env.snapshot())
    for _ in range(30):
        action = generator.integers(5)
        mine, theirs = env.step(action), other.step(action)
        assert np.array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]
        if mine[2] or mine[3]:
            assert np.array_equal(env.reset()[0], other.reset()[0])
    assert min(moved.values()) > 0


def test_without_the_package_one_line_says_what_to_install():
    program = (
        "import sys; sys.modules['minatar'] = None\n"
        "from iris_wm.envs.make import check_id\n"
        "try: check_id('MinAtar/Breakout-v1')\n"
        "except ValueError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout == 'env "MinAtar/Breakout-v1": MinAtar is missing; pip install "iris-wm[minatar]"\n'


def test_an_unknown_game_is_named():
    with pytest.raises(ValueError, match=r'unknown environment; did you mean "MinAtar/Breakout-v1"'):
        make("Brakout")
