"""One writer: a lock on a file that the kernel gives back when its process dies, however it dies."""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from iris_wm.checkpoint.errors import ResourceError, RunInUse

_private: set[int] = set()


class FileLock:
    """An exclusive ``flock`` on a file, held from ``acquire`` to ``release`` or the end of the process.

    The file stays when the lock goes, so there is nothing stale to recover. Children forked meanwhile, data loader
    workers for instance, do not keep it when they outlive the process; with ``is_inherited`` they do.
    """

    def __init__(self, path: Path, *, is_inherited: bool = False) -> None:
        self.path = path
        self.descriptor: int | None = None
        self._is_inherited = is_inherited

    def acquire(self) -> None:
        """Takes the lock or raises ``RunInUse`` naming the process and host that hold it, at once."""
        assert self.descriptor is None, "already held"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ResourceError(f"{self.path}: cannot be opened for locking: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(os.pread(descriptor, 1000, 0))
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise ResourceError(
                    f"{self.path}: this file system cannot lock: {error.strerror}; use a folder on another"
                ) from None
            raise RunInUse(
                f"run folder {self.path.parent} is in use by {holder}; stop it, or use another folder"
            ) from None
        if not self._is_inherited:
            _private.add(descriptor)
        self.descriptor = descriptor
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode() + b"\n", 0)

    def check(self) -> None:
        """Before a write: where somebody has removed the file, takes the lock anew, or raises ``RunInUse``."""
        assert self.descriptor is not None, "not held"
        try:
            if os.path.samestat(os.fstat(self.descriptor), os.stat(self.path)):
                return
        except OSError:
            pass
        self.release()
        self.acquire()

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        if self.descriptor is not None:
            _private.discard(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = None


def _holder(content: bytes) -> str:
    """Who holds a lock, from what the holder wrote into its file."""
    try:
        told = json.loads(content)
        return f"process {int(told['pid'])} on host {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _close_in_child() -> None:
    for descriptor in _private:
        os.close(descriptor)
    _private.clear()


os.register_at_fork(after_in_child=_close_in_child)
