"""`iris-wm benchmark`: Atari 100k as a list of jobs, and its report."""

import argparse
from typing import Any

from iris_wm.strict_yaml import parse_value

HELP = "Atari 100k: run and report"
_PUBLISHED = "SimPLe, IRIS, delta-IRIS, TWM, DIAMOND, REM, Simulus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its commands and their arguments; what is not given is left to the functions' own defaults."""
    commands = parser.add_subparsers(dest="benchmark_command", required=True, metavar="COMMAND")
    left_out: dict[str, Any] = {"argument_default": argparse.SUPPRESS}
    jobs = commands.add_parser(
        "atari100k", help="train and evaluate games x seeds; run again to go on", **left_out
    )
    jobs.add_argument("--games", type=_names, metavar="A,B", help="some of the 26 games (default: all)")
    jobs.add_argument("--seeds", type=_seeds, metavar="N|A,B", help="how many, or which (default: 5)")
    jobs.add_argument("--preset", help="a config below configs/, or a YAML file (default: iris)")
    jobs.add_argument("--output", metavar="FOLDER", help="default: runs/atari100k-PRESET")
    jobs.add_argument("--runner", help="local (the default), slurm, submitit-local or ray")
    jobs.add_argument("--workers", type=int, metavar="N", help="jobs at once (default: 1)")
    jobs.add_argument("--gpus", type=_names, metavar="0,1", help="of the local runner (default: all visible)")
    jobs.add_argument(
        "--runner-option", type=_pair, action="append", metavar="KEY=VALUE", dest="runner_options",
        help="for submitit's executor (slurm_partition=gpu), or for Ray (gpus_per_job=0.5)",
    )  # fmt: skip
    jobs.add_argument(
        "--dry-run", action="store_true", help="print jobs, projected hours and disk; run nothing"
    )
    jobs.add_argument("--hours-per-job", type=float, metavar="H", help="for the projection")
    jobs.add_argument("--episodes", type=int, metavar="N", help="less than 100 is a test, no benchmark")
    jobs.add_argument("--restarts", type=int, metavar="N", help="of a job that died by accident (default: 3)")
    jobs.add_argument(
        "--override", type=_pair, action="append", metavar="SECTION.KEY=VALUE", help="passed to iris-wm fit"
    )
    report = commands.add_parser(
        "report", help="tables, plots and a page, beside published methods", **left_out
    )
    report.add_argument("outputs", nargs="+", metavar="FOLDER", help="of iris-wm benchmark atari100k")
    report.add_argument("--names", type=_names, metavar="A,B", help="what to call each folder's method")
    report.add_argument(
        "--methods", type=_names, metavar="A,B", help=f"published ones (default: {_PUBLISHED})"
    )
    report.add_argument("--folder", metavar="FOLDER", help="where to write (default: FOLDER/report)")
    report.add_argument(
        "--gpu-price", type=_pair, action="append", metavar="GPU=DOLLARS", dest="gpu_prices",
        help="an hour, such as A100=1.5",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the command; an argument has the name of the function's."""
    given = vars(options).copy()
    name = given.pop("benchmark_command")
    for other in ("command", "overrides"):
        given.pop(other, None)
    if name == "report":
        prices = {key: float(value) for key, value in given.pop("gpu_prices", [])}
        return _report(gpu_prices=prices, **given)
    from iris_wm.benchmark import launch

    given["overrides"] = [part for key, value in given.pop("override", []) for part in (f"--{key}", value)]
    given["runner_options"] = {key: parse_value(value) for key, value in given.pop("runner_options", [])}
    if "restarts" in given:
        given["limits"] = launch.Limits(restarts=given.pop("restarts"))
    return launch.atari100k(**given)


def _report(**given: Any) -> int:
    from rich.console import Console

    from iris_wm.reports.benchmark_report import write_benchmark_report

    console = Console(highlight=False, markup=False)
    written = write_benchmark_report(**given)
    for line in written.notes:
        console.print(line, style="yellow")
    console.print(f"{len(written.files)} files in {written.folder}; open {written.page}")
    return 0


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
