"""The folder of one run: whose it is, who may write to it, and where everything in it stands.

It imports nothing heavy, so that a command can tell at once what is wrong with a folder.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import ForeignRun, ResourceError
from iris_wm.checkpoint.lock import FileLock
from iris_wm.checkpoint.metrics_file import MetricsFile
from iris_wm.checkpoint.verify import CHECKPOINTS, REPLAY, SegmentEntry
from iris_wm.config import config_hash

RUN_CONFIG_FILE = "config.yaml"
IDENTITY_FILE = "identity.json"
LOCK_FILE = "lock"
_FORMAT, _VERSION = "iris_wm run", 1


class RunFolder:
    """An open run folder: locked, writable, and known to belong to this run. Close it, or use it in ``with``.

    path: the folder. metrics: its metrics.csv. config_hash: sha256 of its identity. segments: the replay
    segments on disk that hold the steps of the running process, in order. is_new: this process has made it.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any] | None = None,
        config_yaml: str = "",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates or opens the folder.

        identity: what must not change in a run (game, seed, the config that shapes it), nested as you like, of
        what JSON holds; None opens an existing folder whatever it holds. config_yaml: the text kept, for people
        and for loading the agent, as config.yaml. defaults: what a key means that the folder's identity lacks, since
        the run is older than the key; without one it is a difference.

        Raises ``ForeignRun`` naming the differing keys, ``RunInUse``, ``ResourceError`` if the folder cannot be
        written, ``ValueError`` for a path that cannot be a run folder.
        """
        self.path = _check_path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.replay = self.path / REPLAY
        self.metrics = MetricsFile(self.path / "metrics.csv")
        self.segments: tuple[SegmentEntry, ...] = ()
        self._lock = FileLock(self.path / LOCK_FILE)
        try:
            if identity is None and not (self.path / IDENTITY_FILE).exists():
                raise ValueError(f"{self.path}: expected a run folder, there is no {IDENTITY_FILE} in it")
            _refuse_other_content(self.path)
            durable.make_folder(self.path)
            self._lock.acquire()
            self.config_hash = self._claim(identity, config_yaml, defaults)
        except OSError as error:
            self.close()
            raise ResourceError(f"run folder {self.path}: cannot be written: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def check_lock(self) -> None:
        """Raises ``RunInUse`` if the lock file was removed and another process has taken the run since."""
        self._lock.check()

    def close(self) -> None:
        """Closes metrics.csv and gives the lock back."""
        self.metrics.close()
        self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(
        self, identity: Mapping[str, Any] | None, config_yaml: str, defaults: Mapping[str, Any] | None
    ) -> str:
        """Compares or writes the identity, makes the sub-folders and clears leftovers; returns the config hash."""
        path = self.path / IDENTITY_FILE
        self.is_new = not path.exists()
        if self.is_new:  # first of all, so that whatever else is found later has an owner
            durable.replace_file(path, durable.seal(_FORMAT, _VERSION, {"identity": identity}))
        found = _read_identity(self.path)
        if identity is not None:
            _refuse_differences(self.path, found, identity, defaults)
        for folder in (self.path, self.checkpoints, self.replay):
            durable.make_folder(folder)
            durable.remove_leftovers(folder)
        probe = self.path / f"{durable.TEMPORARY}probe"
        durable.write_file(probe, b"probe")
        probe.unlink()
        config = self.path / RUN_CONFIG_FILE
        if config_yaml and (not config.exists() or config.read_bytes() != config_yaml.encode()):
            durable.replace_file(config, config_yaml.encode())
        return config_hash(found)


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
    lock = FileLock(Path(os.path.abspath(path)) / LOCK_FILE)
    if os.path.isfile(lock.path):
        lock.acquire()
        lock.release()


def refuse_foreign(
    path: str | Path, identity: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Raise what opening the folder as a run of this identity would raise, as far as looking at it can tell."""
    folder = _check_path(path)
    _refuse_other_content(folder)
    if (folder / IDENTITY_FILE).exists():
        _refuse_differences(folder, _read_identity(folder), identity, defaults)


def _refuse_other_content(folder: Path) -> None:
    """A folder that is not empty must be a run folder already; nobody's home directory becomes a run."""
    names = os.listdir(folder) if folder.is_dir() else []
    foreign = [name for name in names if name != LOCK_FILE and not name.startswith(durable.TEMPORARY)]
    if foreign and IDENTITY_FILE not in names:
        raise ForeignRun(
            f"run folder {folder}: got one with {min(foreign)} and no {IDENTITY_FILE}, "
            "expected a new or empty folder or a run folder"
        )


def _refuse_differences(
    folder: Path, found: Any, identity: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> None:
    wanted = _flat(identity)
    has = {key: text for key, text in _flat(defaults or {}).items() if key in wanted} | _flat(found)
    differences = [
        f"{key}: it has {has.get(key, 'nothing')[:60]}, you asked for {wanted.get(key, 'nothing')[:60]}"
        for key in has | wanted
        if has.get(key) != wanted.get(key)
    ]
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ForeignRun(f"run folder {folder} belongs to another run: {'; '.join(differences[:5])}{more}")


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """The values of nested mappings as JSON, by their dotted keys."""
    if not isinstance(value, Mapping):
        return {path: json.dumps(value)}
    items = [_flat(item, f"{path}.{key}" if path else key) for key, item in value.items()]
    return {key: text for item in items for key, text in item.items()}


def _check_path(path: str | Path) -> Path:
    text = str(path)
    if "://" in text:
        raise ValueError(f"run folder: got the URL {text!r}, expected a path")
    if not text.strip() or not text.isprintable():
        raise ValueError(f"run folder: got {text!r}, expected a path of printable characters")
    result = Path(os.path.abspath(text))
    if os.path.islink(result) and not os.path.exists(result):
        raise ValueError(f"run folder {text}: a link that leads nowhere, to {os.readlink(result)}")
    if os.path.exists(result) and not os.path.isdir(result):
        raise ValueError(f"run folder {text}: got a file, expected a folder")
    return result


def _read_identity(folder: Path) -> dict[str, Any]:
    return durable.read_sealed(folder / IDENTITY_FILE, _FORMAT, _VERSION)["identity"]
