"""`iris-wm export`: write an agent in the published IRIS format."""

import argparse

HELP = "write the published IRIS format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN", help="run or agent folder")
    parser.add_argument("file", metavar="FILE", help="state dict (.pt) to write")


def run(options: argparse.Namespace) -> int:
    """Write the state dict."""
    import torch

    from iris_wm.agent import Agent
    from iris_wm.interop.published_iris import published_state

    torch.save(published_state(Agent.load(options.run)), options.file)
    print(f"published IRIS state dict written to {options.file}")
    return 0
