"""Games whose actions have several axes, or continuous ones, train like all others."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

from iris_wm.agent import Agent
from iris_wm.dream.env import DreamEnv
from iris_wm.envs import make_env
from iris_wm.training.train import fit

SPACES = {"multi": (MultiDiscrete([3, 4]), (3, 4)), "box": (Box(-1, 1, (2,)), (5, 5))}


class Pusher(gymnasium.Env):
    """A square that two axes push around for 12 steps; right and down pay."""

    def __init__(self, space: str) -> None:
        self.observation_space = Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = SPACES[space][0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = self.np_random.integers(0, 48, size=2).astype(float), 0
        return self.draw(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        push = np.asarray(action, dtype=float)
        self.place = np.clip(self.place + 4 * push, 0, 48)
        self.count += 1
        return self.draw(), float(push.sum() > 0.5), self.count == 12, False, {}

    def draw(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        row, column = self.place.astype(int)
        frame[row : row + 16, column : column + 16] = 200
        return frame


@pytest.mark.parametrize("space", SPACES)
def test_two_epochs_from_the_game_to_the_dream(tmp_path, tiny_run, space):
    gymnasium.register("Pusher-v0", entry_point=lambda: Pusher(space))
    overrides = (
        "env.id=Pusher-v0",
        "env.action_bins=5",
        "training.num_epochs=2",
        "imagination.context=burn_in",
    )
    try:
        config = tiny_run(*overrides)
        result = fit(config, tmp_path / "run", is_quiet=True)
        names = make_env(config.env).actions.names
    finally:
        del gymnasium.registry["Pusher-v0"]
    assert result.progress.env_steps == 120
    assert result.progress.score is not None
    agent = Agent.load(tmp_path / "run")
    assert agent.actions.sizes == SPACES[space][1]
    assert agent.actions.names == names
    frame = torch.zeros(3, 64, 64, dtype=torch.uint8)
    assert agent.dream(frame, 4).actions.shape[1:] == (2,)
    env = DreamEnv(agent, frame[None])
    env.reset(seed=0)
    assert env.action_space == MultiDiscrete(agent.actions.sizes)
    env.step(env.action_space.sample())
