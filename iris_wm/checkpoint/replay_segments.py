"""The replay on disk: compressed files of consecutive steps, written once and never changed.

A file holds the steps [start, stop) of every replay array: eight magic bytes, the length of a JSON header,
the header (names, dtypes, shapes, sizes), then one zlib stream per array. Its name carries the range and the
beginning of its sha256, so other contents never take the place of a file that a checkpoint names.
"""

import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import DamagedCheckpoint
from iris_wm.checkpoint.tree import DTYPES

MAGIC = b"IRISWM\x00\x01"
MAX_STEPS = 4096
MAX_RAW_BYTES = 2**30
_MAX_HEADER_BYTES = 65_536
_MAX_RATIO = 1040
"""zlib cannot compress better than 1032 to 1."""
_LEVEL = 1
_NAME = re.compile(r"segment-(\d{9})-(\d{9})-([0-9a-f]{12})\.bin")
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ReplaySource(Protocol):
    """What a checkpoint needs of a replay; ``iris_wm.data.replay.Replay`` is one."""

    @property
    def num_steps(self) -> int:
        """Steps stored so far."""

    def export_steps(self, start: int, stop: int) -> dict[str, Tensor]:
        """Steps start to stop: tensors with stop - start rows each, on the CPU."""


@dataclass(frozen=True)
class SegmentEntry:
    """One segment file as a manifest names it: steps [start, stop), size in bytes, sha256 in hex."""

    start: int
    stop: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the replay folder."""
        return f"segment-{self.start:09d}-{self.stop:09d}-{self.sha256[:12]}.bin"


def segment_to_bytes(arrays: dict[str, Tensor], start: int, stop: int) -> bytes:
    """Steps [start, stop) as the contents of one file; every tensor has stop - start rows."""
    streams, table = [], []
    for name, tensor in arrays.items():
        if tensor.dtype not in _DTYPE_NAMES or len(tensor) != stop - start:
            raise ValueError(
                f"replay array {name}: expected {stop - start} rows, got {tuple(tensor.shape)} {tensor.dtype}"
            )
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        streams.append(zlib.compress(raw.data, _LEVEL))
        shape, dtype = list(tensor.shape), _DTYPE_NAMES[tensor.dtype]
        table.append({"name": name, "dtype": dtype, "shape": shape, "size": len(streams[-1])})
    header = json.dumps({"start": start, "stop": stop, "arrays": table}).encode()
    return b"".join([MAGIC, struct.pack("<I", len(header)), header, *streams])


def segment_from_bytes(data: bytes, entry: SegmentEntry, source: Path) -> dict[str, Tensor]:
    """The arrays of one file; what it declares is checked against its size and a limit before it is used."""
    try:
        if data[:8] != MAGIC:
            raise ValueError(f"it begins {data[:8]!r}")
        (length,) = struct.unpack_from("<I", data, 8)
        position = 12 + length
        if length > _MAX_HEADER_BYTES or position > len(data):
            raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
        header = json.loads(data[12:position])
        table = [_Array.from_json(item, entry.stop - entry.start) for item in header["arrays"]]
        if (header["start"], header["stop"]) != (entry.start, entry.stop):
            raise ValueError(f"it holds steps {header['start']} to {header['stop']}")
        if position + sum(array.size for array in table) != len(data):
            raise ValueError("its parts do not add up to its size")
        if sum(array.raw_bytes for array in table) > MAX_RAW_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_RAW_BYTES} bytes")
        arrays = {}
        for array in table:
            arrays[array.name] = array.unpack(data[position : position + array.size])
            position += array.size
        return arrays
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error, struct.error) as error:
        raise DamagedCheckpoint(f"{source}: not a replay segment: {str(error)[:120]}") from None


@dataclass(frozen=True)
class _Array:
    """One array as a segment's header declares it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    size: int

    @staticmethod
    def from_json(item: Any, rows: int) -> "_Array":
        array = _Array(str(item["name"]), DTYPES[item["dtype"]], tuple(item["shape"]), item["size"])
        numbers = (*array.shape, array.size)
        if not all(type(number) is int and 0 <= number < 2**40 for number in numbers):
            raise ValueError(f"array {array.name} declares the sizes {numbers}")
        if array.shape[:1] != (rows,):
            raise ValueError(f"array {array.name} has the shape {array.shape}, expected {rows} rows")
        if array.raw_bytes > _MAX_RATIO * array.size:
            raise ValueError(f"array {array.name} declares {array.raw_bytes} bytes packed into {array.size}")
        return array

    @property
    def raw_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def unpack(self, stream: bytes) -> Tensor:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(stream, self.raw_bytes + 1)
        if len(raw) != self.raw_bytes or not unpacker.eof or unpacker.unused_data:
            raise ValueError(f"array {self.name} does not unpack to {self.raw_bytes} bytes")
        if not raw:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy())
        typed = flat != 0 if self.dtype == torch.bool else flat.view(self.dtype)
        return typed.reshape(self.shape)


def read_segment(folder: Path, entry: SegmentEntry) -> dict[str, Tensor]:
    """The arrays of a segment in the replay folder, after its size and sha256 were found right."""
    path = folder / entry.name
    return segment_from_bytes(durable.read_file(path, size=entry.size, sha256=entry.sha256), entry, path)


def check_ranges(entries: Sequence[SegmentEntry]) -> None:
    """``ValueError`` unless the entries follow each other from step 0 without gap or overlap."""
    position = 0
    for entry in entries:
        if entry.start != position or entry.stop <= entry.start:
            raise ValueError(f"replay segment {entry.name}: expected steps from {position} on")
        position = entry.stop


def pack_new_steps(
    folder: Path, entries: Sequence[SegmentEntry], replay: ReplaySource
) -> tuple[list[SegmentEntry], dict[str, bytes]]:
    """(entries for every step of ``replay``, contents of the files still to be written by name).

    Files that ``entries`` names and that are missing or damaged are packed again from memory.
    """
    sealed = entries[-1].stop if entries else 0
    if replay.num_steps < sealed:
        raise ValueError(f"replay: expected at least the {sealed} steps saved before, got {replay.num_steps}")
    result: list[SegmentEntry] = []
    files: dict[str, bytes] = {}

    def pack(start: int, stop: int) -> None:
        data = segment_to_bytes(replay.export_steps(start, stop), start, stop)
        result.append(SegmentEntry(start, stop, len(data), hashlib.sha256(data).hexdigest()))
        files[result[-1].name] = data

    for entry in entries:
        try:
            durable.check_file(folder / entry.name, size=entry.size, sha256=entry.sha256)
            result.append(entry)
        except DamagedCheckpoint:
            pack(entry.start, entry.stop)
    if replay.num_steps > sealed:
        first = replay.export_steps(sealed, sealed + 1)
        step_bytes = sum(tensor.numel() * tensor.element_size() for tensor in first.values())
        length = max(1, min(MAX_STEPS, MAX_RAW_BYTES // 4 // max(step_bytes, 1)))
        for start in range(sealed, replay.num_steps, length):
            pack(start, min(start + length, replay.num_steps))
    return result, files


def write_segments(folder: Path, files: dict[str, bytes]) -> None:
    """Writes segment files by name; each appears in one instant and is on the disk when this returns."""
    for name, data in files.items():
        durable.replace_file(folder / name, data)


def remove_unreferenced(folder: Path, referenced: Iterable[SegmentEntry]) -> list[Path]:
    """Removes segment files that no entry names; returns them. Other files are left alone."""
    names = {entry.name for entry in referenced}
    doomed = [
        path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name) and path.name not in names
    ]
    for path in doomed:
        path.unlink(missing_ok=True)
    return doomed
