"""Which jobs there are, and what their folders say about them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from iris_wm.benchmark.jobs import Plan, State, inspect
from iris_wm.benchmark.process import run_job

MakePlan = Callable[..., Plan]


def change_result(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_list_goes_seed_by_seed(make_plan: MakePlan):
    plan = make_plan()
    assert [job.name for job in plan.jobs] == ["Boxing-seed0", "Pong-seed0", "Boxing-seed1", "Pong-seed1"]
    assert len({job.run for job in plan.jobs}) == 4


def test_states(make_plan: MakePlan):
    plan = make_plan()
    job = plan.jobs[0]
    assert inspect(job, plan).state is State.MISSING
    job.run.mkdir(parents=True)
    assert inspect(job, plan).state is State.MISSING
    (job.run / "config.yaml").write_text("")
    assert inspect(job, plan).state is State.HALF_DONE
    assert run_job(job, plan).ok
    assert inspect(job, plan).state is State.DONE


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"env_steps": 900}, State.HALF_DONE, "900 of 1,000 env steps"),
        ({"env_steps": 1001}, State.REFUSED, "took 1,001 env steps, the benchmark allows 1,000"),
        ({"seed": 5}, State.REFUSED, "seed: got 5, expected 0"),
        ({"preset": "other"}, State.REFUSED, "preset: got 'other', expected 'tiny'"),
        ({"epochs": "many"}, State.HALF_DONE, 'epochs: got "many", expected a whole number'),
    ],
)
def test_results_that_are_not_the_jobs(make_plan: MakePlan, changes: dict, state: State, reason: str):
    plan = make_plan()
    job = plan.jobs[0]
    assert run_job(job, plan).ok
    change_result(job.result_file, **changes)
    status = inspect(job, plan)
    assert status.state is state
    assert reason in status.reason


def test_a_torn_result_is_made_again(make_plan: MakePlan):
    plan = make_plan()
    job = plan.jobs[0]
    assert run_job(job, plan).ok
    whole = job.result_file.read_text()
    job.result_file.write_text(whole[: len(whole) // 2])
    assert inspect(job, plan).state is State.HALF_DONE
    assert run_job(job, plan).ok
    assert job.result_file.read_text() == whole


def test_more_episodes_than_there_are_make_a_run_half_done(make_plan: MakePlan):
    plan = make_plan()
    assert run_job(plan.jobs[0], plan).ok
    wider = make_plan(output=plan.output.parent / "other", episodes=3)
    job = plan.jobs[0]
    assert "2 of 3 episodes" in inspect(job, wider).reason


def test_a_folder_belongs_to_one_benchmark(make_plan: MakePlan):
    plan = make_plan()
    make_plan(games=("Alien",), seeds=(7,))  # other games and seeds may join
    with pytest.raises(
        ValueError, match=r"benchmark.json: episodes: got 3, but the runs here have 2; choose"
    ):
        make_plan(episodes=3)
    plan.config.write_text("seed: 1\n")
    with pytest.raises(ValueError, match="config_sha256"):
        make_plan()
    assert plan.recorded_config.read_text() == "seed: 0\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"games": ()}, r"games: got \[\], expected one or more"),
        ({"seeds": (1, 1)}, r"seeds: got \[1, 1\], expected one or more, each once"),
        ({"env_steps": 100_001}, "env_steps: got 100001, expected 1 to 100000"),
        ({"episodes": 0}, "episodes: got 0"),
    ],
)
def test_wrong_plans(make_plan: MakePlan, fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_plan(**fields)
