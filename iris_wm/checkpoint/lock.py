"""One run, one writer: a lock that the kernel gives back when its process dies, however it dies."""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from iris_wm.checkpoint.errors import ResourceError, RunInUse

_held: set[int] = set()


class RunLock:
    """An exclusive ``flock`` on a file, held from ``acquire`` to ``release`` or the end of the process.

    The file stays when the lock goes, so there is nothing stale to recover. Children forked meanwhile, data
    loader workers for instance, do not keep it when they outlive the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock or raises ``RunInUse`` naming the process and host that hold it, at once."""
        assert self._descriptor is None, "already held"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ResourceError(f"{self.path}: cannot be opened for locking: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            raise in_use(self.path.parent, content) from None
        except OSError as error:
            os.close(descriptor)
            raise ResourceError(f"{self.path}: this file system cannot lock: {error.strerror}") from None
        _held.add(descriptor)
        self._descriptor = descriptor
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode() + b"\n", 0)

    def check(self) -> None:
        """Before a write: where somebody has removed the file, takes the lock anew, or raises ``RunInUse``."""
        assert self._descriptor is not None, "not held"
        try:
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self.path)):
                return
        except OSError:
            pass
        self.release()
        self.acquire()

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def in_use(folder: str | Path, content: bytes) -> RunInUse:
    """What to raise about a folder whose lock is held, from what the holder wrote into it."""
    try:
        told = json.loads(content)
        holder = f"process {int(told['pid'])} on host {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        holder = "another process"
    return RunInUse(f"run folder {folder} is in use by {holder}; stop it, or use another folder")


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
