"""metrics.csv: one line per number, only ever appended to, and cut back to a checkpoint's part on resume."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.durable import FileEntry
from iris_wm.checkpoint.errors import DamagedState, ResourceError

HEADER = b"env_steps,epoch,name,value\n"


class MetricsFile:
    """The metrics of a run in long format: the columns env_steps, epoch, name and value.

    Nothing is written before ``restore`` said where to continue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    def restore(self, part: FileEntry | None) -> None:
        """Continues after ``part`` of the file, dropping what came later; with None, or no file, from nothing.

        ``DamagedState`` if the file no longer begins with that part.
        """
        self.close()
        part = part if part is not None and self.path.exists() else None
        kept = b""
        if part is not None:
            with open(self.path, "rb") as file:
                kept = file.read(part.size)
            if FileEntry.of(kept) != part:
                raise DamagedState(
                    f"{self.path}: its first {part.size} bytes are not those the checkpoint recorded; "
                    "restore it from a copy, or remove it to continue without the earlier rows"
                )
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        os.ftruncate(self._descriptor, len(kept))
        self._size, self._digest = len(kept), hashlib.sha256(kept)
        if not kept:
            self._write(HEADER)
            durable.sync_folder(self.path.parent)

    def append(self, env_steps: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds a line per value; numbers read back exactly."""
        lines = []
        for name, value in values.items():
            if not name or any(character in name for character in ',"\r\n'):
                raise ValueError(f"metric name: got {name!r}, expected no comma, quote or line break")
            lines.append(f"{env_steps},{epoch},{name},{float(value)!r}\n")
        self._write("".join(lines).encode())

    def sync(self) -> FileEntry:
        """Puts all lines on the disk and returns what a checkpoint has to record of them."""
        assert self._descriptor is not None, "restore() first"
        os.fsync(self._descriptor)
        return FileEntry(self._size, self._digest.hexdigest())

    def close(self) -> None:
        """Closes the file; does nothing if it is not open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None, "restore() first"
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._size + written)
        except OSError as error:
            raise ResourceError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._size += len(data)
        self._digest.update(data)
