"""`iris-wm report`: pictures, curves and scores of a run on one page."""

import argparse

from iris_wm.checkpoint.run_folder import existing_run

HELP = "pictures, curves and scores on one page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--episodes", type=int, default=16, help="of the agent and of a random policy each")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Play, write the page, print the returns."""
    existing_run(options.run)
    from iris_wm.reports.run_report import write_run_report
    from iris_wm.runs.open import open_run

    run = open_run(options.run)
    path, agent, random = write_run_report(run, num_episodes=options.episodes, seed=options.seed)
    print(f"agent:          {agent}\nrandom policy:  {random}")
    print(f"report: {path}")
    return 0
