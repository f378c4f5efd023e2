"""`iris-wm fit`: train an agent in its dreams, or continue a run."""

import argparse
import os
from pathlib import Path

from iris_wm.checkpoint.run_folder import RUN_CONFIG_FILE, refuse_in_use
from iris_wm.cli.options import text
from iris_wm.cli.parser import Parser

HELP = "train, or continue a run"
_DESCRIPTION = """\
Train an agent in its dreams, or continue a run: the same command does both.

  iris-wm fit --config configs/demo.yaml --run runs/demo
  iris-wm fit --config configs/atari100k/fast.yaml --run runs/pong-0 --env.id Pong --seed 0
  iris-wm fit --run runs/demo                       (continues with the run's own config)

Any key of the config is an option: --section.key value. Later --config files go over earlier ones.
"""


def add_arguments(parser: Parser) -> None:
    """Its own arguments; the config's keys are read by `iris_wm.config`."""
    parser.description = _DESCRIPTION
    parser.more_help = text
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML; may be given again"
    )
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the run folder, made if missing")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument("--print-config", action="store_true", help="print the whole config and stop")


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked at once, then train."""
    from iris_wm.config import apply_overrides, build_config, dump_yaml, merge
    from iris_wm.strict_yaml import read_yaml

    own = Path(options.run) / RUN_CONFIG_FILE
    files = options.config or ([own] if own.is_file() else [])
    if not files:
        raise ValueError("expected --config FILE for a new run, for example --config configs/demo.yaml")
    mapping: dict = {}
    for file in files:
        mapping = merge(mapping, read_yaml(file))
    mapping = apply_overrides(mapping, options.overrides)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # Lightning reads them when it is imported
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise ValueError(f"environment variable {name}: got {value!r}, expected an integer; or unset it")
    is_first_process = os.environ.get("LOCAL_RANK", "0") == "0"  # the one that locks, where several train
    if is_first_process and not options.print_config:
        refuse_in_use(options.run)
    from iris_wm.envs.make import check_id
    from iris_wm.runs.config import RunConfig

    config = build_config(RunConfig, mapping)
    check_id(config.env.id)
    if options.print_config:
        print(dump_yaml(config), end="")
        return 0
    from iris_wm.checkpoint.run_folder import refuse_foreign

    refuse_foreign(options.run, config.identity(), RunConfig().identity())
    from iris_wm.training.train import fit

    fit(config, options.run, is_quiet=options.quiet)
    return 0
