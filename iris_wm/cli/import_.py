"""`iris-wm import`: read a published IRIS checkpoint."""

import argparse

HELP = "read a published IRIS checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("file", metavar="FILE", help="state dict (.pt)")
    parser.add_argument("target", metavar="FOLDER", help="agent folder to write")
    parser.add_argument("--heads", type=int, default=4, help="attention heads, which the file does not tell")


def run(options: argparse.Namespace) -> int:
    """Write an agent folder."""
    from iris_wm.interop.published_iris import load_published

    agent = load_published(options.file, num_heads=options.heads)
    print(f"agent with {agent.actions.sizes[0]} actions written to {agent.save(options.target)}")
    return 0
