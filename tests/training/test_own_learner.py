"""A fourth network is a learner in the list: it trains, is saved, resumes exactly, is logged and shown."""

import csv
import signal

import pytest
import torch
from torch import nn

from iris_wm.checkpoint.errors import Stopped
from iris_wm.checkpoint.folder import load_checkpoint
from iris_wm.checkpoint.verify import list_checkpoints
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Pieces
from iris_wm.runs.progress import STATE_KEY
from iris_wm.spaces import ActionSpace
from iris_wm.training.module import NETWORKS_KEY, IrisModule
from iris_wm.training.schedule import iris_learners
from iris_wm.training.train import fit


class Brightness:
    """Learns from a frame how much of it is lit, with dropout, from the second epoch on."""

    name = "brightness"

    def __init__(self):
        self.network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 64 * 64, 1))
        self.optimization = OptimizationConfig(start_after_epoch=1, steps_per_epoch=3, learning_rate=1e-3)
        self.pieces = Pieces(4, 2)
        self.begun = []

    def begin_phase(self, batches, epoch):
        self.begun.append(epoch)

    def losses(self, segment, draw):
        assert draw.seed.shape == (4,)
        frames = segment.frames.flatten(0, 1).float() / 255
        error = self.network(frames).squeeze(1) - frames.mean((1, 2, 3))
        yield {"error": error.square().mean()}, {"frames": segment.is_real.sum()}


def with_brightness(config, agent, report):
    return [*iris_learners(config, agent, report), Brightness()]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reference(tiny_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "reference"
    fit(tiny_run(), path, is_quiet=True, make_learners=with_brightness)
    return path


def newest(path):
    return load_checkpoint(list_checkpoints(path)[0])


def test_it_is_trained_logged_and_saved(reference, tiny_run):
    rows = list(csv.DictReader((reference / "metrics.csv").read_text().splitlines()))
    logged = {row["name"] for row in rows if row["name"].startswith("brightness/")}
    assert logged == {"brightness/error", "brightness/frames", "brightness/grad_norm", "brightness/loss"}
    epochs = [int(row["epoch"]) for row in rows if row["name"] == "brightness/loss"]
    assert epochs == [2, 3]
    checkpoint = newest(reference)
    assert checkpoint.training[STATE_KEY]["seconds"]["brightness"] > 0
    saved = checkpoint.training[NETWORKS_KEY]["brightness"]["2.weight"]
    fresh = IrisModule(tiny_run(), ActionSpace.discrete(3), with_brightness)
    assert not torch.equal(saved, fresh.networks["brightness"][2].weight)
    assert not any("brightness" in name for name in checkpoint.agent), "the agent is as without it"


def test_the_others_learn_as_without_it(reference, tiny_run, tmp_path):
    fit(tiny_run(), tmp_path / "run", is_quiet=True)
    alone, beside = newest(tmp_path / "run").agent, newest(reference).agent
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


@pytest.mark.parametrize("step", [14, 16])
def test_it_resumes_exactly(reference, tiny_run, tmp_path, monkeypatch, step):
    original = IrisModule.training_step

    def stopped(self, *arguments):
        if self.progress.total_steps == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(IrisModule, "training_step", stopped)
        with pytest.raises(Stopped):
            fit(tiny_run(), tmp_path / "run", is_quiet=True, make_learners=with_brightness)
    fit(tiny_run(), tmp_path / "run", is_quiet=True, make_learners=with_brightness)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    one, two = (newest(path).training for path in (reference, tmp_path / "run"))
    for key, value in one[NETWORKS_KEY]["brightness"].items():
        assert torch.equal(value, two[NETWORKS_KEY]["brightness"][key])
    for mine, theirs in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        for key, state in mine["state"].items():
            assert torch.equal(state["exp_avg_sq"], theirs["state"][key]["exp_avg_sq"])


def test_it_is_shown(tiny_run, tmp_path, capsys):
    config = tiny_run("training.num_epochs=2", "evaluation.every_epochs=0")
    fit(config, tmp_path / "run", make_learners=with_brightness)
    assert "  brightness 1." in capsys.readouterr().out
