"""What is still to run, in hours and gigabytes, from finished runs where there are any."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from iris_wm.benchmark.jobs import Job, Plan, State, inspect
from iris_wm.evaluation.published import published
from iris_wm.evaluation.result import load_result

# Of a run of 100,000 frames with the paper's networks: two checkpoints of 16 M parameters with Adam's moments
# (188 MB each) and the compressed replay (22 to 84 MB).
_DISK_GB = 0.46


@dataclass(frozen=True)
class Projection:
    """Hours and gigabytes of one job, and of the `num_jobs` not yet done, with where the figures are from.

    hours is None where nothing is known; wall_hours counts `workers` jobs at once.
    """

    num_jobs: int
    hours: float | None
    hours_source: str
    gigabytes: float
    gigabytes_source: str
    workers: int

    @property
    def total_hours(self) -> float | None:
        """Job-hours of all jobs left."""
        return None if self.hours is None else self.hours * self.num_jobs

    @property
    def wall_hours(self) -> float | None:
        """Hours until all jobs left are done."""
        return None if self.hours is None else self.hours * math.ceil(self.num_jobs / self.workers)

    @property
    def total_gigabytes(self) -> float:
        """Disk that the jobs left will need."""
        return self.gigabytes * self.num_jobs


def project(plan: Plan, workers: int, hours_per_job: float | None = None) -> Projection:
    """Project the jobs of `plan` that are neither done nor refused.

    Hours come from `hours_per_job`, else from the median of the done runs, else, for the paper's preset, from
    the published time of IRIS.
    """
    states = {job: inspect(job, plan).state for job in plan.jobs}
    done = [job for job, state in states.items() if state is State.DONE]
    left = sum(state in (State.HALF_DONE, State.MISSING) for state in states.values())
    hours, hours_source = _hours(plan, done, hours_per_job)
    if done:
        gigabytes, gigabytes_source = (
            statistics.median(map(_gigabytes, done)),
            f"median of {len(done)} done runs",
        )
    else:
        gigabytes, gigabytes_source = _DISK_GB, "estimate: two checkpoints and the compressed replay"
    return Projection(left, hours, hours_source, gigabytes, gigabytes_source, workers)


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
