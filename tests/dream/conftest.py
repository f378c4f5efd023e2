"""A tiny untrained agent, real-looking frames, and a run folder made of both."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iris_wm.agent import Agent, AgentConfig
from iris_wm.checkpoint.folder import resume, save_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import build_config, dump_yaml, to_mapping
from iris_wm.data.replay import Replay
from iris_wm.policy.actor_critic import PolicyConfig, TokenInputs
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, RunProgress
from iris_wm.strict_yaml import parse_yaml
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig, VectorQuantizerConfig
from iris_wm.world.network import AutoregressivePrediction, BlockPrediction, ParallelPrediction, WorldConfig

PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(),
    "block": BlockPrediction(),
}

NUM_ACTIONS = 3
CONFIG = "world:\n  optimization: {start_after_epoch: 2}\nenv: {id: iris_wm/Catch-v0}\n"


def make_agent(prediction: str = "autoregressive") -> Agent:
    """An agent of 16 by 16 frames and 4 tokens, of random weights large enough to dream various things."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(
        resolution=16, channels=32, channel_multipliers=(1, 1), num_residual_blocks=1, attention_resolutions=(),
        latent_dim=16, patch_size=4,
    )  # fmt: skip
    agent = Agent(
        AgentConfig(
            (NUM_ACTIONS,),
            (),
            TokenizerConfig(autoencoder, VectorQuantizerConfig(32, 16)),
            WorldConfig(2, 2, 32, context_steps=6, prediction=PREDICTIONS[prediction]),
            PolicyConfig(TokenInputs(8), hidden_size=16),
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in agent.world.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.mul_(8)
        for head, bias in ((agent.world.termination_head, (2.0, 0.0)),):
            head[2].bias.copy_(torch.tensor(bias))
    return agent


@pytest.fixture(scope="session", params=["autoregressive", "parallel"])
def agent(request: pytest.FixtureRequest) -> Agent:
    """Each kind of prediction."""
    return make_agent(request.param)


@pytest.fixture(scope="session")
def one_agent() -> Agent:
    """Where the kind does not matter."""
    return make_agent()


@pytest.fixture(scope="session")
def frames() -> torch.Tensor:
    """(20, 3, 16, 16) uint8."""
    return torch.randint(256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def make_run(tmp_path: Path, one_agent: Agent) -> Callable[..., Path]:
    """Makes runs in an epoch whose replay holds two interleaved episodes, the second 10 steps shorter."""
    return lambda epoch, num_steps=30: save_run(
        tmp_path / f"run-{epoch}-{num_steps}", one_agent, epoch, num_steps
    )


@pytest.fixture
def run_folder(make_run: Callable[..., Path]) -> Path:
    """A run with a trained world model, as far as its epoch tells."""
    return make_run(epoch=3)


def save_run(path: Path, agent: Agent, epoch: int, num_steps: int) -> Path:
    """A run folder with one checkpoint; frames of step t of episode e are filled with t + 100 e."""
    replay = Replay(200, agent.actions, (3, 16, 16))
    episodes = [replay.start_episode(), replay.start_episode()]
    for t in range(num_steps):
        for e in episodes:
            if e == 1 and t >= num_steps - 10:
                continue
            replay.append(
                e,
                torch.full((1, 3, 16, 16), t + 100 * e, dtype=torch.uint8),
                torch.tensor([[(t + e) % NUM_ACTIONS]]),
                torch.zeros(1),
                torch.zeros(1, dtype=torch.bool),
                torch.zeros(1, dtype=torch.bool),
            )
    seconds = {"world": 1.0} if epoch > 2 else {}
    training = {STATE_KEY: RunProgress(epoch=epoch, seconds=seconds).state_dict()}
    config = build_config(RunConfig, parse_yaml(CONFIG))
    with RunFolder(path, config.identity(), dump_yaml(config)) as run:
        resume(run)
        save_checkpoint(
            run, step=1, env_steps=replay.num_steps, epoch=epoch, agent=agent.weights(),
            agent_config=to_mapping(agent.config), training=training, replay=replay,
        )  # fmt: skip
    return path
