"""Names of games, fields of the config, and how light the door is."""

import dataclasses
import subprocess
import sys

import gymnasium
import pytest

from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.atari100k import GAMES
from iris_wm.envs.make import atari_game, check_id
from iris_wm.envs.snapshot import SnapshotEnv


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Breakot", 'env "Breakot": unknown game; did you mean "Breakout"'),
        ("breakout", 'did you mean "Breakout"'),
        ("ms_pacman", 'did you mean "MsPacman"'),
        ("Up n Down", 'did you mean "UpNDown"'),
        ("ALE/Breakot-v5", 'env "ALE/Breakot-v5": unknown game; did you mean "Breakout"'),
        ("xyz", 'env "xyz": unknown game; Atari 100k has Alien, Amidar,'),
        ("BreakoutNoFrameskip-v4", 'this is an old id of an Atari game; write "Breakout"'),
        ("Pong-v4", 'this is an old id of an Atari game; write "Pong"'),
    ],
)
def test_unknown_games_are_named_with_what_was_meant(name, message):
    for door in (lambda: make_env(EnvConfig(name)), lambda: check_id(name)):
        with pytest.raises(ValueError, match=message) as error:
            door()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"UpNDown|old id"):
        check_id(name)


def test_games_by_their_names():
    assert len(GAMES) == 26
    assert [atari_game(name) for name in ("Pong", "ALE/Pong-v5", "Zaxxon")] == ["Pong", "Pong", "Zaxxon"]
    assert atari_game("iris_wm/Catch-v0") is None
    assert atari_game("CartPole-v1") is None
    for game in GAMES:
        check_id(game)
    check_id("iris_wm/Catch-v0")
    env = make_env(EnvConfig("ALE/Pong-v5"))
    assert isinstance(env, SnapshotEnv)
    assert isinstance(env, gymnasium.Env)
    assert env.actions.names == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")


BAD_FIELDS = {
    "id": ["", "  ", None, 3, "Pong\n", "Pong\x00"],
    "resize": ["bilinear", None, 1],
    "resolution": [0, 7, -64, 64.0, True, float("nan"), "64", 10**6],
    "action_bins": [0, 1.5, True, None],
    "frame_skip": [0, -1, 4.0, True, None, float("nan"), 10**9],
    "noop_max": [-1, 1.5, True, float("nan"), 10**9],
    "terminal_on_life_loss": [1, "yes", None],
    "max_emulator_frames": [0, -1, float("inf"), True, 2**31],
    "max_emulator_frames_test": [0, 1e5, None],
    "sticky": [-0.1, 1.0, 2.0, float("nan"), float("inf"), True, "0.25", None],
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_are_named(field):
    assert set(BAD_FIELDS) == {each.name for each in dataclasses.fields(EnvConfig)}
    for value in BAD_FIELDS[field]:
        with pytest.raises(ValueError, match=f"^{field}: got .*, expected") as error:
            EnvConfig(**{field: value})
        assert "\n" not in str(error.value)


def test_the_config_alone_imports_no_emulator():
    code = (
        "import sys; from iris_wm.envs import EnvConfig, make_env; EnvConfig(); "
        "print([name for name in ('torch', 'ale_py', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_making_a_game_writes_nothing_to_the_terminal():
    code = "from iris_wm.envs import EnvConfig, make_env; make_env(EnvConfig('Pong')).reset(0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout + done.stderr == ""
