"""What both examples share: how a policy that learned in the dream is measured, there and in the real game.

A policy is a function from frames (B, H, W, C) uint8 to actions (B,).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from iris_wm.agent import Agent
from iris_wm.config_file import build_config, read_yaml
from iris_wm.envs import EnvConfig, make_env
from iris_wm.imagination.dream_batch import DreamStarts
from iris_wm.imagination.dream_env import DreamVectorEnv

Policy = Callable[[np.ndarray], np.ndarray]


def compare(
    agent: Agent,
    starts: DreamStarts,
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
        return generator.integers(agent.num_actions, size=len(frames))

    for name, policy in (("random policy", random), ("PPO, trained in the dream", learned)):
        dreamed = play_dreams(agent, starts, policy, num_dreams, horizon, seed + 1_000)
        print(describe(name, dreamed, f"dreams of at most {horizon} steps"), flush=True)
    for name, policy in (("random policy", random), ("PPO, trained in the dream", learned)):
        print(describe(name, play_real_game(agent, run, policy, num_episodes), "real episodes"), flush=True)


def play_dreams(
    agent: Agent, starts: DreamStarts, policy: Policy, num_dreams: int, horizon: int, seed: int
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


def play_real_game(
    agent: Agent, run: str | Path, policy: Policy, num_episodes: int, max_steps: int = 5000
) -> list[float]:
    """Returns of whole real games. The policy sees the tokenizer's reconstructions, as in the dream."""
    env = make_env(build_config(EnvConfig, read_yaml(Path(run) / "config.yaml")["env"]), is_test=True)
    returns = []
    for episode in range(num_episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        total, is_over, step = 0.0, False, 0
        while not is_over and step < max_steps:
            frame = torch.from_numpy(observation).permute(2, 0, 1)[None].contiguous()
            seen = agent.tokenizer.reconstruct(frame).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
            observation, reward, terminated, truncated, _ = env.step(int(policy(seen)[0]))
            total, is_over, step = total + float(reward), terminated or truncated, step + 1
        returns.append(total)
    env.close()
    return returns


def describe(name: str, returns: list[float], of_what: str) -> str:
    """A line: mean and its standard error."""
    error = float(np.std(returns)) / len(returns) ** 0.5
    return f"{name:<26} mean return {np.mean(returns):7.2f} +- {error:.2f} over {len(returns)} {of_what}"
