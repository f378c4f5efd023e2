"""Runners with a fake trainer: kills, failures, locks, and the same results from every runner."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iris_wm.benchmark.jobs import Plan, State, inspect
from iris_wm.benchmark.process import JobProcess, Limits, Outcome, run_job
from iris_wm.benchmark.runners import run_local, run_ray, run_submitit, visible_gpus, worker_environment

MakePlan = Callable[..., Plan]
QUICK = Limits(restarts=2, restart_delay=0.01, lock_wait=20.0, grace=10.0)


class Recorder:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.outcomes: list[Outcome] = []

    def started(self, job) -> None:
        self.names.append(job.name)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def tick(self) -> None:
        pass


def results(plan: Plan) -> dict[str, str]:
    return {job.name: job.result_file.read_text() for job in plan.jobs if job.result_file.exists()}


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_workers_do_every_job_once(make_plan: MakePlan):
    plan, recorder = make_plan(), Recorder()
    outcomes = run_local(plan.jobs, plan, recorder, workers=2, limits=QUICK)
    assert sorted(recorder.names) == sorted(job.name for job in plan.jobs)
    assert recorder.outcomes == outcomes
    assert all(outcome.ok and not outcome.restarts for outcome in outcomes)
    assert len(results(plan)) == 4


def test_a_failing_job_harms_no_other(make_plan: MakePlan):
    plan = make_plan("--exit", "4", "Pong")
    outcomes = run_local(plan.jobs, plan, Recorder(), workers=2, limits=QUICK)
    failed = {outcome.job.name: outcome for outcome in outcomes if not outcome.ok}
    assert sorted(failed) == ["Pong-seed0", "Pong-seed1"]
    assert failed["Pong-seed0"].reason == (
        "fit: exit code 4 (numeric failure): Traceback: Pong cannot be trained"
    )
    assert failed["Pong-seed0"].restarts == 0
    assert sorted(results(plan)) == ["Boxing-seed0", "Boxing-seed1"]


def test_accidents_are_restarted_a_few_times(make_plan: MakePlan):
    plan = make_plan("--exit", "5", "Pong")
    outcome = run_job(plan.jobs[1], plan, QUICK)
    assert not outcome.ok
    assert outcome.restarts == 2
    assert outcome.reason.startswith("fit: exit code 5: ")


def test_a_killed_trainer_goes_on_where_it_was(make_plan: MakePlan):
    plan = make_plan("--crash-once")
    outcome = run_job(plan.jobs[0], plan, QUICK)
    assert outcome.ok
    assert outcome.restarts == 1
    lines = (plan.jobs[0].run / "metrics.csv").read_text().splitlines()
    assert len(lines) == 11  # no chunk was done twice


def test_a_job_without_a_result_fails_with_the_reason(make_plan: MakePlan):
    plan = make_plan(evaluate=("{python}", "-c", "print('nothing')"))
    outcome = run_job(plan.jobs[0], plan, QUICK)
    assert outcome.reason == "ended without a valid result: no result yet"


def test_a_command_that_does_not_exist_fails(make_plan: MakePlan):
    plan = make_plan(fit=("{python}", "/no/such/script.py"))
    outcome = run_job(plan.jobs[0], plan, QUICK)
    assert not outcome.ok
    assert "No such file" in outcome.reason or "exit code 2" in outcome.reason


def test_a_job_is_not_run_twice_at_once(make_plan: MakePlan):
    plan = make_plan("--step-seconds", "0.5")
    first = JobProcess(plan.jobs[0], plan, QUICK)
    wait_for(lambda: first.poll() is None and first.pid is not None)
    second = run_job(plan.jobs[0], plan, Limits(lock_wait=0.3))
    assert second.reason == "another process is running this job"
    wait_for(lambda: inspect(plan.jobs[0], plan).state is State.HALF_DONE)
    first.stop()
    quick = make_plan("--step-seconds", "0.5")
    assert inspect(plan.jobs[0], quick).state is State.HALF_DONE


def test_a_finished_job_is_left_alone(make_plan: MakePlan):
    plan = make_plan()
    assert run_job(plan.jobs[0], plan, QUICK).ok
    log = (plan.output / "logs" / "Boxing-seed0.log").read_text()
    assert run_job(plan.jobs[0], plan, QUICK).ok
    assert (plan.output / "logs" / "Boxing-seed0.log").read_text() == log


RUNNER_SCRIPT = """
import sys
from pathlib import Path
from iris_wm.benchmark.launch import atari100k
from iris_wm.benchmark.process import Limits
trainer, config, output = sys.argv[1:]
sys.exit(atari100k(
    games=["Boxing", "Pong", "Breakout"], seeds=[0, 1], preset=config, output=output, workers=2,
    env_steps=1000, episodes=2, overrides=["--step-seconds", "0.03"],
    fit=("{python}", trainer, "fit", "{run}", "{game}", "{seed}", "{env_steps}"),
    evaluate=("{python}", trainer, "evaluate", "{run}", "{game}", "{seed}", "{episodes}", "tiny", "{env_steps}"),
    limits=Limits(restarts=3, restart_delay=0.01, lock_wait=30, grace=10),
))
"""


def run_runner(tmp_path: Path, output: str, kill_after: float | None, number: int) -> int:
    config = tmp_path / "tiny.yaml"
    config.write_text("seed: 0\n")
    trainer = str(Path(__file__).with_name("fake_trainer.py"))
    command = [sys.executable, "-c", RUNNER_SCRIPT, trainer, str(config), str(tmp_path / output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(number)
    process.communicate(timeout=240)  # on a busy machine
    return process.returncode


@pytest.mark.parametrize("num_kills", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_killing_the_runner_again_and_again_gives_the_same_results(tmp_path: Path, num_kills: int):
    assert run_runner(tmp_path, "whole", None, 0) == 0
    chance = random.Random(0)
    for attempt in range(num_kills):
        number = signal.SIGKILL if attempt % 2 else signal.SIGTERM
        run_runner(tmp_path, "killed", chance.uniform(0.2, 0.9), number)
    assert run_runner(tmp_path, "killed", None, 0) == 0
    files = {
        name: {
            path.name: (path / "result.json").read_bytes() for path in (tmp_path / name / "runs").iterdir()
        }
        for name in ("whole", "killed")
    }
    assert len(files["whole"]) == 6
    assert files["whole"] == files["killed"]
    for run in (tmp_path / "killed" / "runs").iterdir():  # two trainers were never in one folder
        assert len((run / "metrics.csv").read_text().splitlines()) == 11


def test_ctrl_c_lets_jobs_save(make_plan: MakePlan):
    plan = make_plan("--step-seconds", "0.1")
    recorder = Recorder()
    recorder.tick = lambda: os.kill(os.getpid(), signal.SIGINT) if running() else None  # type: ignore[method-assign]

    def running() -> bool:
        return any((job.run / "metrics.csv").exists() for job in plan.jobs)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        run_local(plan.jobs, plan, recorder, workers=2, limits=QUICK)
    assert stop.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert not results(plan)
    assert all(outcome.ok for outcome in run_local(plan.jobs, plan, Recorder(), workers=2, limits=QUICK))


def test_workers_share_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    five = [worker_environment(worker, 5, ["0", "3"]) for worker in range(5)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in five] == ["0", "3", "0", "3", "0"]
    assert [float(one["IRIS_WM_DEVICE_SHARE"]) for one in five] == pytest.approx(
        [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3]
    )
    assert int(five[0]["OMP_NUM_THREADS"]) >= 1
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, 2, [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_submitit_gives_the_same_results(make_plan: MakePlan, tmp_path: Path):
    pytest.importorskip("submitit")
    plan = make_plan(games=("Boxing",))
    run_local(plan.jobs, plan, Recorder(), limits=QUICK)
    other = make_plan(games=("Boxing", "Pong"), output=tmp_path / "submitit")
    failing = make_plan("--exit", "4", "Pong", games=("Pong",), output=tmp_path / "failing")
    recorder = Recorder()
    outcomes = run_submitit(
        other.jobs[:1] + other.jobs[2:3], other, recorder, workers=2, cluster="local", limits=QUICK
    )
    assert all(outcome.ok for outcome in outcomes)
    assert len(recorder.outcomes) == 2
    assert results(other) == results(plan)
    (outcome,) = run_submitit(failing.jobs[:1], failing, Recorder(), cluster="local", limits=QUICK)
    assert outcome.reason.endswith("Pong cannot be trained")


def test_ray_gives_the_same_results(make_plan: MakePlan, tmp_path: Path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        plan, other = make_plan(), make_plan(output=tmp_path / "ray")
        run_local(plan.jobs, plan, Recorder(), workers=2, limits=QUICK)
        outcomes = run_ray(other.jobs, other, Recorder(), workers=2, limits=QUICK)
        assert all(outcome.ok for outcome in outcomes)
        assert results(other) == results(plan)
        failing = make_plan("--exit", "4", "Pong", games=("Pong",), output=tmp_path / "failing")
        assert not any(outcome.ok for outcome in run_ray(failing.jobs, failing, Recorder(), limits=QUICK))
    finally:
        ray.shutdown()


def test_a_missing_engine_is_named(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = make_plan()
    with pytest.raises(ValueError, match="runner: needs the package ray"):
        run_ray(plan.jobs, plan, Recorder())
