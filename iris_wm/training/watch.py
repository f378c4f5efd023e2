"""Watches the numbers: non-finite weights, the report of a numeric failure, and a codebook that falls asleep."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import safetensors.torch
import torch
from rich.console import Console

from iris_wm.agent import Agent
from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import NumericFailure
from iris_wm.training.batches import Step
from iris_wm.training.module import IrisModule
from iris_wm.training.schedule import NETWORKS

FAILURE_FOLDER = "failure"
LEAST_SHARE, PATIENCE = 0.05, 5


def check_weights(agent: Agent, where: str) -> None:
    """Raise NumericFailure naming the first weight that is not finite."""
    for name, weight in agent.weights().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise NumericFailure(f"{name} is not finite; {where}", tensor=name)


class FailureReport(pl.Callback):
    """Checks all weights when a network's phase begins, and keeps the batch on which a number went bad.

    RUN/failure/failure.json names the tensor, phase and step; batch.safetensors holds what the step had drawn.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FAILURE_FOLDER
        self._step: Step | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Step, batch_idx: int
    ) -> None:
        """Remember the step; look at the weights at the start of a phase."""
        assert isinstance(pl_module, IrisModule)
        self._step = batch
        pl_module.segment = None
        if batch.component in NETWORKS and batch.index == 0:
            try:
                check_weights(
                    pl_module.agent,
                    f"found before {batch.component}, epoch {batch.epoch}, step 0; nothing was saved",
                )
            except NumericFailure:
                assert pl_module.sampler is not None
                pl_module.segment = pl_module.sampler.sample(batch)  # what the step would have learned from
                raise

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write the report; a full disk must not hide the failure itself."""
        if not isinstance(exception, NumericFailure) or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, IrisModule)
        step, segment = self._step, pl_module.segment
        report: dict[str, Any] = {"message": str(exception), "tensor": exception.tensor}
        if step is not None:
            report |= {"phase": step.component, "epoch": step.epoch, "step": step.index}
        try:
            durable.make_folder(self.folder)
            if segment is not None:
                columns = {each.name: getattr(segment, each.name) for each in fields(segment)}
                data = safetensors.torch.save(
                    {
                        name: column.detach().cpu().contiguous()
                        for name, column in columns.items()
                        if column is not None
                    }
                )
                durable.replace_file(self.folder / "batch.safetensors", data)
            durable.replace_file(self.folder / "failure.json", json.dumps(report, indent=1).encode())
        except OSError:
            return


class CodebookWatch(pl.Callback):
    """One line on the terminal when less than 5% of the codes were used in 5 tokenizer phases in a row."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phases_asleep = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Count at the end of a tokenizer phase; comes after Metrics, which takes the phase's mean."""
        if batch.component != "tokenizer" or not batch.is_last:
            return
        assert isinstance(pl_module, IrisModule)
        used = pl_module.metrics["tokenizer/codes_used"]
        size = pl_module.agent.tokenizer.quantizer.codebook_size
        self.phases_asleep = self.phases_asleep + 1 if used < LEAST_SHARE * size else 0
        if self.phases_asleep == PATIENCE and trainer.is_global_zero:
            self.console.print(
                f"codebook collapse: {used:.1f} of {size} codes used a batch (less than {LEAST_SHARE:.0%}) in "
                f"{PATIENCE} tokenizer phases in a row, at epoch {batch.epoch}; the world model sees few distinct "
                "frames: lower tokenizer.optimization.learning_rate, or try tokenizer.quantizer: fsq",
                style="yellow",
                soft_wrap=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """The count, so that a resumed run warns where an undisturbed one does."""
        return {"phases_asleep": self.phases_asleep}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.phases_asleep = state_dict["phases_asleep"]
