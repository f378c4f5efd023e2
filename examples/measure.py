"""What both examples share: how a policy that learned in the dream is measured, there and in the real game.

A policy is a function from frames (B, H, W, C) uint8 to actions (B,).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from iris_wm.agent import Agent
from iris_wm.config import build_config
from iris_wm.data.segment import Segment
from iris_wm.dream.env import DreamVectorEnv
from iris_wm.envs import EnvConfig, make_env
from iris_wm.strict_yaml import read_yaml

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


@torch.no_grad()
def play_real_game(
    agent: Agent, run: str | Path, policy: Policy, num_episodes: int, max_steps: int = 5000
) -> list[float]:
    """Returns of whole real games, played side by side. The policy sees reconstructions, as in the dream."""
    config = build_config(EnvConfig, read_yaml(Path(run) / "config.yaml")["env"])
    envs = [make_env(config, is_test=True) for _ in range(num_episodes)]
    observations = [env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)]
    totals, playing = np.zeros(num_episodes), list(range(num_episodes))
    for _ in range(max_steps):
        frames = torch.from_numpy(np.stack([observations[i] for i in playing])).permute(0, 3, 1, 2)
        seen = agent.tokenizer.reconstruct(frames).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
        still_playing = []
        for i, action in zip(playing, policy(seen).tolist(), strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            totals[i] += float(reward)
            if not (terminated or truncated):
                still_playing.append(i)
        playing = still_playing
        if not playing:
            break
    for env in envs:
        env.close()
    return totals.tolist()


def describe(name: str, returns: list[float], of_what: str) -> str:
    """A line: mean and its standard error."""
    error = float(np.std(returns)) / len(returns) ** 0.5
    return f"{name:<26} mean return {np.mean(returns):7.2f} +- {error:.2f} over {len(returns)} {of_what}"
