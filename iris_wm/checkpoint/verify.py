"""A checkpoint's manifest, whether its files are what it says, bit for bit, and the newest one of which it is true."""

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.durable import FileEntry
from iris_wm.checkpoint.errors import DamagedCheckpoint, DamagedState, NoUsableCheckpoint
from iris_wm.config import build_config, to_mapping

CHECKPOINTS = "checkpoints"
REPLAY = "replay"
SET_ASIDE = "damaged-"
MANIFEST_FILE = "manifest.json"
FORMAT = "iris_wm checkpoint"
FORMAT_VERSION = 2
_FOLDER_NAME = re.compile(r"step-(\d{9,18})(?:-(\d{1,9}))?")
_FILE_NAME = re.compile(r"[A-Za-z0-9_]+\.(?:safetensors|json)")


@dataclass(frozen=True)
class SegmentEntry(FileEntry):
    """A file of the replay: the steps [start, stop)."""

    start: int
    stop: int

    @staticmethod
    def of_steps(data: bytes, start: int, stop: int) -> "SegmentEntry":
        """What names these contents."""
        file = FileEntry.of(data)
        return SegmentEntry(file.size, file.sha256, start, stop)

    @property
    def name(self) -> str:
        """The file's name in the replay folder."""
        return f"segment-{self.start:09d}-{self.stop:09d}-{self.sha256[:12]}.bin"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself. ``step`` counts commits, ``env_steps`` steps of the environment.

    created: UTC, ISO 8601. score: higher is better; None if not measured. metrics: the part of metrics.csv that
    belongs to this checkpoint. config_hash: sha256 of the run's identity. replay: in order, from step 0.
    """

    created: str
    step: int
    env_steps: int
    epoch: int
    score: float | None
    config_hash: str
    metrics: FileEntry
    files: dict[str, FileEntry]
    replay: tuple[SegmentEntry, ...]

    def __post_init__(self) -> None:
        if min(self.step, self.env_steps, self.epoch) < 0:
            raise ValueError(
                f"step, env_steps, epoch: got {self.step}, {self.env_steps}, {self.epoch}, expected >= 0"
            )
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"score: got {self.score}, expected a finite number or None")
        for name in self.files:
            if not _FILE_NAME.fullmatch(name) or name == MANIFEST_FILE:
                raise ValueError(f"files: got {name[:60]!r}, expected the name of a file of the checkpoint")
        check_ranges(self.replay)

    @property
    def size(self) -> int:
        """Bytes of the checkpoint's own files, the replay not included."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """The contents of manifest.json."""
        return durable.seal(FORMAT, FORMAT_VERSION, to_mapping(self))


def check_ranges(entries: Sequence[SegmentEntry]) -> None:
    """``ValueError`` unless the entries follow each other from step 0 without gap or overlap."""
    position = 0
    for entry in entries:
        if entry.start != position or entry.stop <= entry.start:
            raise ValueError(
                f"replay: got steps {entry.start} to {entry.stop}, expected some from {position} on"
            )
        position = entry.stop


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder; ``DamagedCheckpoint`` or ``OtherFormat`` if it cannot be used."""
    path = folder / MANIFEST_FILE
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedCheckpoint(f"{folder}: expected a checkpoint folder")
    try:
        return build_config(Manifest, durable.read_sealed(path, FORMAT, FORMAT_VERSION))
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}: {str(error)[:200]}") from None


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
    match = _FOLDER_NAME.fullmatch(folder.name)
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
    ``OtherFormat`` for a checkpoint of a version with another format.
    """
    manifest = read_manifest(folder)
    order = checkpoint_order(folder)
    if order and order[0] != manifest.step:
        raise DamagedCheckpoint(f"{folder}: renamed; by its manifest it is {checkpoint_name(manifest.step)}")
    if foreign := {*os.listdir(folder)} - {*manifest.files, MANIFEST_FILE}:
        raise DamagedCheckpoint(f"{folder / min(foreign)}: a foreign file, the manifest does not name it")
    for name, entry in manifest.files.items():
        durable.check_file(folder / name, entry)
    for segment in manifest.replay:
        durable.check_file(folder.parent.parent / REPLAY / segment.name, segment)
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

    With ``config_hash``, checkpoints of another run are skipped like damaged ones. Raises ``NoUsableCheckpoint`` if
    there are checkpoints and none is usable, ``OtherFormat`` if the newest intact one is of another version.
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
    folder = run / CHECKPOINTS
    names = os.listdir(folder) if folder.is_dir() else []
    others = sorted(name for name in names if not name.startswith(durable.TEMPORARY))
    if not others:
        return None
    set_aside = [name for name in others if name.startswith(SET_ASIDE)]
    if not skipped and not set_aside:
        raise NoUsableCheckpoint(
            f"{folder}: got {others[0]}, expected folders named like {checkpoint_name(0)}; "
            "give it its name back, or move it away to start from the beginning"
        )
    reason = f"the newest: {skipped[0][1]}" if skipped else f"all were set aside: {folder / set_aside[-1]}"
    raise NoUsableCheckpoint(
        f"{run}: none of {len(skipped) + len(set_aside)} checkpoints can be used; {reason}. "
        "Restore one from a copy, or start a run in another folder"
    )
