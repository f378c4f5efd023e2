"""What a command can tell of a run folder at once, before anything heavy is imported; nothing is left behind."""

import fcntl
import os
import tempfile
from pathlib import Path

from iris_wm.checkpoint.errors import ResourceError
from iris_wm.checkpoint.lock import in_use

RUN_CONFIG_FILE = "config.yaml"
LOCK_FILE = "lock"


def existing_run(path: str | Path) -> Path:
    """The run folder; ValueError if the path is none."""
    folder = Path(path)
    try:
        is_run = (folder / RUN_CONFIG_FILE).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        is_run = False
    if not is_run:
        raise ValueError(
            f'"{path}": not a run folder: it has no {RUN_CONFIG_FILE}; start one with iris-wm fit'
        )
    return folder


def check_writable(folder: str | Path) -> None:
    """ResourceError if nothing can be written into the folder, or into the one it will be made in."""
    place = Path(os.path.abspath(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written: {error.strerror}; see --output") from None


def refuse_in_use(path: str | Path) -> None:
    """RunInUse if a process trains in the run folder. The lock itself is taken later, and decides."""
    try:
        descriptor = os.open(
            Path(path) / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except (OSError, ValueError):  # there is none, or what is wrong is told when the folder is opened
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(os.path.abspath(path), os.pread(descriptor, 1000, 0)) from None
    except OSError:
        return
    finally:
        os.close(descriptor)
