"""A dream beside the real episode that it began in."""

import torch

from iris_wm.envs.config import EnvConfig
from iris_wm.reports.run_report import dream_beside, real_episode
from iris_wm.world.token_world import SamplingConfig


def test_a_dream_beside_the_game(tiny_agent):
    agent = tiny_agent()
    real = real_episode(agent, EnvConfig(id="iris_wm/Catch-v0"), 12, seed=0)

    def frames(seed, temperature):
        dream = dream_beside(agent, real, 4, seed, SamplingConfig(temperature))
        assert len(dream) == len(real)
        assert torch.equal(dream.actions, real.actions)
        assert torch.equal(dream.frames[:4], real.frames[:4])
        return dream.frames[5:]

    assert torch.equal(frames(0, 0.0), frames(1, 0.0))  # the most likely tokens: no draws
    assert torch.equal(frames(0, 1.0), frames(0, 1.0))
    assert not torch.equal(frames(0, 1.0), frames(1, 1.0))
