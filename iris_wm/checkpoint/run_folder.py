"""The folder of one run: whose it is, who may write to it, and where everything in it stands."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from iris_wm.checkpoint import durable, sealed_json
from iris_wm.checkpoint.agent_files import check_format
from iris_wm.checkpoint.errors import ForeignRun, ResourceError
from iris_wm.checkpoint.lock import RunLock
from iris_wm.checkpoint.metrics_file import MetricsFile
from iris_wm.checkpoint.opening import LOCK_FILE, RUN_CONFIG_FILE
from iris_wm.checkpoint.replay_segments import SegmentEntry
from iris_wm.checkpoint.verify import CHECKPOINTS, REPLAY

IDENTITY_FILE = "identity.json"
_FORMAT = "iris_wm run"


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
        self._lock = RunLock(self.path / LOCK_FILE)
        try:
            _refuse_other_content(self.path, identity is None)
            durable.make_folder(self.path)
            self._lock.acquire()
            self.config_hash = self._claim(identity, config_yaml, defaults or {})
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(
        self, identity: Mapping[str, Any] | None, config_yaml: str, defaults: Mapping[str, Any]
    ) -> str:
        """Compares or writes the identity, makes the sub-folders and clears leftovers; returns the config hash."""
        path = self.path / IDENTITY_FILE
        found = _read_identity(path) if path.exists() else None
        self.is_new = found is None
        if found is not None and identity is not None:
            _refuse_differences(self.path, found, identity, defaults)
        durable.remove_leftovers(self.path)
        if found is None:  # first of all, so that whatever else is found later has an owner
            found = json.loads(json.dumps(identity))
            document = {"format": _FORMAT, "format_version": 1, "identity": found}
            durable.replace_file(path, sealed_json.to_bytes(document))
        for folder in (self.checkpoints, self.replay):
            durable.make_folder(folder)
            durable.remove_leftovers(folder)
        probe = self.path / f"{durable.TEMPORARY}probe"
        durable.write_file(probe, b"probe")
        probe.unlink()
        config = self.path / RUN_CONFIG_FILE
        if config_yaml and (not config.exists() or config.read_bytes() != config_yaml.encode()):
            durable.replace_file(config, config_yaml.encode())
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def refuse_foreign(
    path: str | Path, identity: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Raise what opening the folder as a run of this identity would raise, as far as looking at it can tell."""
    folder = _check_path(path)
    _refuse_other_content(folder, False)
    if (folder / IDENTITY_FILE).exists():
        _refuse_differences(folder, _read_identity(folder / IDENTITY_FILE), identity, defaults or {})


def _refuse_other_content(folder: Path, must_exist: bool) -> None:
    """A folder that is not empty must be a run folder already; nobody's home directory becomes a run."""
    if (folder / IDENTITY_FILE).exists():
        return
    if must_exist:
        raise ValueError(f"{folder}: expected a run folder, there is no {IDENTITY_FILE} in it")
    names = os.listdir(folder) if folder.is_dir() else []
    foreign = [name for name in names if name != LOCK_FILE and not name.startswith(durable.TEMPORARY)]
    if foreign:
        raise ForeignRun(
            f"run folder {folder}: expected a new or empty folder or a run folder, found {min(foreign)} "
            f"and no {IDENTITY_FILE}"
        )


def _refuse_differences(
    folder: Path, found: Any, identity: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    differences = _differences(found, *json.loads(json.dumps([identity, defaults])))
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ForeignRun(f"run folder {folder} belongs to another run: {'; '.join(differences[:5])}{more}")


def _check_path(path: str | Path) -> Path:
    text = str(path)
    if "://" in text:
        raise ValueError(f"run folder: expected a path, got the URL {text!r}")
    if not text.strip() or not text.isprintable():
        raise ValueError(f"run folder: expected a path of printable characters, got {text!r}")
    result = Path(os.path.abspath(text))
    if os.path.islink(result) and not os.path.exists(result):
        raise ValueError(f"run folder {text}: a link that leads nowhere, to {os.readlink(result)}")
    if os.path.exists(result) and not os.path.isdir(result):
        raise ValueError(f"run folder {text}: expected a folder, got a file")
    return result


def _read_identity(path: Path) -> dict[str, Any]:
    document = sealed_json.read(path)
    check_format(document, path, _FORMAT, 1)
    return document["identity"]


def _differences(found: Any, wanted: Any, defaults: Any, path: str = "") -> list[str]:
    """One text for each dotted key whose value is not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if not isinstance(defaults, dict):
            defaults = {}
        keys = [*found, *(key for key in wanted if key not in found)]
        inner = (
            _differences(
                found.get(key, defaults.get(key, "(nothing)")),
                wanted.get(key, "(nothing)"),
                defaults.get(key),
                f"{path}.{key}" if path else key,
            )
            for key in keys
        )
        return [text for texts in inner for text in texts]
    texts = json.dumps(found), json.dumps(wanted)
    return [] if texts[0] == texts[1] else [f"{path}: it has {texts[0][:60]}, you asked for {texts[1][:60]}"]
