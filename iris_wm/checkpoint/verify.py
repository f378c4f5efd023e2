"""Whether a checkpoint is, bit for bit, what was written; and the newest one of a run that is."""

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import DamagedCheckpoint, DamagedState, NoUsableCheckpoint
from iris_wm.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest

CHECKPOINTS = "checkpoints"
REPLAY = "replay"
SET_ASIDE = "damaged-"
_NAME = re.compile(r"step-(\d{9,18})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class Found:
    """The checkpoint to use, and the newer ones that cannot be used, each with the reason in one line."""

    folder: Path
    manifest: Manifest
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def checkpoint_name(step: int, serial: int = 0) -> str:
    """The folder name of a checkpoint; ``serial`` tells several saves at one step apart."""
    return f"step-{step:09d}" + (f"-{serial}" if serial else "")


def checkpoint_order(folder: Path) -> tuple[int, int] | None:
    """(step, serial) from a checkpoint folder's name, the later save being larger; None for another name."""
    match = _NAME.fullmatch(folder.name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run folder, newest first, usable or not."""
    folder = run / CHECKPOINTS
    names = os.listdir(folder) if folder.is_dir() else []
    ordered = [(order, folder / name) for name in names if (order := checkpoint_order(folder / name))]
    return [path for _, path in sorted(ordered, reverse=True)]


def verify_checkpoint(folder: Path) -> Manifest:
    """The manifest, if every file is there with the right bytes and nothing else is.

    Raises ``DamagedCheckpoint`` naming the first file that differs, what was expected and what was found, and
    ``NewerFormat`` for a checkpoint of a later version.
    """
    manifest = read_manifest(folder)
    order = checkpoint_order(folder)
    if order and order[0] != manifest.step:
        raise DamagedCheckpoint(f"{folder}: renamed; by its manifest it is {checkpoint_name(manifest.step)}")
    found = set(os.listdir(folder))
    expected = {*manifest.files, MANIFEST_FILE}
    if found - expected:
        raise DamagedCheckpoint(
            f"{folder / min(found - expected)}: a foreign file, the manifest does not name it"
        )
    for name, entry in manifest.files.items():
        durable.check_file(folder / name, size=entry.size, sha256=entry.sha256)
    for segment in manifest.replay:
        path = folder.parent.parent / REPLAY / segment.name
        durable.check_file(path, size=segment.size, sha256=segment.sha256)
    return manifest


def find_problem(folder: Path) -> DamagedState | None:
    """What ``verify_checkpoint`` raises for a checkpoint; None if it verifies."""
    try:
        verify_checkpoint(folder)
    except DamagedState as error:
        return error
    return None


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint with the highest score, the newest of equals; None if no manifest holds a score."""
    best, best_score = None, -math.inf
    for folder in list_checkpoints(run):
        with suppress(DamagedState):
            score = read_manifest(folder).score
            if score is not None and score > best_score:
                best, best_score = folder, score
    return best


def newest_verified(run: Path, config_hash: str | None = None) -> Found | None:
    """The newest checkpoint of a run folder that verifies; None for a run that never saved one.

    With ``config_hash``, checkpoints of another run are skipped like damaged ones. Raises ``NoUsableCheckpoint``
    if there are checkpoints and none is usable, ``NewerFormat`` if the newest intact one is of a later version.
    """
    skipped: list[tuple[Path, str]] = []
    for folder in list_checkpoints(run):
        try:
            manifest = verify_checkpoint(folder)
            if config_hash not in (None, manifest.config_hash):
                raise DamagedCheckpoint(f"{folder}: belongs to a run with another config")
            return Found(folder, manifest, skipped)
        except DamagedCheckpoint as error:
            skipped.append((folder, str(error)))
    set_aside = sorted((run / CHECKPOINTS).glob(f"{SET_ASIDE}*"))
    if not skipped and not set_aside:
        if foreign := _foreign_names(run / CHECKPOINTS):
            raise NoUsableCheckpoint(
                f"{run / CHECKPOINTS}: expected folders named like {checkpoint_name(0)}, found {min(foreign)}; "
                "give it its name back, or move it away to start from the beginning"
            )
        return None
    reason = f"the newest: {skipped[0][1]}" if skipped else f"all were set aside: {set_aside[-1]}"
    raise NoUsableCheckpoint(
        f"{run}: none of {len(skipped) + len(set_aside)} checkpoints can be used; {reason}. "
        "Restore one from a copy, or start a run in another folder"
    )


def _foreign_names(folder: Path) -> list[str]:
    """What lies in the folder and was not left there by a save that was killed."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if not name.startswith(durable.TEMPORARY)]
