"""Power cuts: the disk is modelled, cut at every call, and restarted from whatever could then be on it.

The model is stricter than common file systems. Names in a folder are durable once the folder was synced;
otherwise any number of its latest changes is lost, each folder for itself. Contents are durable once the file
was synced; otherwise old contents, new ones, or zeros in their place may be found.
IRIS_RELIABILITY_CUTS (default 1) sets how many outcomes are tried per call.
"""

import operator
import os
import random
import shutil
from itertools import takewhile
from pathlib import Path

from iris_wm.checkpoint.folder import resume
from iris_wm.checkpoint.run_folder import RunFolder

CUTS = int(os.environ.get("IRIS_RELIABILITY_CUTS", "1"))


class Node:
    """A file or folder: its states so far with their times, and when it was synced.

    States of a file are bytes; those of a folder are dicts from name to node.
    """

    def __init__(self, state, time):
        self.history = [(time, state)]
        self.syncs = []

    @property
    def state(self):
        return self.history[-1][1]

    def possible(self, time):
        """The states that a cut at `time` may leave, the durable one first (None if there is none yet)."""
        synced = max((when for when in self.syncs if when <= time), default=-1)
        durable = [state for when, state in self.history if when <= synced]
        return [
            durable[-1] if durable else None,
            *(state for when, state in self.history if synced < when <= time),
        ]


class Disk:
    """Follows what is done through `os` below a folder, which is empty in the beginning."""

    def __init__(self, root, monkeypatch):
        self.root, self.time, self.files = root, 0, {}
        self.tree = Node({}, 0)
        self.real = {}
        for name in ("open", "write", "pwrite", "ftruncate", "fsync", "rename", "unlink", "mkdir", "rmdir"):
            self.real[name] = getattr(os, name)
            monkeypatch.setattr(os, name, getattr(self, name))
        monkeypatch.setattr(shutil, "rmtree", self.rmtree)

    def find(self, path):
        """The node at a path of the folder; None if nothing is there."""
        node = self.tree
        for part in Path(path).relative_to(self.root).parts:
            node = node.state.get(part) if node else None
        return node

    def change(self, node, state):
        self.time += 1
        node.history.append((self.time, state))

    def set_entry(self, path, node):
        """Gives the path's folder another entry; None removes it."""
        path = Path(path)
        entries = dict(self.find(path.parent).state)
        entries.pop(path.name, None)
        self.change(self.find(path.parent), {**entries, path.name: node} if node else entries)

    def open(self, path, flags, mode=0o777):
        descriptor = self.real["open"](path, flags, mode)
        if Path(path).is_relative_to(self.root):
            if self.find(path) is None:
                self.set_entry(path, Node(b"", self.time))
            self.files[descriptor] = self.find(path)
        return descriptor

    def write(self, descriptor, data):
        written = self.real["write"](descriptor, data)
        node = self.files[descriptor]
        self.change(node, node.state + bytes(data[:written]))
        return written

    def pwrite(self, descriptor, data, place):
        node = self.files[descriptor]
        self.change(node, node.state[:place].ljust(place, b"\0") + data + node.state[place + len(data) :])
        return self.real["pwrite"](descriptor, data, place)

    def ftruncate(self, descriptor, length):
        self.real["ftruncate"](descriptor, length)
        self.change(self.files[descriptor], self.files[descriptor].state[:length])

    def fsync(self, descriptor):
        self.real["fsync"](descriptor)
        self.time += 1
        self.files[descriptor].syncs.append(self.time)

    def rename(self, source, target):
        assert Path(source).parent == Path(target).parent
        self.real["rename"](source, target)
        folder = self.find(Path(source).parent)
        entries = dict(folder.state)
        entries[Path(target).name] = entries.pop(Path(source).name)
        self.change(folder, entries)

    def unlink(self, path):
        self.real["unlink"](path)
        self.set_entry(path, None)

    def mkdir(self, path, mode=0o777):
        self.real["mkdir"](path, mode)
        self.set_entry(path, Node({}, self.time))

    def rmdir(self, path):
        self.real["rmdir"](path)
        self.set_entry(path, None)

    def rmtree(self, path, ignore_errors=False):
        if os.path.isdir(path):
            for item in list(Path(path).iterdir()):
                (self.rmtree if item.is_dir() else self.unlink)(item)
            self.rmdir(path)

    def restart(self, node, target, time, chooser):
        """Writes to `target` one outcome of a cut at `time`."""
        durable, *later = node.possible(time)
        state = chooser.choice([durable, *later] if durable is not None else later)
        if isinstance(state, dict):
            target.mkdir()
            for name, child in state.items():
                self.restart(child, target / name, time, chooser)
            return
        if state is not durable and chooser.random() < 0.3:
            kept = sum(takewhile(bool, map(operator.eq, durable or b"", state)))
            state = state[:kept] + bytes(len(state) - kept)
        target.write_bytes(state)


def test_a_power_cut_at_every_call(toy, tmp_path, monkeypatch, record_property):
    root = tmp_path / "disk"
    root.mkdir()
    acknowledged = [(0, 0)]
    identity = {"seed": 0}
    with monkeypatch.context() as patched:
        disk = Disk(root, patched)
        for steps in ([1, 2, 3], [4, 5, 6]):
            with RunFolder(root / "run", identity, "seed: 0\n") as run:
                resume(run)
                for step in steps:
                    toy.save(run, step, score=float(-step))
                    acknowledged.append((disk.time, step))
    chooser = random.Random(0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # recorded above; here it would only cost time
    for time in range(disk.time + 1):
        required = max(step for when, step in acknowledged if when <= time)
        for _ in range(CUTS):
            target = tmp_path / "after"
            disk.restart(disk.tree, target, time, chooser)
            with RunFolder(target / "run", identity, "seed: 0\n") as run:
                checkpoint = resume(run)
                step = checkpoint.manifest.step if checkpoint else 0
                assert step >= required, (time, step, required)
                if checkpoint:
                    toy.check(checkpoint, step)
                    assert checkpoint.skipped == []
                toy.save(run, step + 1)
            shutil.rmtree(target)
    print(f"{(disk.time + 1) * CUTS} power cuts over {disk.time} calls, every one survived")
    record_property("tried", (disk.time + 1) * CUTS)
    assert disk.time > 200


def test_files_are_synced_before_their_names_and_names_before_the_next_step(toy, monkeypatch):
    """The order of a save: segments, then the hidden folder with the manifest last, then its final name."""
    run = toy.new([1])
    calls = []

    def watch(name, describe):
        real = getattr(os, name)

        def watched(*arguments, **options):
            calls.append((name, describe(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, watched)

    def path_of(descriptor, *_):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(toy.path).as_posix()

    watch("write", path_of)
    watch("fsync", path_of)
    watch("rename", lambda source, target: Path(target).relative_to(toy.path).as_posix())
    toy.save(run, 2)
    segment = run.segments[-1].name
    staging = "checkpoints/.tmp-step-000000002"
    files = ["agent.safetensors", "agent.json", "training.safetensors", "training.json", "manifest.json"]
    expected = [("write", f"replay/.tmp-{segment}"), ("fsync", f"replay/.tmp-{segment}")]
    expected += [("rename", f"replay/{segment}"), ("fsync", "replay"), ("fsync", "metrics.csv")]
    for name in files:
        expected += [("write", f"{staging}/{name}"), ("fsync", f"{staging}/{name}")]
    expected += [("fsync", staging), ("rename", "checkpoints/step-000000002"), ("fsync", "checkpoints")]
    assert calls == expected
