"""The job commands with the real trainer: a killed run ends with the result of one that was left alone."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from iris_wm.benchmark.jobs import EVALUATE, FIT, Plan
from iris_wm.benchmark.presets import find_preset, planned_env_steps
from iris_wm.benchmark.process import JobProcess, Limits
from iris_wm.benchmark.runners import run_local
from iris_wm.evaluation.result import load_result

OVERRIDES = ("--training.num_epochs", "3", "--training.checkpoint_every_epochs", "1")


class KillOnce:
    """Kills each job's trainer, without warning, soon after its first checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killed: set[str] = set()
        poll = JobProcess.poll
        monkeypatch.setattr(JobProcess, "poll", lambda process: self._before(process) or poll(process))

    def _before(self, process: JobProcess) -> None:
        if process.job.name not in self.killed and any((process.job.run / "checkpoints").glob("step-*")):
            self.killed.add(process.job.name)
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)

    def started(self, job) -> None: ...
    def ended(self, outcome) -> None: ...
    def tick(self) -> None: ...


@pytest.mark.slow
def test_killed_runs_end_with_the_same_table(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    name, config = find_preset(str(Path(__file__).parents[2] / "configs" / "debug.yaml"))

    def plan_in(folder: str) -> Plan:
        return make_plan(
            *OVERRIDES,
            output=tmp_path / folder,
            preset=name,
            config=config,
            games=("Boxing",),
            env_steps=planned_env_steps(config, OVERRIDES, "Boxing"),
            fit=FIT,
            evaluate=EVALUATE,
        )

    whole, broken = plan_in("whole"), plan_in("broken")
    killer = KillOnce(monkeypatch)
    outcomes = run_local(broken.jobs, broken, killer, workers=2, limits=Limits(restart_delay=0.1))
    assert [(outcome.ok, outcome.restarts) for outcome in outcomes] == [(True, 1)] * 2, outcomes
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert all(outcome.ok for outcome in run_local(whole.jobs, whole, killer, workers=2))
    for one, other in zip(whole.jobs, broken.jobs, strict=True):
        left_alone, killed = load_result(one.result_file), load_result(other.result_file)
        assert killed.evaluation == left_alone.evaluation
        assert killed.curve == left_alone.curve
        assert killed.env_steps == left_alone.env_steps == whole.env_steps
