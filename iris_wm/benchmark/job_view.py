"""What a person sees while jobs run: bars on a terminal, one line per event elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from iris_wm.benchmark.jobs import Job, Plan, State, inspect
from iris_wm.benchmark.process import Outcome
from iris_wm.benchmark.projection import env_steps_so_far

_REFRESH_SECONDS = 2.0


class ProgressView:
    """A `runners.Listener` that shows the benchmark and each running job in env steps; a context manager."""

    def __init__(self, plan: Plan, num_jobs: int, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("all jobs", total=num_jobs, unit="jobs")
        self._jobs: dict[Job, TaskID] = {}
        self._last_refresh = 0.0

    def __enter__(self) -> "ProgressView":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, job: Job) -> None:
        """Show a job's own bar."""
        self._jobs[job] = self._bars.add_task(job.name, total=self._plan.env_steps, unit="env steps")
        if not self._console.is_terminal:
            self._console.print(f"{job.name}: started")

    def ended(self, outcome: Outcome) -> None:
        """Take the job's bar away and say how it went."""
        self._bars.remove_task(self._jobs.pop(outcome.job))
        self._bars.advance(self._all)
        again = f", restarted {outcome.restarts} times" if outcome.restarts else ""
        if outcome.ok:
            self._console.print(f"{outcome.job.name}: done{again}", style="green", highlight=False)
        else:
            self._console.print(
                f"{outcome.job.name}: failed{again}: {outcome.reason}",
                style="red",
                highlight=False,
                markup=False,
            )

    def tick(self) -> None:
        """Read how far the running jobs are, every two seconds."""
        if not self._console.is_terminal or time.monotonic() - self._last_refresh < _REFRESH_SECONDS:
            return
        self._last_refresh = time.monotonic()
        for job, task in self._jobs.items():
            self._bars.update(task, completed=env_steps_so_far(job.run))


def job_table(plan: Plan) -> Table:
    """Every job with its state, env steps so far and, if it needs one, the reason."""
    table = Table("job", "state", "env steps", "run folder", "note", box=None, header_style="bold")
    colours = {State.DONE: "green", State.HALF_DONE: "yellow", State.REFUSED: "red", State.MISSING: "dim"}
    for job in plan.jobs:
        status = inspect(job, plan)
        steps = plan.env_steps if status.state is State.DONE else env_steps_so_far(job.run)
        table.add_row(
            job.name,
            f"[{colours[status.state]}]{status.state.value}[/]",
            f"{steps:,}",
            str(job.run.relative_to(plan.output)),
            status.reason,
        )
    return table


def failures(outcomes: list[Outcome], plan: Plan) -> str:
    """The jobs that failed or were refused, each with its reason and log; empty if none."""
    failed = {outcome.job.name: outcome.reason for outcome in outcomes if not outcome.ok}
    for job in plan.jobs:
        status = inspect(job, plan)
        if status.state is State.REFUSED:
            failed[job.name] = f"refused: {status.reason}"
    logs = plan.output / "logs"
    return "\n".join(f"{name}: {reason}\n  log: {logs / name}.log" for name, reason in sorted(failed.items()))
