"""Where jobs run: processes of this machine, a Slurm array through submitit, or a Ray cluster.

Every runner takes the same jobs, runs each by `process.run_job` or its steps, and gives the same outcomes.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Protocol

from iris_wm.benchmark.jobs import Job, Plan
from iris_wm.benchmark.process import DEFAULT_LIMITS, JobProcess, Limits, Outcome, run_job
from iris_wm.evaluation.result import DEVICE_SHARE_VARIABLE
from iris_wm.runs.operating_system import handling

_MAX_TIMEOUTS = 1000  # time limits that one Slurm task may reach; submitit's own limit is 3

RUNNERS = ("local", "slurm", "submitit-local", "ray")


class Listener(Protocol):
    """Is told what happens to jobs; `tick` comes a few times a second while jobs run."""

    def started(self, job: Job) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def tick(self) -> None: ...


def run_local(
    jobs: list[Job],
    plan: Plan,
    listener: Listener,
    *,
    workers: int = 1,
    gpus: list[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Outcome]:
    """Run jobs in `workers` processes at once on this machine.

    gpus: the GPUs to use, worker i on GPU i modulo their number (default: all visible), so more workers than
    GPUs share them. CPU cores are divided among workers unless OMP_NUM_THREADS says otherwise. On Ctrl-C or
    SIGTERM every running job is asked to save, waited for, and SystemExit raised.
    """
    waiting = list(reversed(jobs))
    running: dict[int, JobProcess] = {}
    outcomes: list[Outcome] = []
    gpus = visible_gpus() if gpus is None else gpus
    stopped: list[int] = []
    with handling((signal.SIGINT, signal.SIGTERM), lambda number, frame: stopped.append(number)):
        try:
            while (waiting or running) and not stopped:
                for worker in range(workers):
                    if worker not in running and waiting:
                        job = waiting.pop()
                        running[worker] = JobProcess(
                            job, plan, limits, worker_environment(worker, workers, gpus)
                        )
                        listener.started(job)
                    if worker in running and (outcome := running[worker].poll()) is not None:
                        del running[worker]
                        outcomes.append(outcome)
                        listener.ended(outcome)
                listener.tick()
                time.sleep(0.05)
        finally:
            for process in running.values():
                process.request_stop()
            for process in running.values():
                process.stop()
    if stopped:
        raise SystemExit(128 + stopped[0])
    return outcomes


def run_submitit(
    jobs: list[Job],
    plan: Plan,
    listener: Listener,
    *,
    workers: int = 8,
    cluster: str = "slurm",
    parameters: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Outcome]:
    """Run jobs as one Slurm array, at most `workers` at once, each with one GPU.

    cluster "local" runs them by submitit on this machine. parameters: of submitit's executor, such as
    slurm_partition, timeout_min, gpus_per_node, cpus_per_task. A job that Slurm preempts or that reaches its
    time limit saves, is queued again by submitit and goes on.
    """
    submitit = _require("submitit", "pip install 'iris-wm[sweep]'")
    executor = submitit.AutoExecutor(
        folder=plan.output / "submitit", cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS
    )
    options: dict[str, Any] = {"timeout_min": 24 * 60, "name": f"atari100k-{plan.preset}"}
    if cluster == "slurm":
        options |= {"slurm_array_parallelism": workers, "gpus_per_node": 1, "cpus_per_task": 4}
        options |= {"slurm_signal_delay_s": 180}
    executor.update_parameters(**(options | dict(parameters or {})))
    at_once = len(jobs) if cluster == "slurm" else workers
    outcomes = []
    for start in range(0, len(jobs), at_once):
        part = jobs[start : start + at_once]
        handles = dict(zip(part, executor.map_array(SubmititTask(plan, limits), part), strict=True))
        for job in part:
            listener.started(job)
        while handles:
            for job in [job for job, handle in handles.items() if handle.done()]:
                outcomes.append(_submitit_outcome(job, handles.pop(job)))
                listener.ended(outcomes[-1])
            listener.tick()
            time.sleep(0.2 if cluster != "slurm" else 2.0)
    return outcomes


class SubmititTask:
    """What a node runs for one job; `checkpoint` is submitit's word for "save, you are about to be stopped"."""

    def __init__(self, plan: Plan, limits: Limits) -> None:
        self._plan = plan
        self._limits = limits
        self._process: JobProcess | None = None

    def __call__(self, job: Job) -> Outcome:
        return run_job(job, self._plan, self._limits, started=self._keep)

    def checkpoint(self, job: Job) -> Any:
        import submitit

        if self._process is not None:
            self._process.stop()
        return submitit.helpers.DelayedSubmission(SubmititTask(self._plan, self._limits), job)

    def _keep(self, process: JobProcess) -> None:
        self._process = process


def run_ray(
    jobs: list[Job],
    plan: Plan,
    listener: Listener,
    *,
    workers: int = 1,
    gpus_per_job: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Outcome]:
    """Run jobs on a Ray cluster (RAY_ADDRESS, else one started here), at most `workers` at once.

    gpus_per_job: 0.5 lets two jobs share a GPU. A job whose node is lost is run again and goes on from its
    run folder, which all nodes must see.
    """
    ray = _require("ray", "pip install 'iris-wm[ray]'")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(run_job).options(num_gpus=gpus_per_job, num_cpus=1, max_retries=limits.restarts)
    share = {DEVICE_SHARE_VARIABLE: str(gpus_per_job)} if gpus_per_job else {}
    waiting = list(reversed(jobs))
    running: dict[Any, Job] = {}
    outcomes = []
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            running[remote.remote(job, plan, limits, share)] = job
            listener.started(job)
        for handle in ray.wait(list(running), timeout=0.2)[0]:
            job = running.pop(handle)
            try:
                outcome = ray.get(handle)
            except ray.exceptions.RayError as error:
                outcome = Outcome(job, False, f"ray: {str(error).splitlines()[0]}")
            outcomes.append(outcome)
            listener.ended(outcome)
        listener.tick()
    return outcomes


def visible_gpus() -> list[str]:
    """GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; empty without any."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [
            name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")
        ]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))]


def worker_environment(worker: int, workers: int, gpus: list[str]) -> dict[str, str]:
    """Environment variables of one of `workers` local workers: its GPU, its share of it, its CPU threads."""
    environment = {}
    if gpus:
        index = worker % len(gpus)
        sharing = len(range(index, workers, len(gpus)))
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index]
        environment[DEVICE_SHARE_VARIABLE] = str(1 / sharing)
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    return environment


def _submitit_outcome(job: Job, handle: Any) -> Outcome:
    error = handle.exception()
    if error is None:
        outcome: Outcome = handle.result()
        return outcome
    last = [line for line in str(error).splitlines() if line.strip()][-1]
    return Outcome(job, False, f"submitit: {last[:300]}; see {handle.paths.stderr}")


def _require(module: str, hint: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ValueError(f"runner: needs the package {module}, which is not installed: {hint}") from error
