"""Progress on the terminal: the run, the current phase with its rate, and a line after every epoch."""

import os
import resource
import sys
import time

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
from iris_wm.training.batches import Step
from iris_wm.training.schedule import COLLECTION_CHUNK, phases
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


class Display:
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
        self._run_task = self._bars.add_task("epochs", total=config.training.num_epochs, rate="")
        self._phase_task = self._bars.add_task("starting", total=None, rate="")
        self._component = ""
        self._component_started = 0.0
        self._run_started = time.monotonic()
        self._first_epoch = 1

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin_run(self, progress: RunProgress) -> None:
        """Where the run starts in this process."""
        self._first_epoch = progress.epoch
        self._bars.update(self._run_task, completed=progress.epoch - 1)

    def begin_step(self, progress: RunProgress, step: Step) -> None:
        """Name the phase when it begins."""
        if step.component != self._component or step.index == 0:
            self._component, self._component_started = step.component, time.monotonic()
            self._first_index = step.index
            self._bars.reset(self._phase_task, total=step.num_steps, completed=step.index)
            self._bars.update(self._phase_task, description=step.component.replace("_", " "), rate="")

    def end_step(self, progress: RunProgress, step: Step) -> None:
        """Advance the phase."""
        done = step.index + 1 - self._first_index
        per_second = done / max(time.monotonic() - self._component_started, 1e-9)
        if step.component == "collection":
            per_second *= COLLECTION_CHUNK * self.config.collection.num_envs
        unit = "env steps/s" if step.component == "collection" else "steps/s"
        self._bars.update(self._phase_task, completed=step.index + 1, rate=f"{per_second:.3g} {unit}")

    def work(self, what: str, done: int, total: int) -> None:
        """Show what goes on inside a step."""
        self._bars.update(self._phase_task, rate=f"{what} {done}/{total}")

    def end_epoch(self, progress: RunProgress, metrics: dict[str, float]) -> None:
        """One line of what the epoch brought; after the first full epoch, what the whole run will take."""
        self._bars.update(self._run_task, completed=progress.epoch)
        if self.is_quiet:
            return
        numbers = "  ".join(
            f"{label} {metrics[name]:.4g}" for name, label in _SHOWN.items() if name in metrics
        )
        total = self.config.training.num_epochs
        self.console.print(
            f"epoch {progress.epoch}/{total}  {progress.env_steps} env steps  "
            f"{self._left(progress)}  [dim]{numbers}[/dim]",
            soft_wrap=True,
            highlight=False,
        )

    def _left(self, progress: RunProgress) -> str:
        """Time left, from this run's seconds a scheduled step of each component, and the memory it will take."""
        left = projected_seconds(self.config, progress)
        if left is None:
            return ""
        memory = f"memory up to {projected_memory(self.config, progress) / 1e9:.1f} GB"
        return f"about {duration(left)} left, {memory}"


def projected_seconds(config: RunConfig, progress: RunProgress) -> float | None:
    """Seconds that the epochs after this one will take, from the measured seconds a step of each component.

    None until every component has run at least once.
    """
    done: dict[str, int] = {}
    left: dict[str, int] = {}
    for epoch in range(1, config.training.num_epochs + 1):
        counts = done if epoch <= progress.epoch else left
        for phase in phases(config, epoch):
            counts[phase.component] = counts.get(phase.component, 0) + phase.num_steps
    if any(component not in progress.seconds or component not in done for component in left):
        return None
    return sum(num * progress.seconds[component] / done[component] for component, num in left.items())


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
