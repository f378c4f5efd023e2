"""Progress on the terminal: the run, the current phase with its rate, and a line after every epoch."""

import os
import resource
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import RunProgress
from iris_wm.training.module import IrisModule
from iris_wm.training.schedule import COLLECTION_CHUNK, Phase, Step
from iris_wm.visualization.numbers import duration

_SHOWN = {
    "collection/return": "return",
    "evaluation/return": "test return",
    "tokenizer/reconstruction_loss": "reconstruction",
    "tokenizer/codes_used": "codes",
    "world/observation_loss": "tokens",
    "world/reward_loss": "rewards",
    "policy/imagined_return": "imagined return",
}


class RunConsole(Console):
    """A console whose reader may go away, as `| head` does: the run goes on, and prints no more."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process here."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display(pl.Callback):
    """Two bars on a terminal; elsewhere only the line after every epoch."""

    def __init__(self, config: RunConfig, console: Console | None = None, is_quiet: bool = False) -> None:
        self.config = config
        self.console = console or Console()
        self.is_quiet = is_quiet
        self._bars = Progress(
            TextColumn("[bold]{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=is_quiet or not self.console.is_terminal,
            transient=True,
        )
        self._epochs = self._bars.add_task("epochs", total=config.training.num_epochs, rate="")
        self._phase = self._bars.add_task("starting", total=None, rate="")
        self._began: Step | None = None
        self._began_at = 0.0

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where the run starts in this process."""
        assert isinstance(pl_module, IrisModule)
        self._bars.update(self._epochs, completed=pl_module.progress.epoch - 1)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Step, batch_idx: int
    ) -> None:
        """Name the phase when it begins."""
        began = self._began
        if began is None or (batch.epoch, batch.component) != (began.epoch, began.component):
            self._began, self._began_at = batch, time.monotonic()
            self._bars.reset(self._phase, total=batch.num_steps, completed=batch.index)
            self._bars.update(self._phase, description=batch.component.replace("_", " "), rate="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Advance the phase."""
        assert self._began is not None
        done = batch.index + 1 - self._began.index
        per_second = done / max(time.monotonic() - self._began_at, 1e-9)
        unit = "steps/s"
        if batch.component == "collection":
            per_second, unit = per_second * COLLECTION_CHUNK * self.config.collection.num_envs, "env steps/s"
        self._bars.update(self._phase, completed=batch.index + 1, rate=f"{per_second:.3g} {unit}")

    def work(self, what: str, done: int, total: int) -> None:
        """Show what goes on inside a step."""
        self._bars.update(self._phase, rate=f"{what} {done}/{total}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line of what the epoch brought; after the first full epoch, what the whole run will take."""
        assert isinstance(pl_module, IrisModule)
        progress, numbers = pl_module.progress, pl_module.numbers
        self._bars.update(self._epochs, completed=progress.epoch)
        if self.is_quiet:
            return
        shown = "  ".join(
            f"{label} {numbers[name]:.4g}" for name, label in _labels(pl_module).items() if name in numbers
        )
        left = projected_seconds(pl_module.phases, self.config.training.num_epochs, progress)
        memory = f"memory up to {projected_memory(self.config, progress) / 1e9:.1f} GB"
        self.console.print(
            f"epoch {progress.epoch}/{self.config.training.num_epochs}  {progress.env_steps} env steps  "
            f"{'' if left is None else f'about {duration(left)} left, {memory}'}  [dim]{shown}[/dim]",
            soft_wrap=True,
            highlight=False,
        )


def _labels(module: IrisModule) -> dict[str, str]:
    """What the line of an epoch shows, by the number's name: of a network that we do not know, its loss."""
    known = {name.split("/")[0] for name in _SHOWN}
    return _SHOWN | {f"{each.name}/loss": each.name for each in module.learners if each.name not in known}


def projected_seconds(plan: list[Phase], num_epochs: int, progress: RunProgress) -> float | None:
    """Seconds that the epochs after this one will take, from the measured seconds a step of each component.

    None until every component has run at least once.
    """
    total = 0.0
    for phase in plan:
        done = sum(phase.num_steps(epoch) for epoch in range(1, progress.epoch + 1))
        left = sum(phase.num_steps(epoch) for epoch in range(progress.epoch + 1, num_epochs + 1))
        if left and (not done or phase.component not in progress.seconds):
            return None
        total += left * progress.seconds[phase.component] / done if left else 0.0
    return total


def projected_memory(config: RunConfig, progress: RunProgress) -> float:
    """Bytes at the run's end: the most used so far, on the GPU where there is one, and what the replay still adds.

    The replay of a GPU is allocated at the start. On a CPU the system gives it page by page, as frames arrive; and
    reconstructions for a policy that sees frames grow with it everywhere.
    """
    pixels = 3 * config.env.resolution**2
    missing = max(0, config.total_env_steps - progress.env_steps)
    per_step = 0
    if config.policy.sees_frames and config.imagination.burn_in:
        per_step += 4 * pixels
    if torch.cuda.is_available() and config.trainer.accelerator != "cpu":
        return torch.cuda.max_memory_allocated() + missing * per_step
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) + missing * (per_step + pixels)
