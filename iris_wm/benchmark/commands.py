"""`iris-wm benchmark atari100k` and `iris-wm benchmark report`, as functions and as arguments of a parser."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from iris_wm.benchmark.jobs import EVALUATE, FIT, Plan, State, inspect
from iris_wm.benchmark.presets import find_preset, planned_env_steps
from iris_wm.benchmark.process import Limits
from iris_wm.benchmark.progress import ProgressView, failures, job_table, summary
from iris_wm.benchmark.projection import project
from iris_wm.benchmark.protocol import EPISODES
from iris_wm.benchmark.runners import RUNNERS, run_local, run_ray, run_submitit
from iris_wm.config import parse_value
from iris_wm.evaluation.published import games as all_games

DEFAULT_METHODS = ("SimPLe", "IRIS", "delta-IRIS", "TWM", "DIAMOND", "REM", "Simulus")


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
    projection = project(plan, workers, hours_per_job)
    if dry_run:
        console.print(job_table(plan))
    console.print(summary(plan, projection), highlight=False)
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


def report(
    outputs: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    folder: str | Path | None = None,
    gpu_prices: Mapping[str, float] | None = None,
    console: Console | None = None,
) -> int:
    """Write tables, plots and the page for one or more benchmark folders beside published methods; always 0.

    names: what to call each of `outputs` (default: the folder's name). methods: published ones by name, see
    `iris_wm.evaluation.published`. folder: where to write (default: OUTPUT/report of the first). gpu_prices:
    dollars an hour by GPU model, such as {"A100": 1.5}; with them scores are also shown against cost.
    """
    from iris_wm.benchmark.report import write_report

    console = console or Console()
    written = write_report(outputs, names=names, methods=methods, folder=folder, gpu_prices=gpu_prices)
    for line in written.notes:
        console.print(line, style="yellow", highlight=False, markup=False)
    console.print(f"{len(written.files)} files in {written.folder}; open {written.page}", highlight=False)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands `atari100k` and `report` to the parser of `iris-wm benchmark`; run them by `run`."""
    commands = parser.add_subparsers(dest="benchmark_command", required=True, metavar="COMMAND")
    add_atari100k(commands)
    add_report(commands)


def add_atari100k(commands: Any) -> None:
    """Add `atari100k` to `commands`, what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "atari100k", allow_abbrev=False, help="train and evaluate games x seeds; run again to go on"
    )
    parser.add_argument("--games", type=_names, metavar="A,B", help="some of the 26 games (default: all)")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=(0, 1, 2, 3, 4),
        metavar="N|A,B",
        help="how many, or which (default: 5)",
    )
    parser.add_argument("--preset", default="iris", help="a config below configs/, or a YAML file")
    parser.add_argument("--output", metavar="FOLDER", help="default: runs/atari100k-PRESET")
    parser.add_argument("--runner", choices=RUNNERS, default="local")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="jobs at once (default: 1)")
    parser.add_argument(
        "--gpus", type=_names, metavar="0,1", help="of the local runner (default: all visible)"
    )
    parser.add_argument(
        "--runner-option", type=_pair, action="append", metavar="KEY=VALUE",
        help="for submitit's executor (slurm_partition=gpu), or for Ray (gpus_per_job=0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print jobs, projected hours and disk; run nothing"
    )
    parser.add_argument("--hours-per-job", type=float, metavar="H", help="for the projection")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, metavar="N", help="less is a test, no benchmark"
    )
    parser.add_argument("--restarts", type=int, default=3, metavar="N", help="of a job that died by accident")
    parser.add_argument(
        "--override", type=_pair, action="append", metavar="SECTION.KEY=VALUE", help="passed to iris-wm fit"
    )
    parser.set_defaults(run=_run_atari100k)


def add_report(commands: Any) -> None:
    """Add `report` to `commands`, what `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "report", allow_abbrev=False, help="tables, plots and a page, beside published methods"
    )
    parser.add_argument("outputs", nargs="+", metavar="FOLDER", help="of iris-wm benchmark atari100k")
    parser.add_argument("--names", type=_names, metavar="A,B", help="what to call each folder's method")
    parser.add_argument(
        "--methods", type=_names, default=DEFAULT_METHODS, metavar="A,B", help="published ones"
    )
    parser.add_argument("--folder", metavar="FOLDER", help="where to write (default: FOLDER/report)")
    parser.add_argument(
        "--gpu-price", type=_pair, action="append", metavar="GPU=DOLLARS", help="an hour, such as A100=1.5"
    )
    parser.set_defaults(run=_run_report)


def run(arguments: argparse.Namespace) -> int:
    """Run the command that `add_arguments` parsed; the exit code."""
    code: int = arguments.run(arguments)
    return code


def _run_atari100k(arguments: argparse.Namespace) -> int:
    overrides = [part for key, value in arguments.override or [] for part in (f"--{key}", value)]
    return atari100k(
        games=arguments.games,
        seeds=arguments.seeds,
        preset=arguments.preset,
        output=arguments.output,
        runner=arguments.runner,
        workers=arguments.workers,
        gpus=arguments.gpus,
        runner_options={key: parse_value(value) for key, value in arguments.runner_option or []},
        dry_run=arguments.dry_run,
        hours_per_job=arguments.hours_per_job,
        episodes=arguments.episodes,
        overrides=overrides,
        limits=Limits(restarts=arguments.restarts),
    )


def _run_report(arguments: argparse.Namespace) -> int:
    return report(
        arguments.outputs,
        names=arguments.names,
        methods=arguments.methods,
        folder=arguments.folder,
        gpu_prices={key: float(value) for key, value in arguments.gpu_price or []},
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number or a list such as 0,1,2") from None
    return numbers if "," in text else tuple(range(numbers[0]))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE")
    return key.removeprefix("--"), value
