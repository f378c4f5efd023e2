"""PPO in one file, trained inside a run's dream, then measured in the real game. No other library than ours.

    python examples/ppo_in_the_dream.py runs/demo --steps 50000

Proximal policy optimization: Schulman et al., 2017; generalized advantages: Schulman et al., 2016.
"""

import argparse

import numpy as np
import torch
from measure import compare
from torch import Tensor, nn

from iris_wm.dream.env import DreamVectorEnv
from iris_wm.runs.open import load_dreamer


class Policy(nn.Module):
    """Frames (B, H, W, C) uint8 -> action logits (B, A) and values (B,)."""

    def __init__(self, num_actions: int, size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 8, 4, 2), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * (size // 8) ** 2, 256), nn.ReLU(),
        )  # fmt: skip
        self.actor, self.critic = nn.Linear(256, num_actions), nn.Linear(256, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)

    def forward(self, frames: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        x = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255
        hidden = self.body(x)
        return self.actor(hidden), self.critic(hidden).squeeze(1)


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--steps", type=int, default=50_000, help="dreamed steps to learn from")
    parser.add_argument("--envs", type=int, default=16, help="dreams side by side")
    parser.add_argument("--rollout", type=int, default=64, help="steps between two updates")
    parser.add_argument("--horizon", type=int, default=50, help="steps of a dream at most")
    parser.add_argument("--dreams", type=int, default=64, help="dreams to measure with")
    parser.add_argument("--episodes", type=int, default=20, help="real episodes to measure with")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    gamma, lambda_, clip, num_passes, num_batches, entropy_weight = 0.97, 0.95, 0.2, 3, 8, 0.01

    torch.manual_seed(options.seed)
    agent, starts = load_dreamer(options.run)
    env = DreamVectorEnv(agent, starts, options.envs, options.horizon, autoreset_mode="SameStep")
    policy = Policy(agent.actions.sizes[0], env.single_observation_space.shape[0])
    optimizer = torch.optim.Adam(policy.parameters(), 5e-4, eps=1e-5)
    frames, _ = env.reset(seed=options.seed)
    totals, finished = np.zeros(options.envs), []
    for update in range(max(1, options.steps // (options.envs * options.rollout))):
        rows: dict[str, list] = {
            name: [] for name in ("frames", "actions", "logs", "values", "rewards", "ends")
        }
        for _ in range(options.rollout):
            with torch.no_grad():
                logits, values = policy(frames)
            actions = torch.multinomial(logits.softmax(-1), 1).squeeze(1)
            logs = logits.log_softmax(-1).gather(1, actions[:, None]).squeeze(1)
            next_frames, rewards, terminations, truncations, infos = env.step(actions.numpy())
            totals += rewards
            ends = terminations | truncations
            finished += totals[ends].tolist()
            totals[ends] = 0
            if truncations.any():  # a dream that was only cut off would have gone on: add what it was worth
                cut = np.flatnonzero(truncations)
                with torch.no_grad():
                    rewards[cut] += gamma * policy(np.stack(list(infos["final_obs"][cut])))[1].numpy()
            row = (torch.from_numpy(frames), actions, logs, values, torch.from_numpy(rewards).float())
            for name, value in zip(rows, (*row, torch.from_numpy(ends)), strict=True):
                rows[name].append(value)
            frames = next_frames
        batch = {name: torch.stack(values) for name, values in rows.items()}
        with torch.no_grad():
            next_value = policy(frames)[1]
        advantages, running = torch.zeros_like(batch["rewards"]), torch.zeros(options.envs)
        for t in reversed(range(options.rollout)):
            goes_on = (~batch["ends"][t]).float()
            error = batch["rewards"][t] + gamma * next_value * goes_on - batch["values"][t]
            running = error + gamma * lambda_ * goes_on * running
            advantages[t], next_value = running, batch["values"][t]
        returns = (advantages + batch["values"]).flatten()
        advantages = advantages.flatten()
        data = {name: batch[name].flatten(0, 1) for name in ("frames", "actions", "logs")}
        for _ in range(num_passes):
            for part in torch.randperm(len(returns)).chunk(num_batches):
                logits, values = policy(data["frames"][part])
                all_logs = logits.log_softmax(-1)
                logs = all_logs.gather(1, data["actions"][part, None]).squeeze(1)
                ratio = (logs - data["logs"][part]).exp()
                gain = (advantages[part] - advantages[part].mean()) / (advantages[part].std() + 1e-8)
                actor_loss = -torch.min(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()
                critic_loss = 0.5 * (values - returns[part]).square().mean()
                entropy = -(all_logs.exp() * all_logs).sum(-1).mean()
                optimizer.zero_grad()
                (actor_loss + critic_loss - entropy_weight * entropy).backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
        if update % 5 == 0 and finished:
            print(
                f"update {update}: dreamed return {np.mean(finished[-100:]):.2f} over {len(finished)} dreams"
            )

    def learned(frames: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.multinomial(policy(frames)[0].softmax(-1), 1).squeeze(1).numpy()

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
