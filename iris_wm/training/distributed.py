"""Processes that train together: who leads, how they decide together, and how they end together.

Rank 0 is the process that the user started: it alone locks and writes the run folder. Lightning starts the others
with the same command; each collects the same experience by itself and draws batches of its own.
"""

import os
import zlib

import lightning.pytorch as pl
import torch

from iris_wm.checkpoint.errors import NumericFailure
from iris_wm.data.replay import Replay
from iris_wm.runs.config import TrainerConfig


def own_rank(config: TrainerConfig) -> int:
    """0, but in a process that Lightning's launcher has started."""
    return int(os.environ.get("LOCAL_RANK", "0")) if config.devices > 1 else 0


def agree(trainer: pl.Trainer, value: int) -> int:
    """The largest value of all processes; every one of them must ask."""
    if trainer.world_size == 1:
        return value
    shared = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return int(shared)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether communication failed, because a process died or hangs."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def check_same_experience(trainer: pl.Trainer, replay: Replay, start: int) -> None:
    """NumericFailure unless every process has collected the same steps from `start` on."""
    if trainer.world_size == 1:
        return
    steps = replay.export_steps(start, replay.num_steps)
    digest = replay.num_steps
    for column in steps.values():
        digest = zlib.crc32(column.contiguous().numpy().tobytes(), digest)
    if agree(trainer, digest) != -agree(trainer, -digest):
        raise NumericFailure(
            f"collection: the processes have collected different experience by env step {replay.num_steps}; "
            "train with trainer.devices: 1, or on equal devices",
            tensor="experience",
        )
