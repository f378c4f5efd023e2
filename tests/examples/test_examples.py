"""The examples run from the command line, shortened, on a run of the toy game."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_example(name: str, run: Path, *options: str) -> str:
    """What a script prints."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / name),
            str(run),
            "--horizon",
            "10",
            "--dreams",
            "4",
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ppo_in_one_file(catch_run: Path):
    text = run_example(
        "ppo_in_the_dream.py",
        catch_run,
        "--steps",
        "64",
        "--envs",
        "4",
        "--rollout",
        "16",
        "--episodes",
        "2",
    )
    assert text.count("PPO, trained in the dream") == text.count("random policy") == 2
    assert "4 dreams of at most 10 steps" in text
    assert "2 real episodes" in text


def test_stable_baselines(catch_run: Path):
    pytest.importorskip("stable_baselines3")
    text = run_example(
        "sb3_ppo_in_the_dream.py", catch_run, "--steps", "64", "--envs", "4", "--episodes", "2"
    )
    assert "PPO, trained in the dream" in text


def test_stable_baselines_checks_the_adapter(catch_run: Path):
    pytest.importorskip("stable_baselines3")
    import numpy as np
    from stable_baselines3.common.env_checker import check_env
    from stable_baselines3.common.vec_env import VecMonitor

    from iris_wm.dream.env import DreamEnv, DreamVectorEnv
    from iris_wm.dream.sb3 import Sb3DreamVecEnv
    from iris_wm.runs.open import load_dreamer

    agent, starts = load_dreamer(catch_run)
    check_env(DreamEnv(agent, starts, horizon=20))
    dreams = DreamVectorEnv(agent, starts, 3, horizon=5, autoreset_mode="SameStep")
    env = VecMonitor(Sb3DreamVecEnv(dreams))
    env.seed(3)
    first = env.reset()
    infos: list[dict] = []
    for _ in range(12):
        observations, rewards, _, info = env.step(np.zeros(3, dtype=np.int64))
        infos += info
    ended = [info for info in infos if "terminal_observation" in info]
    assert len(ended) >= 6
    assert all("episode" in info and info["terminal_observation"].shape == (64, 64, 3) for info in ended)
    assert observations.shape == (3, 64, 64, 3)
    assert rewards.shape == (3,)
    env.seed(3)
    assert (env.reset() == first).all()
    with pytest.raises(ValueError, match="SameStep"):
        Sb3DreamVecEnv(DreamVectorEnv(agent, starts, 3))
