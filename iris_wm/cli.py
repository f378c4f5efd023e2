"""The command line: what can be asked, and how an error is told."""

import argparse
import os
import sys
from collections.abc import Sequence

import iris_wm
from iris_wm import commands

_FIT_HELP = """\
Train an agent in its dreams, or continue a run: the same command does both.

  iris-wm fit --config configs/demo.yaml --run runs/demo
  iris-wm fit --config configs/atari100k/fast.yaml --run runs/pong-0 --env.id Pong --seed 0
  iris-wm fit --run runs/demo                       (continues with the run's own config)

Any key of the config is an option: --section.key value. Later --config files go over earlier ones.
"""
# Told at once, before the heavy imports, that a folder is no run.
_LOOK_AT_RUNS = ("evaluate", "evaluate-dream", "dream", "report", "play")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. 0 done, 2 bad input, 3 damaged or foreign state, 4 numeric failure,
    5 resources, 143 stopped by a signal after a verified save."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    if is_debug:
        arguments.remove("--debug")
    parser = build_parser()
    # Config overrides of fit are not known to argparse.
    options, overrides = parser.parse_known_args(arguments)
    if overrides and options.command != "fit":
        parser.error(f"unknown arguments: {' '.join(overrides)}")
    options.overrides = overrides
    _tune_allocator()
    try:
        if options.command in _LOOK_AT_RUNS:
            from iris_wm.checkpoint.opening import existing_run

            for path in getattr(options, "runs", None) or [options.run]:
                existing_run(path)
        return options.run_command(options)
    except Exception as error:
        from iris_wm.checkpoint.errors import RunError, exit_code

        is_expected = isinstance(error, RunError | ValueError | OSError | MemoryError | FloatingPointError)
        if is_debug or not is_expected:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"iris-wm {options.command}: {message}", file=sys.stderr)
        return exit_code(error)


def build_parser() -> argparse.ArgumentParser:
    """All commands; config overrides of fit are not among them."""
    parser = argparse.ArgumentParser(
        prog="iris-wm",
        description="A discrete-token transformer world model for Atari 100k: train it, measure it, dream with it.",
        epilog="--debug shows the traceback of an error.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"iris-wm {iris_wm.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = parsers.add_parser(
        "fit",
        help="train, or continue a run",
        description=_FIT_HELP,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML; may be given again")
    fit.add_argument("--run", required=True, metavar="FOLDER", help="the run folder, made if missing")
    fit.add_argument("--quiet", action="store_true", help="print nothing")
    fit.add_argument("--print-config", action="store_true", help="print the whole config and stop")
    fit.set_defaults(run_command=commands.fit_command)

    evaluate = parsers.add_parser(
        "evaluate", help="play the real game and print the score", allow_abbrev=False
    )
    evaluate.add_argument("run", metavar="RUN")
    evaluate.add_argument("--episodes", type=int, default=100)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--temperature", type=float, help="of the policy (default: the run's)")
    evaluate.add_argument("--envs", type=int, help="played side by side (default: the run's)")
    evaluate.add_argument("--preset", default="", help="name kept in the result file")
    evaluate.add_argument("--output", metavar="FILE", help="result file (default: RUN/result.json)")
    evaluate.set_defaults(run_command=commands.evaluate_command)

    dream = parsers.add_parser("dream", help="dream an episode: GIF and MP4", allow_abbrev=False)
    dream.add_argument("run", metavar="RUN")
    dream.add_argument("--steps", type=int, default=64, help="dreamed steps")
    dream.add_argument("--context", type=int, default=8, help="real steps before")
    dream.add_argument("--seed", type=int, default=0)
    dream.add_argument(
        "--policy", action="store_true", help="the agent acts in the dream (default: real actions)"
    )
    dream.add_argument("--temperature", type=float, default=1.0, help="of the dream; 0: most likely tokens")
    dream.add_argument("--output", metavar="FOLDER", help="(default: RUN/dreams)")
    dream.set_defaults(run_command=commands.dream_command)

    report = parsers.add_parser("report", help="pictures, curves and scores on one page", allow_abbrev=False)
    report.add_argument("run", metavar="RUN")
    report.add_argument("--episodes", type=int, default=16, help="of the agent and of a random policy each")
    report.add_argument("--seed", type=int, default=0)
    report.set_defaults(run_command=commands.report_command)

    play = parsers.add_parser("play", help="play the dream in a browser", allow_abbrev=False)
    play.add_argument("run", metavar="RUN")
    play.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    play.add_argument("--host", default="127.0.0.1", help="another address opens the page to the network")
    play.add_argument(
        "--name", action="append", default=[], help="a further name of this host; may be given again"
    )
    play.add_argument("--speed", type=float, default=15.0, help="frames a second, 1 to 60")
    play.add_argument("--starts", type=int, default=16, help="real moments to start from")
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--open", action="store_true", help="open the browser")
    play.set_defaults(run_command=commands.play_command)

    quality = parsers.add_parser(
        "evaluate-dream", help="measure the dreams: JSON, plots and a page", allow_abbrev=False
    )
    quality.add_argument("runs", metavar="RUN", nargs="+", help="several runs of one game are compared")
    quality.add_argument(
        "--episodes", type=int, default=16, help="new real episodes, played by the first run"
    )
    quality.add_argument("--max-steps", type=int, default=500, help="of an episode")
    quality.add_argument("--horizon", type=int, default=50, help="dreamed steps")
    quality.add_argument("--starts", type=int, default=128, help="dreams")
    quality.add_argument("--temperature", type=float, default=1.0, help="of the dreams")
    quality.add_argument("--seed", type=int, default=0)
    quality.add_argument("--output", metavar="FOLDER", help="(default: dream-quality in the first RUN)")
    quality.set_defaults(run_command=commands.evaluate_dream_command)

    checkpoint = parsers.add_parser("checkpoint", help="verify, list, prune, export", allow_abbrev=False)
    actions = checkpoint.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("verify", "check every file"), ("list", "show a run's checkpoints")):
        actions.add_parser(name, help=text, allow_abbrev=False).add_argument("run", metavar="RUN")
    prune = actions.add_parser("prune", help="remove old checkpoints", allow_abbrev=False)
    prune.add_argument("run", metavar="RUN")
    prune.add_argument("--keep", type=int, default=2, help="the newest to keep, besides the best")
    prune.add_argument("--damaged", action="store_true", help="remove damaged ones, too")
    export = actions.add_parser("export", help="copy the agent into a folder of its own", allow_abbrev=False)
    export.add_argument("run", metavar="RUN")
    export.add_argument("target", metavar="FOLDER")
    export.add_argument("--which", choices=("newest", "best"), default="newest")
    checkpoint.set_defaults(run_command=commands.checkpoint_command)

    import_ = parsers.add_parser("import", help="read a published IRIS checkpoint", allow_abbrev=False)
    import_.add_argument("file", metavar="FILE", help="state dict (.pt)")
    import_.add_argument("target", metavar="FOLDER", help="agent folder to write")
    import_.add_argument("--heads", type=int, default=4, help="attention heads, which the file does not tell")
    import_.set_defaults(run_command=commands.import_command)

    to_published = parsers.add_parser("export", help="write the published IRIS format", allow_abbrev=False)
    to_published.add_argument("run", metavar="RUN", help="run or agent folder")
    to_published.add_argument("file", metavar="FILE", help="state dict (.pt) to write")
    to_published.set_defaults(run_command=commands.export_command)

    benchmark = parsers.add_parser("benchmark", help="Atari 100k: run and report", allow_abbrev=False)
    from iris_wm.benchmark.commands import add_arguments

    add_arguments(benchmark)
    benchmark.set_defaults(run_command=commands.benchmark_command)
    return parser


def _tune_allocator() -> None:
    """Keep freed memory instead of giving every large tensor back to the system: glibc only, and only here.

    Stock glibc maps each tensor over 32 MB afresh; on a CPU the page faults then take a large part of the time.
    """
    if sys.platform != "linux" or os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
