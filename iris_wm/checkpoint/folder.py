"""Checkpoints as folders: saved in one instant, loaded after verification, pruned to the last ones and the best.

A save writes the new replay segments, then a hidden folder with every file, the manifest last, each synced; it
then renames the folder to its final name and syncs the parent. So at any instant of a kill or power cut the
checkpoint is there whole, or not there at all, and the earlier ones are untouched.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from iris_wm.checkpoint import durable, replay_segments, tree
from iris_wm.checkpoint.agent_files import agent_to_bytes, load_agent
from iris_wm.checkpoint.durable import FileEntry
from iris_wm.checkpoint.errors import DamagedCheckpoint, DamagedState, OtherFormat, ResourceError
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.checkpoint.verify import (
    MANIFEST_FILE,
    REPLAY,
    SET_ASIDE,
    Found,
    Manifest,
    best_checkpoint,
    checkpoint_name,
    checkpoint_order,
    find_problem,
    list_checkpoints,
    newest_verified,
    read_manifest,
    verify_checkpoint,
)
from iris_wm.data.replay import Replay

TRAINING_TENSORS = "training.safetensors"
TRAINING_STRUCTURE = "training.json"
FREE_SPACE_FACTOR = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. agent: weights by name. training: the tree given to ``save_checkpoint``.

    skipped: newer checkpoints that could not be used, each with the reason in one line.
    """

    folder: Path
    manifest: Manifest
    agent: dict[str, Tensor]
    agent_config: dict[str, Any]
    training: Any
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def replay_parts(self) -> Iterator[dict[str, Tensor]]:
        """The replay's steps from 0 on, in order, one dict of arrays per segment, each verified when read."""
        for entry in self.manifest.replay:
            yield replay_segments.read_segment(self.folder.parent.parent / REPLAY, entry)


def save_checkpoint(
    run: RunFolder,
    *,
    step: int,
    env_steps: int,
    epoch: int,
    agent: dict[str, Tensor],
    agent_config: dict[str, Any],
    training: Any,
    replay: Replay | None = None,
    score: float | None = None,
    keep_last: int = 2,
) -> Path:
    """Writes a new checkpoint, prunes old ones, and returns the new folder. ``resume`` must have been called.

    step: commits so far, never smaller than in an earlier save; it names the folder. env_steps, epoch: where
    training stands. agent: weights by name. agent_config: what JSON holds. training: any tree that
    ``tree.encode`` takes. replay: the steps not yet on disk are taken from it. score: higher is better.

    Raises ``ResourceError`` if there is no room for three times its size or a write fails; what was saved
    before is untouched then. ``ValueError`` names a value that cannot be saved. ``RunInUse``: see ``check_lock``.
    """
    run.check_lock()
    folder = _next_name(run, step)
    tensors, structure = tree.encode(training)
    files = {
        **agent_to_bytes(agent, agent_config),
        TRAINING_TENSORS: safetensors.torch.save(tensors),
        TRAINING_STRUCTURE: json.dumps(structure).encode(),
    }
    segments, new_segments = list(run.segments), dict[str, bytes]()
    if replay is not None:
        segments, new_segments = replay_segments.pack_new_steps(run.replay, segments, replay)
    _check_free_space(run.path, sum(map(len, [*files.values(), *new_segments.values()])))
    staging = run.checkpoints / f"{durable.TEMPORARY}{folder.name}"
    try:
        replay_segments.write_segments(run.replay, new_segments)
        manifest = Manifest(
            created=datetime.now(UTC).isoformat("T", "seconds"),
            step=step,
            env_steps=env_steps,
            epoch=epoch,
            score=score,
            config_hash=run.config_hash,
            metrics=run.metrics.sync(),
            files={name: FileEntry.of(data) for name, data in files.items()},
            replay=tuple(segments),
        )
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name, data in {**files, MANIFEST_FILE: manifest.to_bytes()}.items():
            durable.write_file(staging / name, data)
        durable.sync_folder(staging)
        durable.rename(staging, folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_unreferenced_segments(run)
        raise ResourceError(
            f"checkpoint of step {step} in {run.path}: cannot be written: {error.strerror or error}"
        ) from None
    run.segments = tuple(segments)
    prune(run, keep_last)
    return folder


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """The contents of a checkpoint folder, after all of it was verified; changes nothing on disk.

    Raises ``DamagedCheckpoint`` naming the file, ``OtherFormat`` for a checkpoint of a version with another format.
    """
    folder = Path(os.path.abspath(folder))
    return _read(Found(folder, verify_checkpoint(folder)))


def load_newest(run: str | Path) -> Checkpoint | None:
    """The newest checkpoint of a run that verifies, also of one that trains and removes old ones meanwhile.

    None for a run that never saved one. Raises ``NoUsableCheckpoint`` and ``OtherFormat`` as ``newest_verified`` does.
    """
    run = Path(os.path.abspath(run))
    while True:
        before = list_checkpoints(run)
        try:
            found = newest_verified(run)
            return _read(found) if found else None
        except DamagedState:
            if list_checkpoints(run) == before:
                raise


def resume(run: RunFolder) -> Checkpoint | None:
    """The newest checkpoint of the run that verifies, and the run folder put back to it; None for a new run.

    Newer checkpoints that cannot be used are renamed to ``damaged-...``; replay segments that no checkpoint
    names are removed; metrics.csv is cut to the checkpoint's part. Raises ``NoUsableCheckpoint`` if there are
    checkpoints and none can be used; nothing on disk is changed then.
    """
    found = newest_verified(run.path, run.config_hash)
    if found is None:
        run.segments = ()
        run.metrics.restore(None)
        _remove_unreferenced_segments(run)
        return None
    checkpoint = _read(found)
    run.metrics.restore(found.manifest.metrics)
    run.segments = found.manifest.replay
    for folder, _ in found.skipped:
        durable.rename(folder, _unused(folder.with_name(f"{SET_ASIDE}{folder.name}")))
    _remove_unreferenced_segments(run)
    return checkpoint


def prune(run: RunFolder, keep_last: int = 2, *, damaged_too: bool = False) -> list[Path]:
    """Removes checkpoints older than the newest ``keep_last`` that verify, except the best; returns them.

    The best is the one with the highest score. Replay segments that no checkpoint names go too. With
    ``damaged_too``, those that do not verify and those set aside are removed, if at least one verifies.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last: got {keep_last}, expected at least 1")
    num_verified, doomed, best = 0, [], best_checkpoint(run.path)
    for folder in list_checkpoints(run.path):
        may_count = damaged_too or num_verified < keep_last
        if may_count and isinstance(find_problem(folder), DamagedCheckpoint):
            doomed += [folder] if damaged_too else []
        elif num_verified < keep_last:
            num_verified += 1
        elif folder != best:
            doomed.append(folder)
    if not num_verified:
        return []
    if damaged_too:
        doomed += sorted(run.checkpoints.glob(f"{SET_ASIDE}*"))
    try:
        for folder in doomed:
            durable.remove_folder(folder)
        _remove_unreferenced_segments(run)
    except OSError as error:
        raise ResourceError(
            f"{run.checkpoints}: cannot remove old checkpoints: {error.strerror or error}"
        ) from None
    return doomed


def _next_name(run: RunFolder, step: int) -> Path:
    """The folder of the next save, which sorts after all others; no earlier name is used again."""
    newest = next(iter(list_checkpoints(run.path)), None)
    newest_step, serial = (newest and checkpoint_order(newest)) or (-1, 0)
    if step < newest_step:
        raise ValueError(f"step: got {step}, expected at least {newest_step}, that of the newest checkpoint")
    return run.checkpoints / checkpoint_name(step, serial + 1 if step == newest_step else 0)


def _read(found: Found) -> Checkpoint:
    """The files of a verified checkpoint; each is hashed again, from the very bytes that are then used."""
    folder, files = found.folder, found.manifest.files
    agent, agent_config = load_agent(folder)
    try:
        tensors, structure = (
            durable.read_file(folder / name, files[name]) for name in (TRAINING_TENSORS, TRAINING_STRUCTURE)
        )
        training = tree.decode(tree.read_tensors(tensors, folder / TRAINING_TENSORS), json.loads(structure))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{folder / TRAINING_STRUCTURE}: not what a save writes: {str(error)[:160]}"
        ) from None
    return Checkpoint(folder, found.manifest, agent, agent_config, training, found.skipped)


def _remove_unreferenced_segments(run: RunFolder) -> None:
    """Removes the segments that neither a checkpoint nor the running process names; other files are left alone."""
    names = {entry.name for entry in run.segments}
    for folder in list_checkpoints(run.path):
        try:
            names.update(entry.name for entry in read_manifest(folder).replay)
        except OtherFormat:
            return
        except DamagedCheckpoint:
            continue
    for path in sorted(run.replay.glob("segment-*.bin")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _check_free_space(path: Path, size: int) -> None:
    free, needed = shutil.disk_usage(path).free, FREE_SPACE_FACTOR * size
    if free < needed:
        raise ResourceError(
            f"{path}: got {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f} MB, {FREE_SPACE_FACTOR} times what a "
            "checkpoint takes; make room, the checkpoints saved so far are intact"
        )


def _unused(path: Path) -> Path:
    serial, result = 0, path
    while os.path.lexists(result):
        serial, result = serial + 1, path.with_name(f"{path.name}-{serial}")
    return result
