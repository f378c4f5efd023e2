"""What the terminal says of a run's time and memory."""

import pytest
import torch

from iris_wm.runs.progress import RunProgress
from iris_wm.spaces import ActionSpace
from iris_wm.training.display import projected_memory, projected_seconds
from iris_wm.training.module import IrisModule


def plan(config):
    return IrisModule(config, ActionSpace.discrete(3)).phases


def test_seconds_are_projected_once_every_component_has_run(tiny_run):
    config = tiny_run("evaluation.every_epochs=0")
    progress = RunProgress(epoch=1, seconds={"collection": 2.0, "tokenizer": 4.0, "world": 6.0})
    assert projected_seconds(plan(config), 3, progress) is None
    progress.epoch = 2
    progress.seconds["policy"] = 8.0
    # The third and last epoch collects nothing and takes half of what two epochs, or one, have taken.
    assert projected_seconds(plan(config), 3, progress) == pytest.approx(4 / 2 + 6 / 2 + 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the replay of a GPU is allocated at the start")
def test_memory_grows_by_the_frames_still_to_come(tiny_run):
    frame = 3 * 64 * 64
    for config, per_step in (
        (tiny_run(), 5 * frame),
        (tiny_run("imagination.burn_in=0"), frame),
        (tiny_run("policy.inputs=tokens"), frame),
    ):
        total = config.total_env_steps
        finished = projected_memory(config, RunProgress(env_steps=total))
        assert finished > 1e7
        halfway = projected_memory(config, RunProgress(env_steps=total // 2))
        assert halfway - finished == pytest.approx(total // 2 * per_step, abs=2e6)
