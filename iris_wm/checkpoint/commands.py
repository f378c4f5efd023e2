"""What ``iris-wm checkpoint verify | list | prune | export`` does; every function returns the exit code."""

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from iris_wm.checkpoint.agent_files import CONFIG_FILE, load_agent, save_agent
from iris_wm.checkpoint.errors import EXIT_DAMAGED, EXIT_FINISHED, DamagedState, NoUsableCheckpoint
from iris_wm.checkpoint.folder import prune
from iris_wm.checkpoint.manifest import read_manifest
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.checkpoint.verify import (
    best_checkpoint,
    checkpoint_order,
    find_problem,
    list_checkpoints,
    newest_verified,
    verify_checkpoint,
)


def verify_command(path: str | Path, console: Console | None = None) -> int:
    """Verifies a checkpoint folder, or all checkpoints of a run folder; 3 if any of them is damaged."""
    console = console or Console()
    problems = {folder: find_problem(folder) for folder in _checkpoints_in(Path(path))}
    for folder, problem in problems.items():
        console.print(
            f"{folder.name}: {problem or 'verified'}", soft_wrap=True, markup=False, highlight=False
        )
    return EXIT_DAMAGED if any(problems.values()) else EXIT_FINISHED


def list_command(run: str | Path, console: Console | None = None) -> int:
    """Shows the checkpoints of a run folder, oldest first, with the reason below for each that is damaged."""
    console = console or Console()
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


def prune_command(
    run: str | Path, keep_last: int = 2, damaged_too: bool = False, console: Console | None = None
) -> int:
    """Removes all but the last ``keep_last`` verified checkpoints and the best; needs the run to be stopped."""
    console = console or Console()
    with RunFolder(run) as folder:
        removed = prune(folder, keep_last, damaged_too=damaged_too)
    for path in removed:
        console.print(f"removed {path.name}", markup=False, highlight=False)
    if not removed:
        console.print("nothing to remove")
    return EXIT_FINISHED


def export_command(
    source: str | Path, target: str | Path, which: str = "newest", console: Console | None = None
) -> int:
    """Copies an agent, weights and config, into a folder of its own.

    source: a run folder or a checkpoint folder. which: for a run folder, newest, best (highest score), or the
    name of a checkpoint. Raises ``ValueError`` if ``target`` holds an agent already.
    """
    console = console or Console()
    folder = select_checkpoint(Path(source), which)
    target = Path(target)
    if (target / CONFIG_FILE).exists():
        raise ValueError(f"{target}: expected a new folder, there is an agent in it already")
    weights, config = load_agent(folder)
    save_agent(target, weights, config)
    console.print(f"exported the agent of {folder.name} to {target}", markup=False, highlight=False)
    return EXIT_FINISHED


def select_checkpoint(source: Path, which: str = "newest") -> Path:
    """A verified checkpoint folder: ``source`` itself, or the newest, the best or a named one of a run folder."""
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
