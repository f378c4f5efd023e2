"""Replay segments: exact round trips, and lying files that neither run out of memory nor slip through."""

import hashlib
import json
import struct
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_wm.checkpoint.errors import DamagedCheckpoint
from iris_wm.checkpoint.replay_segments import (
    MAGIC,
    MAX_STEPS,
    SegmentEntry,
    check_ranges,
    pack_new_steps,
    read_segment,
    remove_unreferenced,
    segment_from_bytes,
    segment_to_bytes,
    write_segments,
)
from iris_wm.checkpoint.tree import DTYPES
from iris_wm.data.replay import Replay
from iris_wm.spaces import ActionSpace


def entry_of(data, start, stop):
    return SegmentEntry(start, stop, len(data), hashlib.sha256(data).hexdigest())


def read(data, start, stop, folder="replay"):
    return segment_from_bytes(data, entry_of(data, start, stop), folder)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)),
    ),
)
def test_arrays_of_any_shape_and_dtype(rows, start, kinds):
    arrays = {}
    for name, (dtype, shape) in kinds.items():
        full = (rows, *shape)
        arrays[name] = torch.randint(0, 2, full).to(DTYPES[dtype])
    data = segment_to_bytes(arrays, start, start + rows)
    again = read(data, start, start + rows)
    assert list(again) == list(arrays)
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
    with pytest.raises(ValueError, match="expected at least the 20 steps saved before, got 19"):
        pack_new_steps(tmp_path, entries, toy.replay(19))


def test_rows_that_do_not_fit_the_range_are_refused():
    with pytest.raises(ValueError, match="actions: expected 3 rows"):
        segment_to_bytes({"actions": torch.zeros(4)}, 0, 3)
    with pytest.raises(ValueError, match="complex64"):
        segment_to_bytes({"actions": torch.zeros(3, dtype=torch.complex64)}, 0, 3)


@pytest.mark.parametrize("ranges", [[(1, 3)], [(0, 3), (4, 5)], [(0, 3), (2, 5)], [(0, 3), (0, 3)], [(0, 0)]])
def test_ranges_must_follow_each_other(ranges):
    with pytest.raises(ValueError, match="expected steps from"):
        check_ranges([SegmentEntry(start, stop, 1, "0" * 64) for start, stop in ranges])


def test_only_unreferenced_segments_are_removed(tmp_path, toy):
    entries, files = pack_new_steps(tmp_path, [], toy.replay(20))
    write_segments(tmp_path, files)
    orphan = tmp_path / "segment-000000020-000000030-0123456789ab.bin"
    other = tmp_path / "notes.txt"
    for path in (orphan, other):
        path.write_bytes(b"x")
    assert remove_unreferenced(tmp_path, entries) == [orphan]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([entries[0].name, "notes.txt"])


def forge(header, body=b"", length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(head) if length is None else length) + head + body


def array(**changes):
    return {"name": "a", "dtype": "uint8", "shape": [3], "size": len(zlib.compress(b"abc")), **changes}


BODY = zlib.compress(b"abc")
BOMB = zlib.compress(b"\0" * 50_000_000)
LIES = {
    "empty": b"",
    "magic only": MAGIC,
    "another magic": b"PK\x03\x04" + b"\0" * 50,
    "pickle": b"\x80\x04cos\nsystem\n(S'touch marker'\ntR." + b"\0" * 20,
    "huge header": MAGIC + struct.pack("<I", 2**32 - 1) + b"{}",
    "header past the end": forge(b"{}", length=500),
    "not json": forge(b"\xff\xfe"),
    "nested header": forge(b"[" * 60_000),
    "a list": forge([]),
    "a number": forge(b"3"),
    "no arrays": forge({"start": 0, "stop": 3}),
    "arrays are text": forge({"start": 0, "stop": 3, "arrays": "abc"}),
    "array is a list": forge({"start": 0, "stop": 3, "arrays": [[]]}),
    "other steps": forge({"start": 3, "stop": 6, "arrays": [array()]}, BODY),
    "other rows": forge({"start": 0, "stop": 3, "arrays": [array(shape=[4])]}, BODY),
    "no rows": forge({"start": 0, "stop": 3, "arrays": [array(shape=[])]}, BODY),
    "too long shape": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, 2])]}, BODY),
    "too short shape": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, 0])]}, BODY),
    "negative shape": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, -1])]}, BODY),
    "float shape": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, 1.0])]}, BODY),
    "bool shape": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, True])]}, BODY),
    "800 GB": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, 800 * 10**9])]}, BODY),
    "more than the limit": forge(
        {"start": 0, "stop": 3, "arrays": [array(shape=[3, 2**30], size=2**23)]}, b"\0" * 2**23
    ),
    "overflow": forge({"start": 0, "stop": 3, "arrays": [array(shape=[3, 2**39, 2**39])]}, BODY),
    "negative size": forge({"start": 0, "stop": 3, "arrays": [array(size=-1)]}, BODY),
    "size past the end": forge({"start": 0, "stop": 3, "arrays": [array(size=500)]}, BODY),
    "bytes left over": forge({"start": 0, "stop": 3, "arrays": [array()]}, BODY + b"x"),
    "unknown dtype": forge({"start": 0, "stop": 3, "arrays": [array(dtype="object")]}, BODY),
    "dtype is a list": forge({"start": 0, "stop": 3, "arrays": [array(dtype=["uint8"])]}, BODY),
    "not zlib": forge({"start": 0, "stop": 3, "arrays": [array(size=5)]}, b"hello"),
    "cut zlib": forge({"start": 0, "stop": 3, "arrays": [array(size=len(BODY) - 2)]}, BODY[:-2]),
    "two streams": forge({"start": 0, "stop": 3, "arrays": [array(size=2 * len(BODY))]}, BODY + BODY),
    "zip bomb": forge({"start": 0, "stop": 3, "arrays": [array(size=len(BOMB))]}, BOMB),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lying_segments(data):
    tracemalloc.start()
    try:
        with pytest.raises(DamagedCheckpoint, match=r"^replay: not a replay segment: ") as caught:
            read(data, 0, 3)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_honest_twin_of_the_lies_is_read():
    data = forge({"start": 0, "stop": 3, "arrays": [array()]}, BODY)
    assert read(data, 0, 3)["a"].tolist() == [97, 98, 99]


def test_bools_other_than_zero_and_one_become_true():
    body = zlib.compress(b"\0\1\7")
    data = forge({"start": 0, "stop": 3, "arrays": [array(dtype="bool", size=len(body))]}, body)
    assert read(data, 0, 3)["a"].tolist() == [False, True, True]
