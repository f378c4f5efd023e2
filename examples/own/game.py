"""A game of your own: any Gymnasium environment with RGB frames. This one: walk a red square to the right wall.

python examples/own/game.py
"""

import sys

import gymnasium
import numpy as np

from iris_wm.acting import RandomActor
from iris_wm.config import apply_overrides, build_config
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml
from iris_wm.training.train import fit


class Corridor(gymnasium.Env):
    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2)

    def get_action_meanings(self):
        return ["LEFT", "RIGHT"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(4))
        return self.draw(), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        return self.draw(), float(self.place == 7), self.place == 7, False, {}

    def draw(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[28:36, 8 * self.place : 8 * self.place + 8] = (220, 40, 40)
        return frame


gymnasium.register("mine/Corridor-v0", entry_point=Corridor, max_episode_steps=50)

if __name__ == "__main__":
    run, *overrides = sys.argv[1:] or ["runs/corridor"]
    values = ["env.id=mine/Corridor-v0", *overrides]
    config = build_config(RunConfig, apply_overrides(read_yaml("configs/catch.yaml"), values))
    agent = fit(config, run).agent
    for name, actor in (("random play", RandomActor(agent.actions)), ("the agent", agent)):
        played = evaluate(actor, config.env, num_episodes=16, seed=0)
        print(f"{name}: {sum(played.lengths) / 16:.1f} steps to the wall")
