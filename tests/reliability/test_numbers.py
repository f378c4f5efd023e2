"""A number that is not finite stops the run with exit code 4 before it can reach a weight or a checkpoint."""

import io
import json

import gymnasium
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from iris_wm import cli
from iris_wm.checkpoint.folder import load_checkpoint
from iris_wm.checkpoint.verify import list_checkpoints
from iris_wm.training.watch import PATIENCE, CodebookWatch

# What, where it is put in (place and call), the phase that ends, and the tensor named.
CASES = [
    ("loss", "optimize", 9, "policy", "policy/policy_loss"),
    ("gradient", "optimize", 7, "world", "gradient of world."),
    ("latent", "optimize", 5, "tokenizer", "latents"),
    ("codebook", "step", 9, "tokenizer", "tokenizer.quantizer"),
    ("parameter", "step", 10, "world", "world."),
    ("parameter", "step", 14, "policy", "world."),
    ("imagined logits", "step", 14, "policy", "logits of the imagination"),
    ("logits", "step", 7, "collection", "action_logits"),
    ("reward", "collect", 3, "collection", "reward"),
    ("world model logits", "optimize", 7, "world", "world/observation_loss"),
]


@pytest.mark.parametrize(
    ("what", "place", "call", "phase", "tensor"), CASES, ids=[f"{case[0]} in {case[3]}" for case in CASES]
)
def test_the_run_stops_and_says_why(
    processes, tiny_config, undisturbed, digest, tmp_path, what, place, call, phase, tensor
):
    run = tmp_path / "run"
    fit = ("fit", "--config", tiny_config, "--run", run, "--quiet", "--training.checkpoint_every_epochs", "1")
    finished = processes.run(*fit, hook={"place": place, "call": call, "what": what})
    assert finished.code == 4, finished.text
    assert finished.text.count("\n") == 1, finished.text
    report = json.loads((run / "failure" / "failure.json").read_text())
    assert report["tensor"].startswith(tensor), report
    assert report["message"] in finished.text
    assert (report["phase"], report["epoch"] > 0, report["step"] >= 0) == (phase, True, True), report
    batch = run / "failure" / "batch.safetensors"
    if phase != "collection":
        assert {"frames", "actions", "rewards", "is_real"} <= load_file(batch).keys()
    for folder in list_checkpoints(run):
        for name, weight in load_checkpoint(folder).agent.items():
            assert not weight.is_floating_point() or torch.isfinite(weight).all(), name
    assert len(list_checkpoints(run)) >= 1, "the last good one is kept"
    if what in ("loss", "imagined logits"):
        assert processes.run(*fit).code == 0, "and the run goes on from it"
        assert digest(run) == digest(undisturbed)


def test_a_reward_of_somebodys_environment(tiny_config, tmp_path, capsys):
    """Outside Atari a reward can be anything; the exit code is that of a number, not that of a bad config."""

    class Nan(gymnasium.RewardWrapper):
        def reward(self, reward):
            return float("nan")

    gymnasium.register("iris_wm/NanCatch-v0", lambda: Nan(gymnasium.make("iris_wm/Catch-v0")))
    run = tmp_path / "run"
    try:
        fit = ["fit", "--config", str(tiny_config), "--run", str(run), "--quiet"]
        assert cli.main([*fit, "--env.id", "iris_wm/NanCatch-v0"]) == 4
    finally:
        del gymnasium.registry["iris_wm/NanCatch-v0"]
    text = capsys.readouterr().err
    assert 'reward of env "iris_wm/NanCatch-v0" is nan, expected a finite number' in text
    assert text.count("\n") == 1
    assert json.loads((run / "failure" / "failure.json").read_text())["tensor"] == "reward"


def warnings_of(monkeypatch, shares: list[float]) -> list[str]:
    from types import SimpleNamespace

    from iris_wm.training import watch
    from iris_wm.training.schedule import Step

    monkeypatch.setattr(watch, "IrisModule", SimpleNamespace)
    console = Console(width=400, record=True, file=io.StringIO())
    callback = CodebookWatch(console)
    for epoch, share in enumerate(shares):
        module = SimpleNamespace(
            numbers={"tokenizer/codes_used": share * 512},
            agent=SimpleNamespace(tokenizer=SimpleNamespace(quantizer=SimpleNamespace(codebook_size=512))),
        )
        trainer = SimpleNamespace(is_global_zero=True)
        for index in range(2):
            callback.on_train_batch_end(
                trainer, module, None, Step(epoch, "tokenizer", index, 2, dict), index
            )
        callback.on_train_batch_end(trainer, module, None, Step(epoch, "world", 0, 1, dict), 2)
        kept = callback.state_dict()
        callback = CodebookWatch(console)
        callback.load_state_dict(kept)
    return console.export_text().splitlines()


def test_a_collapsed_codebook_is_warned_of_once(monkeypatch):
    lines = warnings_of(monkeypatch, [0.9] + [0.01] * 3 * PATIENCE)
    assert len(lines) == 1
    assert "codebook collapse: 5.1 of 512 codes" in lines[0]


def test_a_short_nap_is_no_collapse(monkeypatch):
    assert warnings_of(monkeypatch, ([0.01] * (PATIENCE - 1) + [0.06]) * 3) == []
