"""The examples run from the command line, shortened, on a run of the toy game."""

import subprocess
import sys
from pathlib import Path

import pytest

from iris_wm.acting import RandomActor, play_episode
from iris_wm.agent import Agent, AgentConfig
from iris_wm.checkpoint.folder import resume, save_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import dump_yaml, to_mapping
from iris_wm.data.replay import Replay
from iris_wm.envs import EnvConfig, make_env
from iris_wm.policy.actor_critic import PolicyConfig, TokenInputs
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, RunProgress
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.quantizer import VectorQuantizerConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig
from iris_wm.world.network import WorldConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Catch with an untrained agent and some episodes."""
    path = tmp_path_factory.mktemp("runs") / "catch"
    env_config = EnvConfig(id="iris_wm/Catch-v0")
    autoencoder = AutoencoderConfig(64, 32, (1, 1), 1, (), 16, patch_size=8)
    agent = Agent(
        AgentConfig(
            (3,),
            (),
            TokenizerConfig(autoencoder, VectorQuantizerConfig(32, 16)),
            WorldConfig(1, 2, 32, context_steps=6),
            PolicyConfig(TokenInputs(8), hidden_size=16),
        )
    ).eval()
    replay = Replay(500, agent.actions)
    for seed in range(4):
        env = make_env(env_config)
        episode = play_episode(RandomActor(env.actions), env, num_steps=50, seed=seed)
        columns = (
            episode.frames,
            episode.actions,
            episode.rewards,
            episode.terminations,
            episode.truncations,
        )
        replay.append(replay.start_episode(), *columns)
    config = RunConfig(env=env_config)
    training = {STATE_KEY: RunProgress(epoch=2, seconds={"world": 1.0}).state_dict()}
    with RunFolder(path, config.identity(), dump_yaml(config)) as run:
        resume(run)
        save_checkpoint(
            run, step=1, env_steps=replay.num_steps, epoch=2, agent=agent.weights(),
            agent_config=to_mapping(agent.config), training=training, replay=replay,
        )  # fmt: skip
    return path


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


def test_ppo_in_one_file(run_folder: Path):
    text = run_example(
        "ppo_in_the_dream.py",
        run_folder,
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


def test_stable_baselines(run_folder: Path):
    pytest.importorskip("stable_baselines3")
    text = run_example(
        "sb3_ppo_in_the_dream.py", run_folder, "--steps", "64", "--envs", "4", "--episodes", "2"
    )
    assert "PPO, trained in the dream" in text


def test_stable_baselines_checks_the_adapter(run_folder: Path):
    pytest.importorskip("stable_baselines3")
    import numpy as np
    from stable_baselines3.common.env_checker import check_env
    from stable_baselines3.common.vec_env import VecMonitor

    from iris_wm.dream.env import DreamEnv, DreamVectorEnv
    from iris_wm.dream.sb3 import Sb3DreamVecEnv
    from iris_wm.runs.registration import load_dreamer

    agent, starts = load_dreamer(run_folder)
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
