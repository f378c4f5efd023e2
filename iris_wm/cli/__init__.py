"""The command line: one file a command, and how an error is told."""

import sys
from collections.abc import Sequence

import iris_wm
from iris_wm.cli import (
    benchmark,
    checkpoint,
    dream,
    evaluate,
    evaluate_dream,
    export,
    fit,
    import_,
    options,
    play,
    report,
)
from iris_wm.cli.parser import Parser
from iris_wm.runs.operating_system import keep_freed_memory

# Each module has add_arguments(parser) and run(options) -> exit code; its docstring's second half is the help.
COMMANDS = {
    "fit": fit,
    "evaluate": evaluate,
    "dream": dream,
    "report": report,
    "play": play,
    "evaluate-dream": evaluate_dream,
    "checkpoint": checkpoint,
    "options": options,
    "import": import_,
    "export": export,
    "benchmark": benchmark,
}


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
    keep_freed_memory()
    try:
        return COMMANDS[options.command].run(options)
    except Exception as error:
        from iris_wm.checkpoint.errors import RunError, exit_code

        is_expected = isinstance(error, RunError | ValueError | OSError | MemoryError | FloatingPointError)
        if is_debug or not is_expected:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"iris-wm {options.command}: {message}", file=sys.stderr)
        return exit_code(error)


def build_parser() -> Parser:
    """All commands; config overrides of fit are not among them."""
    parser = Parser(
        prog="iris-wm",
        description="A discrete-token transformer world model for Atari 100k: train it, measure it, dream with it.",
        epilog="--debug shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"iris-wm {iris_wm.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(parsers.add_parser(name, help=command.HELP, description=command.HELP))
    return parser
