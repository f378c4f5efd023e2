"""A planner of your own: an Actor that tries random futures in a world before each step, and begins the best.

python examples/own/planner.py runs/catch
"""

import sys

import torch

from iris_wm.acting import RandomActor
from iris_wm.data.segment import Segment
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.runs.open import open_run
from iris_wm.spaces import ActionDistribution
from iris_wm.streams import Draw, row_seeds


class Shooting(RandomActor):
    """Random shooting over any World, from the frame alone: it remembers nothing, its memory is None."""

    def __init__(self, world, num_futures=64, horizon=8):
        self.world, self.actions = world, world.actions
        self.num_futures, self.horizon = num_futures, horizon

    def act(self, frames, memory, draw):
        """Of each of the B games, num_futures rows are imagined side by side."""
        num = self.num_futures
        none = torch.zeros(len(frames), 0, self.actions.num_axes, dtype=torch.int64)
        state = self.world.observe(Segment.seen(frames[:, None], none))
        state = self.world.fork(state, torch.arange(len(frames)).repeat_interleave(num))
        seeds = [row_seeds(int(seed + step), num) for seed, step in zip(draw.seed, draw.step, strict=True)]
        draw = Draw.start(torch.cat(seeds))
        total, alive = torch.zeros(len(draw.seed)), torch.ones(len(draw.seed))
        evenly = ActionDistribution(torch.zeros(len(total), sum(self.actions.sizes)), self.actions.sizes)
        for t in range(self.horizon):
            actions = evenly.sample(draw.of("action"))
            if t == 0:
                first = actions
            state, outcome = self.world.step(state, actions, draw, needs_frame=t + 1 < self.horizon)
            total += alive * outcome.reward_mean
            alive *= 1 - outcome.termination_probability
            draw = draw.next()
        best = total.view(-1, num).argmax(1) + num * torch.arange(len(frames))
        return first[best], memory


if __name__ == "__main__":
    run, num_episodes = open_run(sys.argv[1]), int((*sys.argv, 8)[2])
    for name, actor in (
        ("random play", RandomActor(run.agent.actions)),
        ("planning", Shooting(run.agent.new_world())),
    ):
        played = evaluate(actor, run.config.env, num_episodes=num_episodes, seed=0)
        print(f"{name}: {played.mean_return:.2f} over {num_episodes} real games")
