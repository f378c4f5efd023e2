"""A small training state whose every number follows from its step, so that a mix-up shows."""

from types import SimpleNamespace

import pytest
import torch

from iris_wm.checkpoint.folder import resume, save_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder

IDENTITY = {"env": {"id": "Breakout"}, "seed": 0, "world": {"num_layers": 2}}


class ToyReplay:
    """`num_steps` steps of (3, 4, 4) frames that carry their index."""

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def export_steps(self, start, stop):
        assert 0 <= start <= stop <= self.num_steps
        index = torch.arange(start, stop)
        return {
            "frames": (index % 251).to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).clone(),
            "actions": index % 4,
            "rewards": index.float() / 3,
            "terminations": index % 10 == 9,
        }


def agent_of(step):
    return {"tokenizer.weight": torch.full((4, 3), float(step)), "actor.bias": torch.arange(5) + step}


def training_of(step):
    return {
        "loops": {"epoch": step // 10, 0: (step, None, True)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(7)}}}],
        "emulator": bytes([step % 256]) * 50,
    }


@pytest.fixture
def toy(tmp_path):
    """`toy.open()` a run folder, `toy.save(run, step)` into it and `toy.check(checkpoint, step)`."""
    path = tmp_path / "run"

    def open_run(**changes):
        return RunFolder(path, {**IDENTITY, **changes}, "seed: 0\n")

    def save(run, step, **options):
        run.metrics.append(step, step // 10, {"tokenizer/loss": step / 7})
        options = {"replay": ToyReplay(step * 10), **options}
        return save_checkpoint(
            run,
            step=step,
            env_steps=step * 10,
            epoch=step // 10,
            agent=agent_of(step),
            agent_config={"num_layers": 2},
            training=training_of(step),
            **options,
        )

    def new_run(steps=()):
        run = open_run()
        assert resume(run) is None
        for step in steps:
            save(run, step)
        return run

    def check(checkpoint, step):
        assert (checkpoint.manifest.step, checkpoint.manifest.env_steps) == (step, step * 10)
        assert checkpoint.training["loops"] == training_of(step)["loops"]
        assert checkpoint.training["emulator"] == training_of(step)["emulator"]
        for name, tensor in agent_of(step).items():
            assert torch.equal(checkpoint.agent[name], tensor)
        parts = list(checkpoint.replay_parts())
        for name, column in ToyReplay(step * 10).export_steps(0, step * 10).items():
            assert torch.equal(torch.cat([part[name] for part in parts]), column)

    return SimpleNamespace(path=path, open=open_run, new=new_run, save=save, check=check, replay=ToyReplay)
