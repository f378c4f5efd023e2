"""What both examples share: how a policy that learned in the dream is measured in the real game."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from iris_wm.agent import Agent
from iris_wm.config_file import build_config, read_yaml
from iris_wm.envs import EnvConfig, make_env


def play_real_game(
    agent: Agent,
    run: str | Path,
    policy: Callable[[np.ndarray], int],
    num_episodes: int,
    max_steps: int = 5000,
) -> list[float]:
    """Returns of whole real episodes.

    policy: from a frame (H, W, C) uint8 to an action. It sees the tokenizer's reconstructions, as in the dream.
    """
    env = make_env(build_config(EnvConfig, read_yaml(Path(run) / "config.yaml")["env"]), is_test=True)
    returns = []
    for episode in range(num_episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        total, is_over, step = 0.0, False, 0
        while not is_over and step < max_steps:
            frame = torch.from_numpy(observation).permute(2, 0, 1)[None].contiguous()
            seen = agent.tokenizer.reconstruct(frame)[0].mul(255).round().byte().permute(1, 2, 0).numpy()
            observation, reward, terminated, truncated, _ = env.step(policy(seen))
            total, is_over, step = total + float(reward), terminated or truncated, step + 1
        returns.append(total)
    env.close()
    return returns


def describe(name: str, returns: list[float]) -> str:
    """A line: mean and its standard error."""
    error = float(np.std(returns)) / len(returns) ** 0.5
    return f"{name:<28} mean return {np.mean(returns):6.2f} +- {error:.2f} over {len(returns)} real episodes"
