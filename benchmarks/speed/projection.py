"""What the rows of the speed table say of a whole epoch and a whole run."""

import torch
from clock import Row

from iris_wm.runs.config import RunConfig
from iris_wm.training.schedule import num_collection_steps

_NETWORKS = ("tokenizer", "world", "policy")
# How the name of the row of each phase begins.
_ROWS = {
    "collection": "collection",
    "tokenizer": "tokenizer: training",
    "world": "world model",
    "policy": "actor-critic",
}


def frames_a_segment(config: RunConfig, num_frames: int = 50_000) -> dict[str, float]:
    """Frames that the once-an-epoch cache encodes and decodes for each segment of an update.

    A batch draws frames at random, so of num_frames in the replay an epoch's D draws touch about
    num_frames (1 - exp(-D / num_frames)) different ones; each is computed once, for both networks that learn from it.
    """
    steps = config.world.segment_steps
    segments = {
        name: optimization.steps_per_epoch * optimization.batch_size
        for name in ("world", "policy")
        for optimization in [getattr(config, name).optimization]
    }
    seen = config.imagination.burn_in + 1
    draws = segments["world"] * steps + segments["policy"] * seen

    def touched(num_draws: int) -> float:
        return num_frames * -torch.expm1(torch.tensor(-num_draws / num_frames, dtype=torch.float64)).item()

    decoded = touched(segments["policy"] * seen) if config.policy.sees_frames else 0.0
    return {
        "encode": touched(draws) / max(1, sum(segments.values())),
        "decode": decoded / max(1, segments["policy"]),
    }


def project(
    config: RunConfig, rows: list[Row], *, frames: int, update_batch: int
) -> dict[str, dict[str, float]]:
    """By side: seconds of a whole epoch of all phases, and hours of the whole run.

    rows: measured with this many frames a tokenizer step and this batch of the other updates. Sides that a phase
    has no row for are left out, and all of them where a phase was not measured.
    """
    found = {
        name: next((row for row in rows if row.name.startswith(start)), None) for name, start in _ROWS.items()
    }
    measured = {name: row for name, row in found.items() if row is not None}
    if len(measured) < len(found):
        return {}
    scale = {
        "collection": 1.0,
        "tokenizer": config.tokenizer.optimization.batch_size / frames,
        "world": config.world.optimization.batch_size / update_batch,
        "policy": config.policy.optimization.batch_size / update_batch,
    }
    epochs = range(1, config.training.num_epochs + 1)
    counts = {"collection": [num_collection_steps(config, epoch) for epoch in epochs]}
    for name in _NETWORKS:
        counts[name] = [getattr(config, name).optimization.num_steps(epoch) for epoch in epochs]
    usual = min(config.collection.stop_after_epoch, config.training.num_epochs) - 1
    projected = {}
    for side in measured["policy"].seconds:
        # The tokenizer and what acts are the same whichever way frames are predicted.
        same = {"parallel": "exact", "parallel bf16": "bf16"}
        seconds = {}
        for name, row in measured.items():
            one = row.seconds.get(side, row.seconds.get(same.get(side, side)))
            assert one is not None
            seconds[name] = one * scale[name]
        epoch = {name: counts[name][usual] * seconds[name] for name in seconds}
        whole = sum(sum(counts[name]) * seconds[name] for name in seconds)
        projected[side] = {"epoch_seconds": sum(epoch.values()), "run_hours": whole / 3600} | {
            f"epoch_{name}_seconds": value for name, value in epoch.items()
        }
    return projected
