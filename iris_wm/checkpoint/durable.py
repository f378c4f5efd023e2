"""Files that are on the disk when a function returns: written, synced, renamed, and read without tricks."""

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

from iris_wm.checkpoint.errors import DamagedCheckpoint, ResourceError

TEMPORARY = ".tmp-"
MAX_FILE_BYTES = 16 * 2**30
_CHUNK = 4 * 2**20


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
    doomed = path.with_name(f"{TEMPORARY}{path.name.removeprefix(TEMPORARY)}-removed")
    if path != doomed:
        shutil.rmtree(doomed, ignore_errors=True)
        rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what killed writers left in ``folder``; returns the removed paths. Needs the run's lock."""
    leftovers = sorted(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return leftovers


def _open_regular(path: Path, expected_size: int | None) -> tuple[int, int]:
    """An open descriptor of a regular file (no link, no pipe, no device) and its size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: missing") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EIO, errno.ENOTDIR):
            raise ResourceError(f"{path}: cannot be opened: {error.strerror}") from None
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise DamagedCheckpoint(f"{path}: expected a regular file, got {reason}") from None
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "expected a regular file, got something else"
    elif expected_size is not None and status.st_size != expected_size:
        problem = f"expected {expected_size} bytes, got {status.st_size}"
    elif status.st_size > MAX_FILE_BYTES:
        problem = f"{status.st_size} bytes is over the limit of {MAX_FILE_BYTES}"
    if problem:
        os.close(descriptor)
        raise DamagedCheckpoint(f"{path}: {problem}")
    return descriptor, status.st_size


def read_file(
    path: Path, *, size: int | None = None, sha256: str | None = None, limit: int = MAX_FILE_BYTES
) -> bytes:
    """The bytes of a regular file of at most ``limit``; ``DamagedCheckpoint`` where size or sha256 differ."""
    descriptor, actual = _open_regular(path, size)
    with open(descriptor, "rb") as file:
        if actual > limit:
            raise DamagedCheckpoint(f"{path}: {actual} bytes is over the limit of {limit}")
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise DamagedCheckpoint(f"{path}: cannot be read: {error.strerror}") from None
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DamagedCheckpoint(f"{path}: expected sha256 {sha256[:12]}, got {found[:12]}")
    return data


def check_file(path: Path, *, size: int, sha256: str) -> None:
    """``DamagedCheckpoint`` unless ``path`` is a regular file of this size and sha256; reads in pieces."""
    descriptor, _ = _open_regular(path, size)
    digest = hashlib.sha256()
    with open(descriptor, "rb") as file:
        try:
            while piece := file.read(_CHUNK):
                digest.update(piece)
        except OSError as error:
            raise DamagedCheckpoint(f"{path}: cannot be read: {error.strerror}") from None
    if digest.hexdigest() != sha256:
        raise DamagedCheckpoint(f"{path}: expected sha256 {sha256[:12]}, got {digest.hexdigest()[:12]}")
