"""A run to try the examples on."""

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
from iris_wm.tokenizer.tokenizer import TokenizerConfig, VectorQuantizerConfig
from iris_wm.world.network import WorldConfig


@pytest.fixture(scope="session")
def catch_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
