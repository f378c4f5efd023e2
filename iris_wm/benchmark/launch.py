"""Atari 100k as one call: find what is missing, run it, say what failed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from iris_wm.benchmark.job_view import ProgressView, failures, job_table
from iris_wm.benchmark.jobs import EVALUATE, FIT, Plan, State, inspect
from iris_wm.benchmark.presets import find_preset, planned_env_steps
from iris_wm.benchmark.process import Limits
from iris_wm.benchmark.projection import summary
from iris_wm.benchmark.runners import RUNNERS, run_local, run_ray, run_submitit
from iris_wm.evaluation.protocol import EPISODES
from iris_wm.evaluation.published import games as all_games


def atari100k(
    *,
    games: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    preset: str = "iris",
    output: str | Path | None = None,
    runner: str = "local",
    workers: int = 1,
    gpus: Sequence[str] | None = None,
    runner_options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    hours_per_job: float | None = None,
    env_steps: int | None = None,
    episodes: int = EPISODES,
    overrides: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 (immutable)
    fit: Sequence[str] = FIT,
    evaluate: Sequence[str] = EVALUATE,
    console: Console | None = None,
) -> int:
    """Run what is missing of a benchmark and list what failed; 0 if every job is done, else 1.

    games: of the 26 (default: all). preset: a config below configs/ or a YAML file. output: the benchmark's
    folder (default: runs/atari100k-PRESET); running again with the same one goes on. runner: one of `RUNNERS`.
    workers: jobs at once. gpus: of the local runner, see `runners.run_local`. runner_options: of submitit's
    executor, or {"gpus_per_job": 0.5} for Ray. dry_run: only print the jobs, with hours and disk.
    env_steps: that a finished run has (default: what the preset says). episodes: of the final evaluation; less
    of either than the protocol's makes a test of the machinery, not a benchmark. overrides: further arguments of
    `iris-wm fit`. Raises ValueError for a wrong argument or a folder of other settings.
    """
    console = console or Console()
    if runner not in RUNNERS:
        raise ValueError(f"runner: got {runner!r}, expected one of {', '.join(RUNNERS)}")
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")
    chosen = tuple(all_games() if games is None else games)
    if unknown := [game for game in chosen if game not in all_games()]:
        raise ValueError(f"games: got {', '.join(unknown)}, expected some of {', '.join(all_games())}")
    name, config = find_preset(preset)
    plan = Plan(
        output=Path(output or f"runs/atari100k-{name}").absolute(),
        preset=name,
        config=config,
        games=chosen,
        seeds=tuple(seeds),
        env_steps=planned_env_steps(config, overrides, chosen[0]) if env_steps is None else env_steps,
        episodes=episodes,
        overrides=tuple(overrides),
        fit=tuple(fit),
        evaluate=tuple(evaluate),
    )
    plan.check_output()
    jobs = [job for job in plan.jobs if inspect(job, plan).state in (State.HALF_DONE, State.MISSING)]
    if dry_run:
        console.print(job_table(plan))
    console.print(summary(plan, workers, hours_per_job), highlight=False)
    if dry_run:
        return 0
    plan.claim_output()
    outcomes = []
    if jobs:
        with ProgressView(plan, len(jobs), console) as view:
            if runner == "local":
                gpu_names = None if gpus is None else list(gpus)
                outcomes = run_local(jobs, plan, view, workers=workers, gpus=gpu_names, limits=limits)
            elif runner == "ray":
                options = dict(runner_options or {})
                outcomes = run_ray(jobs, plan, view, workers=workers, limits=limits, **options)
            else:
                cluster = "slurm" if runner == "slurm" else "local"
                outcomes = run_submitit(
                    jobs,
                    plan,
                    view,
                    workers=workers,
                    cluster=cluster,
                    parameters=runner_options,
                    limits=limits,
                )
    if failed := failures(outcomes, plan):
        console.print(f"failed:\n{failed}", style="red", highlight=False, markup=False)
    num_done = sum(inspect(job, plan).state is State.DONE for job in plan.jobs)
    console.print(f"{num_done} of {len(plan.jobs)} jobs done in {plan.output}", highlight=False)
    if num_done:
        console.print(f"next: iris-wm benchmark report {plan.output}", highlight=False)
    return 0 if num_done == len(plan.jobs) else 1
