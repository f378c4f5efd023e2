"""Train Stable-Baselines3's PPO inside a run's dream, then play the real game with it.

    pip install 'iris-wm[sb3]'
    python examples/sb3_ppo_in_the_dream.py runs/demo --steps 50000

The policy never sees a real step while it learns. A random policy is measured beside it, in dreams and in the game.
"""

import argparse

import numpy as np
from measure import compare
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from iris_wm.dream.env import DreamVectorEnv
from iris_wm.dream.sb3 import Sb3DreamVecEnv
from iris_wm.runs.open import load_dreamer


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--steps", type=int, default=50_000, help="dreamed steps to learn from")
    parser.add_argument("--envs", type=int, default=16, help="dreams side by side")
    parser.add_argument("--horizon", type=int, default=50, help="steps of a dream at most")
    parser.add_argument("--dreams", type=int, default=64, help="dreams to measure with")
    parser.add_argument("--episodes", type=int, default=20, help="real episodes to measure with")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    agent, starts = load_dreamer(options.run)
    dreams = DreamVectorEnv(agent, starts, options.envs, options.horizon, autoreset_mode="SameStep")
    env = VecMonitor(Sb3DreamVecEnv(dreams))
    rollout = min(64, max(2, options.steps // options.envs))
    model = PPO(
        "CnnPolicy",
        env,
        n_steps=rollout,
        batch_size=min(128, rollout * options.envs),
        n_epochs=3,
        gamma=0.97,
        ent_coef=0.01,
        learning_rate=5e-4,
        seed=options.seed,
        verbose=1,
    )
    model.learn(options.steps)

    def learned(frames: np.ndarray) -> np.ndarray:
        return model.predict(frames, deterministic=False)[0]

    compare(
        agent,
        starts,
        options.run,
        learned,
        horizon=options.horizon,
        num_dreams=options.dreams,
        num_episodes=options.episodes,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
