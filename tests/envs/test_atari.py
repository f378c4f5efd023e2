"""The single Atari environment: IRIS's order frame by frame, episodes, and exact snapshots."""

import hashlib
import json
import subprocess
import sys

import ale_py
import gymnasium
import numpy as np
import pytest
from PIL import Image

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.atari100k import GAMES
from iris_wm.envs.snapshot import sealed

gymnasium.register_envs(ale_py)


class ByHand:
    """IRIS's wrappers, slow and plain: every frame resized, then limit, no-ops, skip and maximum."""

    def __init__(self, game, num_noops, limit):
        self.env = gymnasium.make(
            f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False
        )
        self.num_noops, self.limit = num_noops, limit

    def shrink(self, frame):
        return np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR))

    def frame(self, action):
        frame, reward, over, _, _ = self.env.step(action)
        self.elapsed += 1
        return self.shrink(frame), reward, over, not over and self.elapsed >= self.limit

    def reset(self, seed):
        observation = self.shrink(self.env.reset(seed=seed)[0])
        self.elapsed = 0
        for _ in range(self.num_noops):
            observation = self.frame(0)[0]
        return observation

    def step(self, action):
        frames, total = [], 0.0
        for _ in range(4):
            frame, reward, over, cut = self.frame(action)
            frames.append(frame)
            total += reward
            if over or cut:
                break
        return np.maximum(*frames[-2:]), total, over, cut

    def lives(self):
        return self.env.unwrapped.ale.lives()


@pytest.mark.parametrize("game", ["Breakout", "MsPacman", "Pong"])
def test_frames_rewards_and_lives_equal_iris_order_by_hand(game):
    env = make_env(EnvConfig(game), is_test=True)
    by_hand = ByHand(game, num_noops=1, limit=108_000)
    observation, info = env.reset(3)
    assert observation.shape == (64, 64, 3)
    assert observation.dtype == np.uint8
    assert np.array_equal(observation, by_hand.reset(3))
    assert info["emulator_frames"] == 1
    choose = np.random.default_rng(0)
    for _ in range(250):
        action = int(choose.integers(env.action_space.n))
        ours = env.step(action)
        theirs = by_hand.step(action)
        if theirs[2]:
            assert ours[2]
            break
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:]
        assert ours[4] == {"lives": by_hand.lives(), "emulator_frames": by_hand.elapsed}


def test_training_draws_1_to_noop_max_frames_and_tests_exactly_1():
    training = make_env(EnvConfig(noop_max=3))
    seen = {training.reset(seed)[1]["emulator_frames"] for seed in range(20)}
    assert seen == {1, 2, 3}
    testing = make_env(EnvConfig(noop_max=30), is_test=True)
    assert {testing.reset(seed)[1]["emulator_frames"] for seed in range(5)} == {1}
    without = make_env(EnvConfig(noop_max=0))
    assert without.reset(0)[1]["emulator_frames"] == 0
    by_hand = ByHand("Breakout", num_noops=training.reset(1)[1]["emulator_frames"], limit=10**6)
    assert np.array_equal(training.reset(1)[0], by_hand.reset(1))


def until_end(env, limit=3000):
    """Steps with FIRE and NOOP until the episode ends: (steps, reward, terminated, truncated, info)."""
    total = 0.0
    for count in range(1, limit + 1):
        _, reward, terminated, truncated, info = env.step(count % 2)
        total += reward
        if terminated or truncated:
            return count, total, terminated, truncated, info
    raise AssertionError("no end")


def test_a_lost_life_ends_the_training_episode_and_the_game_goes_on():
    env = make_env(EnvConfig("Breakout"))
    _, info = env.reset(0)
    frames = info["emulator_frames"]
    for lives in (4, 3, 2, 1):
        steps, _, terminated, truncated, info = until_end(env)
        assert (terminated, truncated, info["lives"]) == (True, False, lives)
        assert info["emulator_frames"] == frames + 4 * steps
        with pytest.raises(ValueError, match="there is no running episode; call reset"):
            env.step(0)
        _, info = env.reset()
        # One no-op step of four frames, not a new game.
        assert info == {"lives": lives, "emulator_frames": frames + 4 * steps + 4}
        frames = info["emulator_frames"]
    assert until_end(env)[4]["lives"] == 0
    _, info = env.reset()
    assert info["lives"] == 5
    assert 1 <= info["emulator_frames"] <= 30


def test_a_test_episode_is_a_whole_game():
    env = make_env(EnvConfig("Breakout"), is_test=True)
    env.reset(0)
    steps, _, terminated, truncated, info = until_end(env)
    assert (terminated, truncated, info["lives"]) == (True, False, 0)
    assert steps > 60


def test_a_reset_in_mid_episode_or_with_a_seed_starts_a_new_game():
    env = make_env(EnvConfig("Breakout"))
    first, _ = env.reset(5)
    until_end(env)
    again, info = env.reset(5)
    assert np.array_equal(first, again)
    assert info["lives"] == 5
    for _ in range(10):
        env.step(1)
    assert env.reset()[1]["emulator_frames"] <= 30


def test_the_frame_limit_truncates_and_counts_no_ops():
    env = make_env(EnvConfig("Pong", max_emulator_frames=50, max_emulator_frames_test=22))
    frames = env.reset(1)[1]["emulator_frames"]
    steps, _, terminated, truncated, info = until_end(env)
    assert (terminated, truncated, info["emulator_frames"]) == (False, True, 50)
    assert steps == -(-(50 - frames) // 4)
    assert env.reset()[1]["emulator_frames"] <= 30
    env = make_env(EnvConfig("Pong", max_emulator_frames_test=22), is_test=True)
    env.reset(1)
    assert until_end(env)[0] == 6


def test_frame_skip_of_one_shows_every_frame():
    env = make_env(EnvConfig("Pong", frame_skip=1), is_test=True)
    by_hand = ByHand("Pong", 1, 10**6)
    env.reset(0)
    by_hand.reset(0)
    for _ in range(5):
        assert np.array_equal(env.step(2)[0], by_hand.frame(2)[0])


def test_same_seed_same_game_and_other_seeds_differ():
    def play(seed, sticky=0.0):
        env = make_env(EnvConfig("Seaquest", sticky=sticky))
        observations = [env.reset(seed)[0]]
        for count in range(120):
            observation, _, terminated, truncated, _ = env.step(count * 7 % 18)
            observations.append(observation)
            if terminated or truncated:
                observations.append(env.reset()[0])
        return np.stack(observations[:100])

    assert np.array_equal(play(0), play(0))
    assert not np.array_equal(play(0), play(1))
    assert np.array_equal(play(0, 0.25), play(0, 0.25))
    assert not np.array_equal(play(0), play(0, 0.25))


def test_sticky_actions_repeat_with_the_given_probability():
    env = make_env(EnvConfig("Pong", sticky=0.5, frame_skip=1), is_test=True)
    env.reset(0)
    repeats = changes = 0
    for count in range(800):
        before = env._previous_action
        action = 2 + count % 2
        env.step(action)
        if before != action:
            changes += env._previous_action == action
            repeats += env._previous_action == before
    assert abs(repeats / (repeats + changes) - 0.5) < 0.1


def trace(env, num_steps, seed):
    """Everything that num_steps random actions bring, resets included."""
    choose = np.random.default_rng(seed)
    rows = []
    for _ in range(num_steps):
        observation, reward, terminated, truncated, info = env.step(int(choose.integers(env.action_space.n)))
        rows.append((observation.tobytes(), reward, terminated, truncated, tuple(info.values())))
        if terminated or truncated:
            rows.append((env.reset()[0].tobytes(), env._lives, env._elapsed_frames))
    return rows


def check_snapshots(game, num_points, sticky=0.0, limit=600):
    """Restores at several points, in the same and in another environment that has a past of its own."""
    config = EnvConfig(game, sticky=sticky, max_emulator_frames=limit)
    env, other = make_env(config), make_env(config)
    env.reset(0)
    other.reset(99)
    trace(other, 20, 1)
    for point in range(num_points):
        trace(env, 23, point)
        snapshot = env.snapshot()
        assert all(isinstance(value, (bytes, int, float, str)) for value in snapshot.values())
        expected = trace(env, 170, 1000 + point)
        shown = other.restore(snapshot)
        assert shown.tobytes() == snapshot["observation"]
        assert trace(other, 170, 1000 + point) == expected, (game, point, "another environment")
        env.restore(snapshot)
        assert trace(env, 170, 1000 + point) == expected, (game, point, "the same environment")


@pytest.mark.parametrize(("game", "sticky"), [("Breakout", 0.0), ("Pong", 0.25), ("Seaquest", 0.0)])
def test_snapshots_are_exact(game, sticky):
    check_snapshots(game, 2, sticky)


@pytest.mark.slow
@pytest.mark.parametrize("sticky", [0.0, 0.25])
@pytest.mark.parametrize("game", GAMES)
def test_snapshots_are_exact_in_every_game(game, sticky):
    check_snapshots(game, 6, sticky)


def test_a_snapshot_between_episodes_remembers_that_the_game_goes_on():
    env, other = make_env(EnvConfig("Breakout")), make_env(EnvConfig("Breakout"))
    env.reset(0)
    until_end(env)
    other.restore(env.snapshot())
    with pytest.raises(ValueError, match="there is no running episode"):
        other.step(0)
    ours, theirs = env.reset(), other.reset()
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    assert ours[1]["lives"] == 4


CHILD = """
import sys, json, hashlib
import numpy as np
from iris_wm.envs import EnvConfig, make_env
values = json.load(open(sys.argv[1]))
snapshot = {k: bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for k, v in values.items()}
env = make_env(EnvConfig("Seaquest"))
digest = hashlib.sha256(env.restore(snapshot).tobytes())
for count in range(300):
    observation, reward, terminated, truncated, _ = env.step(count * 5 % 18)
    digest.update(observation.tobytes() + repr((reward, terminated, truncated)).encode())
    if terminated or truncated:
        digest.update(env.reset()[0].tobytes())
print(digest.hexdigest())
"""


def test_a_fresh_process_continues_the_same_game(tmp_path):
    env = make_env(EnvConfig("Seaquest"))
    env.reset(7)
    trace(env, 60, 0)
    snapshot = env.snapshot()
    as_json = {k: {"hex": v.hex()} if isinstance(v, bytes) else v for k, v in snapshot.items()}
    (tmp_path / "snapshot.json").write_text(json.dumps(as_json))
    code = [sys.executable, "-c", CHILD, str(tmp_path / "snapshot.json")]
    results = [
        subprocess.run(code, capture_output=True, text=True, timeout=120, check=True).stdout for _ in range(2)
    ]
    digest = hashlib.sha256(env.restore(snapshot).tobytes())
    for count in range(300):
        observation, reward, terminated, truncated, _ = env.step(count * 5 % 18)
        digest.update(observation.tobytes() + repr((reward, terminated, truncated)).encode())
        if terminated or truncated:
            digest.update(env.reset()[0].tobytes())
    assert results == [digest.hexdigest() + "\n"] * 2


def test_damaged_and_foreign_snapshots_are_refused_and_change_nothing():
    env = make_env(EnvConfig("Breakout"))
    with pytest.raises(ValueError, match='env "Breakout": snapshot: reset the environment first'):
        env.snapshot()
    env.reset(0)
    snapshot = env.snapshot()
    pong = make_env(EnvConfig("Pong"))
    pong.reset(0)
    flipped = bytearray(snapshot["emulator"])
    flipped[5000] ^= 4
    cases = {
        "checksum does not fit": {**snapshot, "emulator": bytes(flipped)},
        "checksum does not": {**snapshot, "lives": 4},
        "lives: expected int, got str": {**snapshot, "lives": "5"},
        "expected \\[": {"emulator": snapshot["emulator"]},
        "game: expected 'Breakout', got 'Pong'": pong.snapshot(),
        "expected a mapping": b"nonsense",
    }
    for message, case in cases.items():
        with pytest.raises(ValueError, match=message):
            env.restore(case)
    area = make_env(EnvConfig("Breakout", resize="area"))
    with pytest.raises(ValueError, match="resize: expected 'area', got 'bilinear_then_max'"):
        area.restore(snapshot)
    assert env.snapshot() == snapshot


def test_an_emulator_state_cut_short_is_refused_whatever_its_checksum():
    env = make_env(EnvConfig("Breakout"))
    env.reset(0)
    snapshot = env.snapshot()
    del snapshot["checksum"]
    with pytest.raises(ValueError, match="emulator: it is no state of this game"):
        env.restore(sealed({**snapshot, "emulator": snapshot["emulator"][:5000]}))
    with pytest.raises(ValueError, match="np_random is not the state"):
        env.restore(sealed({**snapshot, "np_random": "{}"}))
    env.step(0)


BAD_ACTIONS = [
    4,
    -1,
    2**70,
    1.0,
    float("nan"),
    "1",
    None,
    True,
    np.array([1, 0]),
    np.float32(1),
    np.bool_(True),
    [0, 1],
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("action", BAD_ACTIONS, ids=repr)
def test_bad_actions_are_refused(action):
    env = make_env(EnvConfig("Breakout"))
    env.reset(0)
    with pytest.raises(
        ValueError, match=r'env "Breakout": action: got .*, expected a whole number of 0 to 3'
    ):
        env.step(action)
    env.step(np.int64(1))
    env.step(np.array(1))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("seed", [-5, 1.5, True, "1", 2**63, float("nan")], ids=repr)
def test_bad_seeds_are_refused(seed):
    env = make_env(EnvConfig("Breakout"))
    with pytest.raises(ValueError, match=r'env "Breakout": seed: expected a whole number'):
        env.reset(seed)
    env.reset(2**63 - 1)


def test_steps_before_the_first_reset_are_refused():
    with pytest.raises(ValueError, match="call reset first"):
        make_env(EnvConfig("Breakout")).step(0)
