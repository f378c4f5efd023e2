"""What both examples share: how a policy that learned in the dream is measured, there and in the real game.

A policy is a function from frames (B, H, W, C) uint8 to actions (B,).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iris_wm.agent import Agent
from iris_wm.config import build_config
from iris_wm.data.segment import Segment
from iris_wm.dream.env import DreamVectorEnv
from iris_wm.envs import EnvConfig
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.streams import Draw
from iris_wm.strict_yaml import read_yaml
from iris_wm.tokenizer.tokenizer import to_uint8

Policy = Callable[[np.ndarray], np.ndarray]


def compare(
    agent: Agent,
    starts: Segment,
    run: str | Path,
    learned: Policy,
    *,
    horizon: int,
    num_dreams: int,
    num_episodes: int,
    seed: int = 0,
) -> None:
    """Print the mean returns of a random policy and of the learned one: of dreams, then of real episodes."""
    generator = np.random.default_rng(seed)

    def random(frames: np.ndarray) -> np.ndarray:
        return generator.integers(agent.actions.sizes[0], size=len(frames))

    for name, policy in (("random policy", random), ("PPO, trained in the dream", learned)):
        dreamed = play_dreams(agent, starts, policy, num_dreams, horizon, seed + 1_000)
        print(describe(name, dreamed, f"dreams of at most {horizon} steps"), flush=True)
    for name, policy in (("random policy", random), ("PPO, trained in the dream", learned)):
        print(describe(name, play_real_game(agent, run, policy, num_episodes), "real episodes"), flush=True)


def play_dreams(
    agent: Agent, starts: Segment, policy: Policy, num_dreams: int, horizon: int, seed: int
) -> list[float]:
    """Returns of dreams, rewards as their signs, from one seed: both policies are given the same starts."""
    env = DreamVectorEnv(agent, starts, num_dreams, horizon, autoreset_mode="NextStep")
    frames, _ = env.reset(seed=seed)
    totals, is_over = np.zeros(num_dreams), np.zeros(num_dreams, dtype=bool)
    for _ in range(horizon):
        frames, rewards, terminations, truncations, _ = env.step(policy(frames))
        totals += np.where(is_over, 0.0, rewards)
        is_over |= terminations | truncations
    return totals.tolist()


class Seeing:
    """An Actor by a policy that sees reconstructions, as in the dream."""

    def __init__(self, agent: Agent, policy: Policy) -> None:
        self.agent, self.policy, self.actions = agent, policy, agent.actions

    def start(self, batch_size: int) -> None:
        """It remembers nothing."""

    @torch.no_grad()
    def act(self, frames: Tensor, memory: None, draw: Draw) -> tuple[Tensor, None]:
        """The policy's actions (B, 1) for frames (B, C, H, W) uint8."""
        seen = to_uint8(self.agent.tokenizer.reconstruct(frames)).permute(0, 2, 3, 1)
        return torch.from_numpy(self.policy(seen.numpy())).long()[:, None], None

    def keep(self, memory: None, rows: Tensor, is_new: Tensor) -> None:
        """Nothing to keep."""


def play_real_game(
    agent: Agent, run: str | Path, policy: Policy, num_episodes: int, max_steps: int = 5000
) -> list[float]:
    """Returns of whole real games, played side by side."""
    config = build_config(EnvConfig, read_yaml(Path(run) / "config.yaml")["env"])
    return evaluate(
        Seeing(agent, policy),
        config,
        num_episodes=num_episodes,
        seed=10_000,
        num_envs=num_episodes,
        max_steps=max_steps,
    ).returns


def describe(name: str, returns: list[float], of_what: str) -> str:
    """A line: mean and its standard error."""
    error = float(np.std(returns)) / len(returns) ** 0.5
    return f"{name:<26} mean return {np.mean(returns):7.2f} +- {error:.2f} over {len(returns)} {of_what}"
