"""Training as users do it, a few steps long: every network of three presets, stopped and resumed."""

import csv
import math
import shutil
import time
from typing import Any

import torch
from presets import preset
from stage import Stage

from iris_wm.checkpoint.errors import Stopped
from iris_wm.runs.config import RunConfig
from iris_wm.training.train import fit

NETWORKS = ("tokenizer", "world", "policy")


def run(stage: Stage) -> None:
    """An epoch in bfloat16 and one in float32, and how far their losses are apart; then a run that is stopped."""
    for name in ("debug",) if stage.is_small else ("demo", "fast", "iris"):
        losses = {}
        for precision in ("bf16", "32"):
            found = stage.case(f"{name}, {precision}", _train, stage, name, precision)
            losses[precision] = found.get("losses")
        if losses.get("bf16") and losses.get("32"):
            stage.case(f"{name}, bf16 against 32", _compare, losses["bf16"], losses["32"])
    stage.case("stopped and resumed", _stop_and_resume, stage)


def _short(stage: Stage, name: str, more: dict[str, object]) -> RunConfig:
    """The preset with two hundred steps of its game and ten updates of each network; more: further overrides."""
    of_each = {"start_after_epoch": 0, "steps_per_epoch": 10, "first_epoch_steps": 0}
    overrides: dict[str, object] = {
        "env.id": stage.game,
        "training.num_epochs": 1,
        "evaluation.every_epochs": 0,
        "collection.first_epoch_env_steps": 200,
        "collection.env_steps_per_epoch": 100,
        "trainer.accelerator": "gpu",
    }
    if stage.is_small:
        of_each |= {"steps_per_epoch": 1, "batch_size": 2}
        overrides |= {
            "trainer.accelerator": "cpu",
            "world.num_layers": 1,
            "collection.first_epoch_env_steps": 10,
            "collection.env_steps_per_epoch": 10,
        }
    overrides |= {
        f"{network}.optimization.{key}": value for network in NETWORKS for key, value in of_each.items()
    }
    return preset(name, *(f"{key}={value}" for key, value in (overrides | more).items()))


def _train(stage: Stage, name: str, precision: str) -> dict[str, Any]:
    run = stage.work / "train" / f"{name}-{precision}"
    shutil.rmtree(run, ignore_errors=True)
    is_cuda = stage.device.type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    fit(_short(stage, name, {"trainer.precision": f'"{precision}"'}), run, is_quiet=True)
    seconds = time.monotonic() - started
    with open(run / "metrics.csv") as file:
        numbers = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    losses = {key: value for key, value in numbers.items() if key.startswith(NETWORKS) and "loss" in key}
    assert {key.split("/")[0] for key in losses} == set(NETWORKS), f"losses of {sorted(losses)} alone"
    assert all(map(math.isfinite, numbers.values())), f"not finite: {numbers}"
    memory = {"memory_gb": torch.cuda.max_memory_allocated() / 1e9} if is_cuda else {}
    return {"seconds": seconds, "losses": losses, **memory}


def _compare(bf16: dict[str, float], exact: dict[str, float]) -> dict[str, Any]:
    """How far the losses are apart. The two worlds learn from tokens of two tokenizers."""
    apart = {key: abs(bf16[key] - value) / max(1e-3, abs(value)) for key, value in exact.items()}
    for key, limit in (("tokenizer/loss", 0.1), ("world/observation_loss", 0.3)):
        assert apart[key] < limit, f"{key} is {bf16[key]} in bfloat16, {exact[key]} in float32"
    return {"apart": apart}


def _stop_and_resume(stage: Stage) -> dict[str, Any]:
    run = stage.work / "train" / "stopped"
    shutil.rmtree(run, ignore_errors=True)
    name = "debug" if stage.is_small else "fast"
    several = {"training.num_epochs": 2}
    try:
        fit(_short(stage, name, several | {"training.max_minutes": 0.001}), run, is_quiet=True)
    except Stopped as stopped:
        told = str(stopped)
    else:
        raise AssertionError("max_minutes did not stop the run")
    progress = fit(_short(stage, name, several), run, is_quiet=True).progress
    assert progress.epoch == 3, f"resumed, but epoch {progress.epoch} is not the end"
    return {"stopped": told, "env_steps": progress.env_steps}
