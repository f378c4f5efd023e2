"""The programs of docs/add_your_own.md run, and are short."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iris_wm.acting import RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.envs import EnvConfig, make_env

ROOT = Path(__file__).parents[2]
SHORT = [
    *("training.num_epochs=1", "trainer.num_threads=1", "evaluation.every_epochs=0"),
    *("collection.first_epoch_env_steps=100", "policy.optimization.steps_per_epoch=2"),
    *(f"{name}.optimization.first_epoch_steps=2" for name in ("tokenizer", "world")),
    *(f"{name}.optimization.batch_size=4" for name in ("tokenizer", "world", "policy")),
]


def run(name: str, *arguments: object, cwd: Path = ROOT) -> str:
    """What a program prints."""
    command = [sys.executable, str(ROOT / "examples" / "own" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "own").glob("*.py")), ids=lambda path: path.stem)
def test_it_is_shorter_than_a_page_and_shown(path: Path):
    assert len(path.read_text().splitlines()) < 60
    assert f"examples/own/{path.name}" in (ROOT / "docs" / "add_your_own.md").read_text()


def test_a_game(tmp_path):
    assert run("game", tmp_path / "run", *SHORT).count("steps to the wall") == 2


def test_a_tokenizer(tmp_path):
    assert "dreamed" in run("tokenizer", tmp_path / "run", *SHORT)


def test_a_world(tmp_path):
    assert run("world").count("brings") == 10


def test_a_policy(catch_run):
    assert run("policy", catch_run, 3).count("in the real game") == 2


def test_a_planner(catch_run):
    assert run("planner", catch_run, 2).count("over 2 real games") == 2


def test_data(tmp_path):
    env = make_env(EnvConfig(id="iris_wm/Catch-v0"))
    for seed in range(3):
        episode = play_episode(RandomActor(env.actions), env, num_steps=50, seed=seed)
        columns = {name: getattr(episode, name).numpy() for name in ("rewards", "terminations")}
        frames, actions = episode.frames.permute(0, 2, 3, 1).numpy(), episode.actions[:, 0].numpy()
        np.savez(tmp_path / f"{seed}.npz", frames=frames, actions=actions, **columns)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert "world" in run("data", tmp_path, *SHORT, cwd=tmp_path)
    agent = Agent.load(tmp_path / "runs" / "from_recordings")
    assert len(agent.dream(episode.frames[0], horizon=5)) >= 1
