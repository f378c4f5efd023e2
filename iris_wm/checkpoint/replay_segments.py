"""The replay on disk: compressed files of consecutive steps, written once and never changed.

A file holds the steps [start, stop) of every replay array: a safetensors file, compressed with zlib. Its name carries
the range and the beginning of its sha256, so other contents never take the place of a file that a checkpoint names.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import DamagedCheckpoint
from iris_wm.checkpoint.tree import plain, read_tensors
from iris_wm.checkpoint.verify import SegmentEntry
from iris_wm.data.replay import Replay

MAX_STEPS = 4096
MAX_RAW_BYTES = 2**27
_LEVEL = 1


def segment_to_bytes(arrays: dict[str, Tensor], start: int, stop: int) -> bytes:
    """Steps [start, stop) as the contents of one file; every tensor has stop - start rows."""
    tensors = {name: plain(tensor, f"replay array {name}") for name, tensor in arrays.items()}
    for name, tensor in tensors.items():
        if tensor.shape[:1] != (stop - start,):
            raise ValueError(f"replay array {name}: got {tuple(tensor.shape)}, expected {stop - start} rows")
    return zlib.compress(safetensors.torch.save(tensors), _LEVEL)


def read_segment(folder: Path, entry: SegmentEntry) -> dict[str, Tensor]:
    """The arrays of a segment in the replay folder, after its size and sha256 were found right.

    What it unpacks to is limited, and checked before it is used: ``DamagedCheckpoint`` where it is no segment.
    """
    path = folder / entry.name
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(durable.read_file(path, entry), MAX_RAW_BYTES + 1)
    except zlib.error as error:
        raise DamagedCheckpoint(f"{path}: not a replay segment: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise DamagedCheckpoint(
            f"{path}: not a replay segment: not one stream of at most {MAX_RAW_BYTES} bytes"
        )
    arrays, rows = read_tensors(raw, path), entry.stop - entry.start
    for name, array in arrays.items():
        if array.shape[:1] != (rows,):
            raise DamagedCheckpoint(
                f"{path}: not a replay segment: {name[:40]} of {tuple(array.shape)} for {rows} steps"
            )
        if array.dtype == torch.bool:  # a byte other than 0 and 1 is no bool yet
            arrays[name] = array.view(torch.uint8) != 0
    return arrays


def pack_new_steps(
    folder: Path, entries: Sequence[SegmentEntry], replay: Replay
) -> tuple[list[SegmentEntry], dict[str, bytes]]:
    """(entries for every step of ``replay``, contents of the files still to be written by name).

    Files that ``entries`` names and that are missing or damaged are packed again from memory.
    """
    sealed = entries[-1].stop if entries else 0
    if replay.num_steps < sealed:
        raise ValueError(f"replay: got {replay.num_steps} steps, expected at least the {sealed} saved before")
    result: list[SegmentEntry] = []
    files: dict[str, bytes] = {}

    def pack(start: int, stop: int) -> None:
        data = segment_to_bytes(replay.export_steps(start, stop), start, stop)
        result.append(SegmentEntry.of_steps(data, start, stop))
        files[result[-1].name] = data

    for entry in entries:
        try:
            durable.check_file(folder / entry.name, entry)
            result.append(entry)
        except DamagedCheckpoint:
            pack(entry.start, entry.stop)
    if replay.num_steps > sealed:
        first = replay.export_steps(sealed, sealed + 1)
        step_bytes = max(1, sum(tensor.nbytes for tensor in first.values()))
        length = max(1, min(MAX_STEPS, MAX_RAW_BYTES // 2 // step_bytes))
        for start in range(sealed, replay.num_steps, length):
            pack(start, min(start + length, replay.num_steps))
    return result, files


def write_segments(folder: Path, files: dict[str, bytes]) -> None:
    """Writes segment files by name; each appears in one instant and is on the disk when this returns."""
    for name, data in files.items():
        durable.replace_file(folder / name, data)
