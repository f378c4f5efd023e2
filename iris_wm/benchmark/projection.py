"""What is still to run, in hours and gigabytes, from finished runs where there are any."""

import math
import statistics
from collections import Counter
from pathlib import Path

from iris_wm.benchmark.jobs import Job, Plan, State, inspect
from iris_wm.evaluation.published import published
from iris_wm.evaluation.result import load_result
from iris_wm.visualization.numbers import duration

# Of a run of 100,000 frames with the paper's networks: two checkpoints of 16 M parameters with Adam's moments
# (188 MB each) and the compressed replay (22 to 84 MB).
_DISK_GB = 0.46


def summary(plan: Plan, workers: int, hours_per_job: float | None = None) -> str:
    """How many jobs are in which state, and the hours and disk of those left, in three lines.

    Hours come from `hours_per_job`, else from the median of the done runs, else, for the paper's preset, from
    the published time of IRIS.
    """
    states = {job: inspect(job, plan).state for job in plan.jobs}
    counts = Counter(states.values())
    done = [job for job, state in states.items() if state is State.DONE]
    left = counts[State.HALF_DONE] + counts[State.MISSING]
    known = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    hours, hours_from = _hours(plan, done, hours_per_job)
    size, size_from = _DISK_GB, "estimate: two checkpoints and the compressed replay"
    if done:
        size, size_from = statistics.median(map(_gigabytes, done)), f"median of {len(done)} done runs"
    time = hours_from
    if hours is not None:
        each, whole, wall = (duration(3600 * hours * count) for count in (1, left, math.ceil(left / workers)))
        time = f"{left} jobs left x {each} = {whole} of jobs, {wall} with {workers} at once ({hours_from})"
    return (
        f"{len(states)} jobs ({len(plan.games)} games x {len(plan.seeds)} seeds): {known}\n"
        f"time: {time}\n"
        f"disk: {left} jobs left x {_in_words(size)} = {_in_words(size * left)} ({size_from})"
    )


def env_steps_so_far(run: Path) -> int:
    """Env steps that a run folder's metrics reached; 0 where there are none."""
    path = run / "metrics.csv"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        first = line.split(",")[0]
        if first.isdigit():
            return int(first)
    return 0


def _hours(plan: Plan, done: list[Job], given: float | None) -> tuple[float | None, str]:
    if given is not None:
        return given, "as given"
    if done:
        hours = [load_result(job.result_file).wall_seconds / 3600 for job in done]
        return statistics.median(hours), f"median of {len(done)} done runs"
    if plan.preset == "iris":
        method = published()["IRIS"]
        return method.hours_per_run, f"published for IRIS on {method.gpu}; none done here yet"
    return None, "unknown until a run is done: give --hours-per-job"


def _gigabytes(job: Job) -> float:
    return sum(file.stat().st_size for file in job.run.rglob("*") if file.is_file()) / 1e9


def _in_words(gigabytes: float) -> str:
    return f"{gigabytes:,.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:,.0f} MB"
