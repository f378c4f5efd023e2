"""Other Gymnasium environments: what is accepted, what is refused and how, and snapshots by replay."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.make import check_id

RGB = Box(0, 255, (48, 60, 3), np.uint8)


class Painter(gymnasium.Env):
    """Shows random colours; spaces, results and repeatability as asked."""

    def __init__(self, observations=RGB, actions=None, shows=None, reward=1.0, length=30, repeatable=True):
        self.observation_space = observations
        self.action_space = Discrete(4) if actions is None else actions
        self.shows, self.reward, self.length, self.repeatable = shows, reward, length, repeatable

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.look(), {}

    def step(self, action):
        self.count += 1
        assert self.action_space.contains(action), action
        self.np_random.integers(int(10 * np.sum(action)) + 50, size=1 + int(np.sum(action)) % 5)
        return self.look(), self.reward, self.count >= self.length, False, {}

    def look(self):
        if self.shows is not None:
            return self.shows
        draw = self.np_random if self.repeatable else np.random.default_rng()
        return draw.integers(256, size=self.observation_space.shape, dtype=np.uint8)


@pytest.fixture
def register():
    """Registers a Painter under an id and forgets it afterwards."""
    ids = []

    def add(**arguments):
        name = f"Painter{len(ids)}-v0"
        gymnasium.register(name, entry_point=lambda: Painter(**arguments))
        ids.append(name)
        return name

    yield add
    for name in ids:
        del gymnasium.registry[name]


def test_frames_are_resized_and_the_limit_truncates(register):
    env = make_env(EnvConfig(register(), max_emulator_frames=5, max_emulator_frames_test=7))
    observation, _ = env.reset(0)
    assert observation.shape == (64, 64, 3)
    assert observation.dtype == np.uint8
    assert env.actions.names == ("0", "1", "2", "3")
    assert env.action_space == Discrete(4)
    assert [env.step(1)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(False, True)]
    with pytest.raises(ValueError, match="there is no running episode; call reset"):
        env.step(0)
    test_env = make_env(EnvConfig(register(length=3), resize="area", resolution=32), is_test=True)
    assert test_env.reset(0)[0].shape == (32, 32, 3)
    assert [test_env.step(1)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]


def play(env, num_steps):
    rows = []
    for count in range(num_steps):
        observation, reward, terminated, truncated, _ = env.step(count % 4)
        rows.append((observation.tobytes(), reward, terminated, truncated))
        if terminated or truncated:
            rows.append(env.reset()[0].tobytes())
    return rows


@pytest.mark.parametrize("seed", [11, 2**63 - 1, None])
def test_snapshots_replay_the_episode_and_later_ones_follow(register, seed):
    config = EnvConfig(register())
    env, other = make_env(config), make_env(config)
    env.reset(seed)
    other.reset(5)
    play(env, 40)
    snapshot = env.snapshot()
    assert all(isinstance(value, (bytes, int, float, str)) for value in snapshot.values())
    expected = play(env, 90)
    assert other.restore(snapshot).tobytes() == snapshot["observation"]
    assert play(other, 90) == expected


SPACES = {
    "start": (Discrete(3, start=-1), (3,)),
    "multi": (MultiDiscrete([2, 3]), (2, 3)),
    "binary": (MultiBinary(3), (2, 2, 2)),
    "box": (Box(-1, 1, (2,)), (5, 5)),
}


@pytest.mark.parametrize("case", SPACES)
def test_every_space_of_actions_is_played_and_replayed(register, case):
    """In whole numbers from 0; the environment inside is given what its own space holds."""
    space, sizes = SPACES[case]
    config = EnvConfig(register(actions=space), action_bins=5)
    env, other = make_env(config), make_env(config)
    assert env.actions.sizes == sizes
    env.reset(3)
    generator = torch.Generator().manual_seed(0)
    actions = torch.stack([torch.randint(size, (8,), generator=generator) for size in sizes], dim=1)
    for action in actions[:7]:
        assert env.action_space.contains(action.numpy() if len(sizes) > 1 else int(action))
        env.step(action)
    snapshot = env.snapshot()
    assert other.restore(snapshot).tobytes() == snapshot["observation"]
    action = actions[7]
    assert env.step(action)[0].tobytes() == other.step(action.numpy())[0].tobytes()
    with pytest.raises(ValueError, match="action: got"):
        env.step([0] * (len(sizes) + 1))


def test_a_snapshot_after_the_end_stays_at_the_end(register):
    config = EnvConfig(register(length=3))
    env, other = make_env(config), make_env(config)
    env.reset(0)
    for _ in range(3):
        env.step(0)
    other.restore(env.snapshot())
    with pytest.raises(ValueError, match="no running episode"):
        other.step(0)
    assert np.array_equal(env.reset()[0], other.reset()[0])


def test_an_environment_that_does_not_repeat_itself_is_noticed(register):
    env = make_env(EnvConfig(name := register(repeatable=False)))
    env.reset(0)
    env.step(1)
    with pytest.raises(ValueError, match=f'env "{name}": it did not repeat itself from seed 0 and 1 actions'):
        env.restore(env.snapshot())
    env.reset(0)
    env.step(0)


def test_foreign_snapshots_are_refused(register):
    env, other = make_env(EnvConfig(register())), make_env(EnvConfig(register()))
    with pytest.raises(ValueError, match="reset the environment first"):
        env.snapshot()
    env.reset(0)
    other.reset(0)
    with pytest.raises(ValueError, match="snapshot: id: expected 'Painter0-v0', got 'Painter1-v0'"):
        env.restore(other.snapshot())
    with pytest.raises(ValueError, match="checksum"):
        env.restore({**env.snapshot(), "seed": 1})
    atari = make_env(EnvConfig("Pong"))
    atari.reset(0)
    with pytest.raises(ValueError, match="snapshot: expected"):
        env.restore(atari.snapshot())


REFUSED = {
    "float image": (
        {"observations": Box(0, 1, (64, 64, 3), np.float32)},
        r"observations: expected uint8 \(H, W, 3\), got float32 \(64, 64, 3\): scale them to 0..255",
    ),
    "grey": ({"observations": Box(0, 255, (64, 64), np.uint8)}, r"got uint8 \(64, 64\): one channel only"),
    "grey with channel": (
        {"observations": Box(0, 255, (64, 64, 1), np.uint8)},
        r"\(64, 64, 1\): one channel only",
    ),
    "channels first": (
        {"observations": Box(0, 255, (3, 64, 64), np.uint8)},
        r"\(3, 64, 64\): channels come first",
    ),
    "four channels": ({"observations": Box(0, 255, (64, 64, 4), np.uint8)}, r"got uint8 \(64, 64, 4\)"),
    "a stack": ({"observations": Box(0, 255, (4, 64, 64, 3), np.uint8)}, r"got uint8 \(4, 64, 64, 3\)"),
    "tiny": ({"observations": Box(0, 255, (4, 4, 3), np.uint8)}, r"at least 8 x 8 pixels"),
    "dict": ({"observations": Dict(image=RGB)}, r"expected uint8 \(H, W, 3\), got Dict\('image'"),
    "discrete": ({"observations": Discrete(5)}, r"expected uint8 \(H, W, 3\), got Discrete\(5\)"),
    "unbounded": ({"actions": Box(-np.inf, 1, (2,))}, r"action space: got Box.*, expected Discrete"),
    "text": ({"actions": Text(3)}, r"action space: got Text.*, expected Discrete"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", REFUSED)
def test_unsuitable_spaces_are_refused(register, case):
    arguments, message = REFUSED[case]
    name = register(**arguments)
    with pytest.raises(ValueError, match=f'env "{name}": ') as error:
        make_env(EnvConfig(name))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        make_env(EnvConfig(name))


@pytest.mark.parametrize(
    ("shows", "message"),
    [
        (np.zeros((48, 60, 3), np.float32), r"as its space says, got float32 \(48, 60, 3\)"),
        (
            np.zeros((64, 64, 3), np.uint8),
            r"expected uint8 \(48, 60, 3\) as its space says, got uint8 \(64, 64, 3\)",
        ),
        ({"image": 1}, "got dict"),
        (None.__class__, "got type"),
    ],
)
def test_observations_that_break_the_promise_of_their_space(register, shows, message):
    env = make_env(EnvConfig(register(shows=shows)))
    with pytest.raises(ValueError, match=message):
        env.reset(0)


@pytest.mark.parametrize("reward", ["much", None])
def test_rewards_must_be_numbers(register, reward):
    env = make_env(EnvConfig(register(reward=reward)))
    env.reset(0)
    with pytest.raises(ValueError, match="reward: expected a finite number, got"):
        env.step(0)


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_must_be_finite(register, reward):
    env = make_env(EnvConfig(register(reward=reward)))
    env.reset(0)
    with pytest.raises(FloatingPointError, match=rf"^reward of env .* is {reward}, expected a finite number"):
        env.step(0)


def test_bad_calls(register):
    env = make_env(EnvConfig(register()))
    with pytest.raises(ValueError, match="seed: expected a whole number"):
        env.reset(-1)
    with pytest.raises(ValueError, match="options are not supported"):
        env.reset(0, options={"level": 2})
    env.reset(0)
    for action in (4, -1, 0.5, "0", None, [0, 1], True):
        with pytest.raises(ValueError, match=r"action: got .*, expected a whole number of 0 to 3"):
            env.step(action)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "CartPole-v1",
            r'env "CartPole-v1": observations: expected uint8 \(H, W, 3\), got float32 \(4,\); wrap it',
        ),
        ("CartPole-v99", 'env "CartPole-v99": unknown environment; did you mean "CartPole-v1"'),
        ("NoSuchThing-v0", 'env "NoSuchThing-v0": unknown environment'),
        ("mine/NoSuchThing", "install or import the package that registers it"),
        ("os:system", "would import code named in a config"),
        ("nowhere.module:Env-v0", "would import code named in a config"),
    ],
)
def test_unknown_and_unsuitable_ids(name, message):
    with pytest.raises(ValueError, match=message) as error:
        make_env(EnvConfig(name))
    assert "\n" not in str(error.value)


def test_an_environment_that_cannot_be_made(register):
    def broken():
        raise ImportError("needs a package\nthat is not there")

    gymnasium.register("Broken-v0", entry_point=broken)
    with pytest.raises(
        ValueError, match='env "Broken-v0": it cannot be made: needs a package that is not there'
    ):
        make_env(EnvConfig("Broken-v0"))
    del gymnasium.registry["Broken-v0"]
    check_id(register())
