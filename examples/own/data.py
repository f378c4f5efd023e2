"""Data of your own: a Source of recorded episodes, from which a tokenizer and a world learn without an environment.

python examples/own/data.py FOLDER    # of .npz files: frames (T, 64, 64, 3), actions, rewards and terminations (T,)
"""

import sys
from pathlib import Path

import numpy as np
import torch

from iris_wm.agent import Agent
from iris_wm.config import apply_overrides, build_config
from iris_wm.data.replay import Batches
from iris_wm.data.segment import Segment
from iris_wm.optimization import build_optimizer
from iris_wm.runs.config import RunConfig
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw
from iris_wm.strict_yaml import read_yaml
from iris_wm.training.schedule import iris_learners


class Recordings:
    def __init__(self, folder):
        files = [np.load(path) for path in sorted(Path(folder).glob("*.npz"))]
        names = ("frames", "actions", "rewards", "terminations")
        columns = [torch.from_numpy(np.concatenate([file[name] for file in files])) for name in names]
        self.columns = [columns[0].permute(0, 3, 1, 2), columns[1][:, None], *columns[2:]]
        self.actions, self.num_steps = ActionSpace.discrete(int(columns[1].max()) + 1), len(columns[0])
        lengths = torch.tensor([file["rewards"].size for file in files])
        self.stops = lengths.cumsum(0).repeat_interleave(lengths)  # where the episode of each step ends

    def indices(self, pieces, generator):
        first = torch.randint(self.num_steps, (pieces.batch_size, 1), generator=generator)
        steps = first + torch.arange(pieces.num_steps)
        is_real = steps < self.stops[first]  # behind the end of the episode is padding
        return steps.where(is_real, 0), is_real

    def gather(self, frame_indices, is_real):
        segment = Segment(*(column[frame_indices] for column in self.columns), is_real, frame_indices)
        segment.actions[~is_real] = 0
        return segment


if __name__ == "__main__":
    source = Recordings(sys.argv[1])
    config = build_config(RunConfig, apply_overrides(read_yaml("configs/catch.yaml"), sys.argv[2:]))
    agent, batches = Agent(config.agent_config(source.actions)), Batches(source, seed=0)
    for learner in iris_learners(config, agent, lambda what, done, total: None)[:2]:  # not the policy
        optimizer = build_optimizer(learner.network, learner.optimization)
        learner.begin_phase(batches, epoch=1)
        for index in range(learner.optimization.num_steps(epoch=1)):
            for losses, _ in learner.losses(batches.segment(learner, 1, index), Draw.start([index])):
                sum(losses.values()).backward()
                optimizer.step()
                optimizer.zero_grad()
        print(learner.name, {name: round(float(loss), 4) for name, loss in losses.items()})
    agent.save("runs/from_recordings")
