"""Replay segments: exact round trips, and lying files that neither run out of memory nor slip through."""

import json
import struct
import tracemalloc
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_wm.checkpoint.errors import DamagedCheckpoint
from iris_wm.checkpoint.replay_segments import (
    MAX_RAW_BYTES,
    MAX_STEPS,
    pack_new_steps,
    read_segment,
    segment_to_bytes,
    write_segments,
)
from iris_wm.checkpoint.verify import SegmentEntry, check_ranges
from iris_wm.data.replay import Replay
from iris_wm.spaces import ActionSpace

DTYPES = [torch.bool, torch.uint8, torch.uint16, torch.int8, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def written(folder, data, start, stop):
    """The entry of a file with these contents."""
    entry = SegmentEntry.of_steps(data, start, stop)
    (folder / entry.name).write_bytes(data)
    return entry


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
    ),
)
def test_arrays_of_any_shape_and_dtype(tmp_path_factory, rows, start, kinds):
    folder = tmp_path_factory.mktemp("replay")
    arrays = {name: torch.randint(0, 2, (rows, *shape)).to(dtype) for name, (dtype, shape) in kinds.items()}
    data = segment_to_bytes(arrays, start, start + rows)
    again = read_segment(folder, written(folder, data, start, start + rows))
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].view(-1).view(torch.uint8).tolist() == array.view(-1).view(torch.uint8).tolist()


def test_a_real_replay_comes_back(tmp_path):
    replay = Replay(10_000, ActionSpace.discrete(700), (3, 8, 8))
    first, second = replay.start_episode(), replay.start_episode()
    entries = []
    for number in range(8):
        episode = (first, second)[number % 2]
        frames = torch.randint(0, 256, (700, 3, 8, 8), dtype=torch.uint8)
        none = torch.zeros(700, dtype=torch.bool)
        replay.append(episode, frames, torch.arange(700)[:, None], torch.randn(700), none, none)
        if number in (0, 1, 7):
            entries, files = pack_new_steps(tmp_path, entries, replay)
            write_segments(tmp_path, files)
    ranges = [(entry.start, entry.stop) for entry in entries]
    assert ranges == [(0, 700), (700, 1400), (1400, 1400 + MAX_STEPS), (1400 + MAX_STEPS, 5600)]
    again = Replay(10_000, replay.actions, (3, 8, 8))
    for entry in entries:
        again.extend_from_steps(read_segment(tmp_path, entry))
    for name, column in replay.export_steps(0, 5600).items():
        assert torch.equal(again.export_steps(0, 5600)[name], column)
    assert pack_new_steps(tmp_path, entries, replay) == (entries, {})


def test_missing_and_damaged_files_are_written_again(tmp_path, toy):
    replay = toy.replay(50)
    entries, files = pack_new_steps(tmp_path, [], toy.replay(20))
    write_segments(tmp_path, files)
    more, files = pack_new_steps(tmp_path, entries, replay)
    write_segments(tmp_path, files)
    (tmp_path / more[0].name).unlink()
    (tmp_path / more[1].name).write_bytes(b"\0" * more[1].size)
    again, files = pack_new_steps(tmp_path, more, replay)
    assert again == more
    assert set(files) == {entry.name for entry in more}
    write_segments(tmp_path, files)
    assert pack_new_steps(tmp_path, more, replay) == (more, {})


def test_a_replay_that_lost_steps_is_refused(tmp_path, toy):
    entries, files = pack_new_steps(tmp_path, [], toy.replay(20))
    write_segments(tmp_path, files)
    with pytest.raises(ValueError, match="got 19 steps, expected at least the 20 saved before"):
        pack_new_steps(tmp_path, entries, toy.replay(19))


def test_rows_that_do_not_fit_the_range_are_refused():
    with pytest.raises(ValueError, match=r"actions: got \(4,\), expected 3 rows"):
        segment_to_bytes({"actions": torch.zeros(4)}, 0, 3)
    with pytest.raises(ValueError, match="complex64"):
        segment_to_bytes({"actions": torch.zeros(3, dtype=torch.complex64)}, 0, 3)


@pytest.mark.parametrize("ranges", [[(1, 3)], [(0, 3), (4, 5)], [(0, 3), (2, 5)], [(0, 3), (0, 3)], [(0, 0)]])
def test_ranges_must_follow_each_other(ranges):
    with pytest.raises(ValueError, match=r"expected some from \d on"):
        check_ranges([SegmentEntry(1, "0" * 64, start, stop) for start, stop in ranges])


def packed(arrays=None, header=None, body=b"abc"):
    """A safetensors file, of arrays or forged, compressed."""
    if arrays is not None:
        return zlib.compress(safetensors.torch.save(arrays))
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return zlib.compress(struct.pack("<Q", len(head)) + head + body)


def array(**changes):
    return {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3], **changes}}


GOOD = packed({"a": torch.tensor([97, 98, 99], dtype=torch.uint8)})
LIES = {
    "empty": b"",
    "zip": b"PK\x03\x04" + b"\0" * 50,
    "pickle": b"\x80\x04cos\nsystem\n(S'touch marker'\ntR." + b"\0" * 20,
    "a pickle inside": zlib.compress(b"\x80\x04cos\nsystem\n(S'touch marker'\ntR." + b"\0" * 20),
    "nothing inside": zlib.compress(b""),
    "huge header": zlib.compress(struct.pack("<Q", 2**63) + b"{}"),
    "not json": packed(header=b"\xff\xfe"),
    "nested header": packed(header=b"[" * 60_000),
    "a list": packed(header=[]),
    "other rows": packed({"a": torch.zeros(4)}),
    "no rows": packed({"a": torch.tensor(1.0)}),
    "too long shape": packed(header=array(shape=[3, 2])),
    "negative shape": packed(header=array(shape=[3, -1])),
    "float shape": packed(header=array(shape=[3, 1.0])),
    "800 GB": packed(header=array(shape=[3, 800 * 10**9], data_offsets=[0, 2400 * 10**9])),
    "overflow": packed(header=array(shape=[3, 2**39, 2**39])),
    "negative offset": packed(header=array(data_offsets=[-3, 0])),
    "offset past the end": packed(header=array(shape=[3, 2], data_offsets=[0, 6])),
    "bytes left over": packed(header=array(), body=b"abcd"),
    "bytes after it": GOOD + b"x",
    "unknown dtype": packed(header=array(dtype="OBJECT")),
    "cut": GOOD[:-2],
    "two streams": GOOD + GOOD,
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lying_segments(tmp_path, data):
    entry = written(tmp_path, data, 0, 3)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedCheckpoint, match=r"not a (replay segment|safetensors file)") as caught:
            read_segment(tmp_path, entry)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{tmp_path / entry.name}: ")
    assert "\n" not in str(caught.value)


def test_a_zip_bomb_stops_at_the_limit(tmp_path):
    packer = zlib.compressobj()
    data = (
        b"".join(packer.compress(b"\0" * 2**24) for _ in range(MAX_RAW_BYTES // 2**24 + 1)) + packer.flush()
    )
    assert len(data) < 2e6
    entry = written(tmp_path, data, 0, 3)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedCheckpoint, match=f"not one stream of at most {MAX_RAW_BYTES} bytes"):
            read_segment(tmp_path, entry)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_RAW_BYTES
    finally:
        tracemalloc.stop()


def test_the_honest_twin_of_the_lies_is_read(tmp_path):
    for data in (GOOD, packed(header=array())):
        assert read_segment(tmp_path, written(tmp_path, data, 0, 3))["a"].tolist() == [97, 98, 99]


def test_bools_other_than_zero_and_one_become_true(tmp_path):
    data = packed(header=array(dtype="BOOL"), body=b"\0\1\7")
    assert read_segment(tmp_path, written(tmp_path, data, 0, 3))["a"].tolist() == [False, True, True]
