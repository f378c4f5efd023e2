"""Files that are on the disk when a function returns: written, synced, renamed, and read without tricks.

A sealed file is a JSON document that names its format and ends with the sha256 of everything before it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import iris_wm
from iris_wm.checkpoint.errors import DamagedCheckpoint, OtherFormat, ResourceError

TEMPORARY = ".tmp-"
MAX_FILE_BYTES = 16 * 2**30
MAX_JSON_BYTES = 2**28
_CHUNK = 4 * 2**20
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EIO, errno.ENOTDIR, errno.EISDIR)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 in hex of one file, or of the first ``size`` bytes of a growing one."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0 or not _SHA256.fullmatch(self.sha256):
            raise ValueError(
                f"got {self.size} bytes of sha256 {self.sha256[:70]!r}, expected a size and 64 digits"
            )

    @staticmethod
    def of(data: bytes) -> "FileEntry":
        """What names these contents."""
        return FileEntry(len(data), hashlib.sha256(data).hexdigest())

    def check(self, path: Path, sha256: str) -> None:
        """``DamagedCheckpoint`` if the file has another sha256."""
        if sha256 != self.sha256:
            raise DamagedCheckpoint(f"{path}: got sha256 {sha256[:12]}, expected {self.sha256[:12]}")


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Creates ``path``, which must not exist, with ``data`` on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path``, in one instant, whatever stood there before."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    temporary.unlink(missing_ok=True)
    try:
        write_file(temporary, data)
        rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Renames within one folder and syncs that folder."""
    assert source.parent == target.parent, (source, target)
    os.rename(source, target)
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Creates a folder and its missing parents, durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder; a kill midway leaves only a hidden name, never half of what stood at ``path``."""
    doomed = path.with_name(f"{TEMPORARY}{path.name}-removed")
    shutil.rmtree(doomed, ignore_errors=True)
    rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left in ``folder``. Needs the run's lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _regular_file(path: Path, size: int | None, limit: int) -> Iterator[BufferedReader]:
    """An open regular file (no link, no pipe, no device) of this size, or of any size within the limit."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DamagedCheckpoint(f"{path}: got something else, expected a regular file")
            if size is not None and status.st_size != size:
                raise DamagedCheckpoint(f"{path}: got {status.st_size} bytes, expected {size}")
            if status.st_size > limit:
                raise DamagedCheckpoint(f"{path}: got {status.st_size} bytes, over the limit of {limit}")
            yield file
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: missing") from None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise ResourceError(f"{path}: cannot be read: {error.strerror}") from None
        found = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise DamagedCheckpoint(f"{path}: got {found}, expected a regular file") from None


def read_file(path: Path, entry: FileEntry | None = None, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file within the limit; ``DamagedCheckpoint`` unless they are those of ``entry``."""
    with _regular_file(path, entry.size if entry else None, limit) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
    if entry is not None:
        entry.check(path, hashlib.sha256(data).hexdigest())
    return data


def check_file(path: Path, entry: FileEntry) -> None:
    """``DamagedCheckpoint`` unless ``path`` is the regular file that ``entry`` names; reads in pieces."""
    with _regular_file(path, entry.size, MAX_FILE_BYTES) as file:
        entry.check(path, hashlib.file_digest(file, "sha256").hexdigest())


def seal(name: str, version: int, document: Mapping[str, Any]) -> bytes:
    """The contents of a sealed file of the format ``name``."""
    header = {"format": name, "format_version": version, "package_version": iris_wm.__version__}
    return _with_checksum({**header, **document})


def read_sealed(path: Path, name: str, version: int) -> dict[str, Any]:
    """The document that ``seal`` was given. ``DamagedCheckpoint`` or ``OtherFormat`` where it cannot be used."""
    data = read_file(path, limit=MAX_JSON_BYTES)
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or _with_checksum(document) != data:
            raise ValueError
    except (ValueError, RecursionError):
        raise DamagedCheckpoint(
            f"{path}: got {data[:12]!r}..., expected a document with its right sha256 at the end"
        ) from None
    found, writer = document.pop("format_version", None), str(document.pop("package_version", None))[:40]
    if document.pop("format", None) != name or type(found) is not int or found < 1:
        raise DamagedCheckpoint(f"{path}: expected a file of the format {name!r}")
    if found != version:
        advice = "upgrade iris-wm" if found > version else "open it with the version that wrote it"
        raise OtherFormat(
            f"{path}: written by iris_wm {writer} in format {found}, this is iris_wm {iris_wm.__version__} "
            f"for format {version}; {advice}"
        )
    del document["sha256"]
    return document


def _with_checksum(document: Mapping[str, Any]) -> bytes:
    """The document as JSON; its last key is the sha256 of all bytes before that key."""
    head = json.dumps({key: document[key] for key in document if key != "sha256"}, indent=1).removesuffix(
        "\n}"
    )
    return f'{head},\n "sha256": "{hashlib.sha256(head.encode()).hexdigest()}"\n}}\n'.encode()
