"""One job as a chain of processes: fit, then evaluate, restarted after accidents, never run twice at once."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iris_wm.benchmark.jobs import Job, Plan, State, inspect
from iris_wm.checkpoint.errors import RunInUse
from iris_wm.checkpoint.lock import FileLock
from iris_wm.runs.operating_system import end_with_parent

# Exit codes of `iris-wm fit` that a restart would only repeat.
_FINAL_CODES = {2: "wrong usage or config", 3: "damaged or foreign state", 4: "numeric failure"}


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `ok`, or the reason why not; how often it was restarted."""

    job: Job
    ok: bool
    reason: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Limits:
    """restarts: of a job after it died by accident. restart_delay: seconds before the first restart, doubled
    each time. lock_wait: seconds to wait for another process that runs the same job (a killed runner's orphan
    saves and goes). grace: seconds a stopped process has for saving before it is killed.
    """

    restarts: int = 3
    restart_delay: float = 5.0
    lock_wait: float = 120.0
    grace: float = 120.0


DEFAULT_LIMITS = Limits()


class JobProcess:
    """Runs a job step by step: call `poll` now and then until it gives the outcome.

    The steps' output is appended to `log`. On Linux the running step gets SIGTERM if this process dies.
    """

    def __init__(
        self, job: Job, plan: Plan, limits: Limits = DEFAULT_LIMITS, environment: dict[str, str] | None = None
    ) -> None:
        self.job = job
        self.log = plan.output / "logs" / f"{job.name}.log"
        self._plan = plan
        self._limits = limits
        self._environment = environment or {}
        # The steps inherit it, so that it outlives a killed runner.
        self._lock = FileLock(plan.output / "locks" / f"{job.name}.lock", is_inherited=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._step = 0
        self._restarts = 0
        self._log_start = 0
        self._not_before = 0.0
        self._lock_deadline = time.monotonic() + limits.lock_wait

    def poll(self) -> Outcome | None:
        """Go on with the job without waiting; its outcome once it has one."""
        if not self._take_lock():
            if time.monotonic() < self._lock_deadline:
                return None
            return Outcome(self.job, False, "another process is running this job")
        if self._process is None:
            status = inspect(self.job, self._plan)
            if status.state is State.DONE or status.state is State.REFUSED:
                return self._finish(status.state is State.DONE, status.reason)
            if time.monotonic() >= self._not_before:
                self._start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._signal(signal.SIGKILL)  # what the step may have left behind
        self._process = None
        return self._next(code)

    def stop(self) -> None:
        """Ask the running step to save and end, wait for it (at most `grace`), give the job free."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(self._limits.grace)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
            self._process = None
        self._lock.release()

    def request_stop(self) -> None:
        """Ask the running step to save and end, without waiting."""
        if self._process is not None:
            self._signal(signal.SIGTERM)

    @property
    def pid(self) -> int | None:
        """Process id of the running step."""
        return self._process.pid if self._process else None

    def _next(self, code: int) -> Outcome | None:
        """After a step ended with `code`: the next step, a restart, or the end."""
        if code == 0 and self._step == 0:
            self._step = 1
            return None
        if code == 0:
            status = inspect(self.job, self._plan)
            if status.state is State.DONE:
                return self._finish(True)
            return self._finish(False, f"ended without a valid result: {status.reason}")
        reason = f"{('fit', 'evaluate')[self._step]}: {_describe(code)}: {self._last_line()}"
        if code in _FINAL_CODES or self._restarts >= self._limits.restarts:
            return self._finish(False, reason)
        self._not_before = time.monotonic() + self._limits.restart_delay * 2**self._restarts
        self._restarts += 1
        self._step = 0
        return None

    def _start(self) -> None:
        template = (*self._plan.fit, *self._plan.overrides) if self._step == 0 else self._plan.evaluate
        values = {
            "python": sys.executable,
            "config": str(self._plan.recorded_config),
            "preset": self.job.preset,
            "run": str(self.job.run),
            "result": str(self.job.result_file),
            "game": self.job.game,
            "seed": str(self.job.seed),
            "episodes": str(self._plan.episodes),
            "env_steps": str(self._plan.env_steps),
        }
        command = [_fill(part, values) for part in template]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment,
                start_new_session=True,
                pass_fds=(self._lock.descriptor,) if self._lock.descriptor is not None else (),
                preexec_fn=_prepare_child,
            )

    def _take_lock(self) -> bool:
        if self._lock.descriptor is None:
            self._lock.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except RunInUse:
                return False
        return True

    def _finish(self, ok: bool, reason: str = "") -> Outcome:
        self._lock.release()
        return Outcome(self.job, ok, reason, self._restarts)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_line(self) -> str:
        return last_line(self.log, self._log_start) or "no output"


def run_job(
    job: Job,
    plan: Plan,
    limits: Limits = DEFAULT_LIMITS,
    environment: dict[str, str] | None = None,
    started: Callable[[JobProcess], None] = lambda process: None,
) -> Outcome:
    """Run one job to its end in this process; `started` is given the job's handle first."""
    process = JobProcess(job, plan, limits, environment)
    started(process)
    try:
        while (outcome := process.poll()) is None:
            time.sleep(0.05)
        return outcome
    finally:
        process.stop()


def last_line(path: Path, start: int = 0) -> str:
    """The last line with text of a log from byte `start` on, without colours; at most 300 characters."""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 8192))
        text = file.read().decode(errors="replace")
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def _describe(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code} ({_FINAL_CODES[code]})" if code in _FINAL_CODES else f"exit code {code}"


def _fill(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(f"{{{name}}}", value)
    return part


def _prepare_child() -> None:
    """In the new process: end with this one, and leave Slurm's warning signals, sent to all, to this one."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGTERM)
