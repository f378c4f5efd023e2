"""The manifest of a checkpoint: every file with size and sha256, the replay segments, and where training stood."""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import iris_wm
from iris_wm.checkpoint import sealed_json
from iris_wm.checkpoint.agent_files import check_format
from iris_wm.checkpoint.errors import DamagedCheckpoint
from iris_wm.checkpoint.replay_segments import SegmentEntry, check_ranges

MANIFEST_FILE = "manifest.json"
FORMAT = "iris_wm checkpoint"
FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9_]+\.(?:safetensors|json)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 in hex of one file, or of the first ``size`` bytes of a growing one."""

    size: int
    sha256: str


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
    package_version: str = iris_wm.__version__

    @property
    def size(self) -> int:
        """Bytes of the checkpoint's own files, the replay not included."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """The contents of manifest.json."""
        return sealed_json.to_bytes({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder; ``DamagedCheckpoint`` or ``NewerFormat`` if it cannot be used."""
    path = folder / MANIFEST_FILE
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedCheckpoint(f"{folder}: expected a checkpoint folder")
    document = sealed_json.read(path)
    check_format(document, path, FORMAT, FORMAT_VERSION)
    try:
        return _from_json(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: not a manifest: {str(error)[:120]}") from None


def _from_json(document: dict[str, Any]) -> Manifest:
    def text(key: str) -> str:
        return _expect(document[key], isinstance(document[key], str), key)

    def count(key: str) -> int:
        return _count(document[key], key)

    score = document["score"]
    _expect(score, score is None or (type(score) in (int, float) and math.isfinite(score)), "score")
    for name in document["files"]:
        _expect(name, _FILE_NAME.fullmatch(name) is not None and name != MANIFEST_FILE, "files")
    replay = tuple(_segment(item) for item in document["replay"])
    check_ranges(replay)
    return Manifest(
        created=text("created"),
        step=count("step"),
        env_steps=count("env_steps"),
        epoch=count("epoch"),
        score=None if score is None else float(score),
        config_hash=text("config_hash"),
        metrics=_file(document["metrics"]),
        files={name: _file(item) for name, item in document["files"].items()},
        replay=replay,
        package_version=text("package_version"),
    )


def _file(item: dict[str, Any]) -> FileEntry:
    sha256 = item["sha256"]
    _expect(sha256, isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None, "sha256")
    return FileEntry(_count(item["size"], "size"), sha256)


def _segment(item: dict[str, Any]) -> SegmentEntry:
    file = _file(item)
    return SegmentEntry(_count(item["start"], "start"), _count(item["stop"], "stop"), file.size, file.sha256)


def _count(value: Any, key: str) -> int:
    return _expect(value, type(value) is int and 0 <= value < 2**63, key)


def _expect(value: Any, holds: bool, key: str) -> Any:
    if not holds:
        raise ValueError(f"{key} is {str(value)[:60]!r}")
    return value
