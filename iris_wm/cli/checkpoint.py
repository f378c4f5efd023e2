"""`iris-wm checkpoint verify | list | prune | export`: look at and tidy the checkpoints of a run."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from iris_wm.checkpoint.errors import EXIT_DAMAGED, EXIT_FINISHED, DamagedState, NoUsableCheckpoint
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.checkpoint.verify import (
    best_checkpoint,
    checkpoint_order,
    find_problem,
    list_checkpoints,
    newest_verified,
    read_manifest,
    verify_checkpoint,
)

if TYPE_CHECKING:
    from rich.console import Console

HELP = "verify, list, prune, export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("verify", "check every file"),
        ("list", "show a run's checkpoints"),
        ("prune", "remove old checkpoints"),
        ("export", "copy the agent into a folder of its own"),
    ):
        actions.add_parser(name, help=text).add_argument("run", metavar="RUN")
    prune, export = actions.choices["prune"], actions.choices["export"]
    prune.add_argument("--keep", type=int, default=2, help="the newest to keep, besides the best")
    prune.add_argument("--damaged", action="store_true", help="remove damaged ones, too")
    export.add_argument("target", metavar="FOLDER")
    export.add_argument("--which", choices=("newest", "best"), default="newest")


def run(options: argparse.Namespace) -> int:
    """Do the action."""
    from rich.console import Console

    console = Console()
    if options.action == "verify":
        return verify_run(options.run, console)
    if options.action == "list":
        return list_run(options.run, console)
    if options.action == "prune":
        return prune_run(options.run, options.keep, options.damaged, console)
    return export_agent(options.run, options.target, options.which, console)


def verify_run(path: str | Path, console: "Console") -> int:
    """Verify a checkpoint folder, or all checkpoints of a run folder; 3 if any of them is damaged."""
    problems = {folder: find_problem(folder) for folder in _checkpoints_in(Path(path))}
    for folder, problem in problems.items():
        console.print(
            f"{folder.name}: {problem or 'verified'}", soft_wrap=True, markup=False, highlight=False
        )
    return EXIT_DAMAGED if any(problems.values()) else EXIT_FINISHED


def list_run(run: str | Path, console: "Console") -> int:
    """Show the checkpoints of a run folder, oldest first, with the reason below for each that is damaged."""
    from rich.table import Table

    folders = _checkpoints_in(Path(run))[::-1]
    problems = {folder: find_problem(folder) for folder in folders}
    best = best_checkpoint(Path(run))
    table = Table(title=str(run))
    for column in ("checkpoint", "env steps", "epoch", "score", "size", "saved (UTC)", "state"):
        table.add_column(
            column, justify="left" if column in ("checkpoint", "state") else "right", no_wrap=True
        )
    for folder, problem in problems.items():
        state = ("[red]damaged" if problem else "[green]verified") + (", best" if folder == best else "")
        table.add_row(folder.name, *_row(folder), state)
    console.print(table)
    for folder, problem in problems.items():
        if problem:
            console.print(f"{folder.name}: {problem}", soft_wrap=True, markup=False, highlight=False)
    return EXIT_FINISHED


def prune_run(run: str | Path, keep_last: int, damaged_too: bool, console: "Console") -> int:
    """Remove all but the last `keep_last` verified checkpoints and the best; needs the run to be stopped."""
    from iris_wm.checkpoint.folder import prune

    with RunFolder(run) as folder:
        removed = prune(folder, keep_last, damaged_too=damaged_too)
    for path in removed:
        console.print(f"removed {path.name}", markup=False, highlight=False)
    if not removed:
        console.print("nothing to remove")
    return EXIT_FINISHED


def export_agent(source: str | Path, target: str | Path, which: str, console: "Console") -> int:
    """Copy an agent, weights and config, into a folder of its own.

    Args:
        source: a run folder or a checkpoint folder.
        target: where to; ValueError if it holds an agent already.
        which: for a run folder, newest, best (highest score), or the name of a checkpoint.
        console: what is told goes there.
    """
    from iris_wm.checkpoint.agent_files import AGENT_CONFIG_FILE, load_agent, save_agent

    folder = select_checkpoint(Path(source), which)
    target = Path(target)
    if (target / AGENT_CONFIG_FILE).exists():
        raise ValueError(f"{target}: expected a new folder, there is an agent in it already")
    weights, config = load_agent(folder)
    save_agent(target, weights, config)
    console.print(f"exported the agent of {folder.name} to {target}", markup=False, highlight=False)
    return EXIT_FINISHED


def select_checkpoint(source: Path, which: str = "newest") -> Path:
    """A verified checkpoint folder: `source` itself, or the newest, the best or a named one of a run folder."""
    folders = _checkpoints_in(source)
    if len(folders) == 1 and folders[0].name == Path(os.path.abspath(source)).name:
        chosen: Path | None = folders[0]
    elif which == "newest":
        found = newest_verified(source)
        chosen = found.folder if found else None
    elif which == "best":
        chosen = best_checkpoint(source)
    else:
        chosen = next((folder for folder in folders if folder.name == which), None)
    if chosen is None:
        names = ", ".join(folder.name for folder in folders[:5])
        hint = "; none has a score" if which == "best" else ""
        raise ValueError(f"{source}: expected newest, best or one of {names}, got {which!r}{hint}")
    verify_checkpoint(chosen)
    return chosen


def _checkpoints_in(path: Path) -> list[Path]:
    """The checkpoint folder itself, or those of a run folder, newest first; at least one."""
    path = Path(os.path.abspath(path))
    if not path.is_dir():
        raise ValueError(f"{path}: expected a run folder or a checkpoint folder")
    if checkpoint_order(path) is not None:
        return [path]
    folders = list_checkpoints(path)
    if not folders:
        raise NoUsableCheckpoint(f"{path}: there is no checkpoint in it")
    return folders


def _row(folder: Path) -> list[str]:
    """The cells that come from a manifest; empty ones if it cannot be read."""
    try:
        manifest = read_manifest(folder)
    except DamagedState:
        return [""] * 5
    return [
        f"{manifest.env_steps:,}",
        f"{manifest.epoch:,}",
        "" if manifest.score is None else f"{manifest.score:.4g}",
        f"{manifest.size / 1e6:.1f} MB",
        manifest.created.removesuffix("+00:00").replace("T", " "),
    ]
