"""Damage: every flipped bit, cut, missing, foreign and lying file is noticed, and the next good one is taken.

IRIS_RELIABILITY_FLIPS (default 400) sets how many bits of every large file are tried.
"""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

import iris_wm
from iris_wm.checkpoint import durable
from iris_wm.checkpoint.agent_files import load_agent, save_agent
from iris_wm.checkpoint.errors import DamagedCheckpoint, DamagedState, NoUsableCheckpoint, OtherFormat
from iris_wm.checkpoint.folder import load_checkpoint, resume
from iris_wm.checkpoint.verify import find_problem, newest_verified, verify_checkpoint

FLIPS = int(os.environ.get("IRIS_RELIABILITY_FLIPS", "400"))


@pytest.fixture
def saved(toy):
    """A run folder with two checkpoints; (path of the newest, the files it depends on)."""
    run = toy.new([3, 5])
    run.close()
    folder = toy.path / "checkpoints" / "step-000000005"
    manifest = verify_checkpoint(folder)
    files = [*sorted(folder.iterdir()), *(toy.path / "replay" / entry.name for entry in manifest.replay)]
    assert len(files) == 7
    return folder, files


@contextmanager
def flipped(path, original, bit):
    """One bit of the file is flipped meanwhile."""
    place, value = bit // 8, original[bit // 8]
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes([value ^ 1 << bit % 8]), place)
        yield
        os.pwrite(file.fileno(), bytes([value]), place)


def refused(folder):
    """The one line with which the checkpoint is refused, by verification and by loading alike."""
    problem = find_problem(folder)
    assert isinstance(problem, DamagedState)
    with pytest.raises(DamagedState):
        load_checkpoint(folder)
    assert "\n" not in str(problem)
    return str(problem)


def test_every_flipped_bit_is_detected(saved, record_property):
    folder, files = saved
    chooser = random.Random(0)
    tried = 0
    for path in files:
        original = path.read_bytes()
        bits = range(8 * len(original))
        if path.name != "manifest.json":
            bits = chooser.sample(bits, min(FLIPS, len(bits)))
        for bit in bits:
            with flipped(path, original, bit):
                problem = find_problem(folder)
            assert isinstance(problem, DamagedCheckpoint), (path.name, bit)
            assert path.name in str(problem)
            tried += 1
    assert find_problem(folder) is None
    assert tried > 6 * 300 + 8000
    print(f"{tried} single-bit flips, all detected")
    record_property("tried", tried)


def test_every_truncation_and_extension_is_detected(saved, record_property):
    folder, files = saved
    tried = 0
    for path in files:
        original = path.read_bytes()
        for data in [
            *(original[:length] for length in range(len(original))),
            original + b"\0",
            original + b"\n",
        ]:
            path.write_bytes(data)
            assert isinstance(find_problem(folder), DamagedCheckpoint), (path.name, len(data))
            tried += 1
        path.write_bytes(original)
    assert find_problem(folder) is None
    print(f"{tried} truncations and extensions, all detected")
    record_property("tried", tried)


def test_missing_files_are_named(saved):
    folder, files = saved
    for path in files:
        original = path.read_bytes()
        path.unlink()
        assert refused(folder) == f"{path}: missing"
        path.write_bytes(original)


def test_foreign_files_are_named(saved):
    folder, _ = saved
    for name in ("extra.safetensors", ".DS_Store", "weights.pt"):
        path = folder / name
        path.write_bytes(b"")
        assert "a foreign file" in refused(folder)
        assert name in refused(folder)
        path.unlink()
    (folder / "sub").mkdir()
    assert "a foreign file" in refused(folder)


def test_swapped_files_are_detected(saved):
    folder, _ = saved
    other = folder.with_name("step-000000003")
    for name in ("agent.safetensors", "agent.json", "training.json", "training.safetensors"):
        original = (folder / name).read_bytes()
        shutil.copy(other / name, folder / name)
        assert name in refused(folder)
        (folder / name).write_bytes(original)


def test_a_renamed_checkpoint_is_not_taken_for_what_its_name_says(toy):
    toy.new([3, 5]).close()
    folder = toy.path / "checkpoints" / "step-000000005"
    folder.rename(folder.with_name("step-000000099"))
    with toy.open() as run:
        checkpoint = resume(run)
        toy.check(checkpoint, 3)
        assert "renamed; by its manifest it is step-000000005" in checkpoint.skipped[0][1]
        toy.save(run, 4)
    with toy.open() as run:
        toy.check(resume(run), 4)


def test_checkpoints_under_other_names_are_no_reason_to_start_anew(toy):
    toy.new([3]).close()
    folder = toy.path / "checkpoints" / "step-000000003"
    folder.rename(folder.with_name("backup"))
    with toy.open() as run, pytest.raises(NoUsableCheckpoint, match="got backup, expected folders named"):
        resume(run)
    folder.with_name("backup").rename(folder)
    with toy.open() as run:
        toy.check(resume(run), 3)


def test_links_pipes_and_folders_in_place_of_files_are_refused(saved, tmp_path):
    folder, files = saved
    for path in files:
        elsewhere = tmp_path / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert "got a symbolic link" in refused(folder)
        path.unlink()
        os.mkfifo(path)
        assert "expected a regular file" in refused(folder)
        path.unlink()
        path.mkdir()
        assert "expected a regular file" in refused(folder)
        path.rmdir()
        elsewhere.rename(path)
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    assert "expected a checkpoint folder" in refused(folder)
    folder.unlink()
    folder.write_text("a file")
    assert "expected a checkpoint folder" in refused(folder)


@pytest.mark.parametrize("damaged", [1, 2])
def test_resume_takes_the_newest_that_verifies(toy, damaged, capsys):
    run = toy.new()
    for step in (1, 2, 3):
        toy.save(run, step, keep_last=3)
    run.close()
    newest_first = [toy.path / "checkpoints" / f"step-00000000{step}" for step in (3, 2, 1)]
    for folder in newest_first[:damaged]:
        with open(folder / "training.safetensors", "r+b") as file:
            file.seek(100)
            file.write(b"\xff")
    with toy.open() as run:
        checkpoint = resume(run)
        toy.check(checkpoint, 3 - damaged)
        assert [folder for folder, _ in checkpoint.skipped] == newest_first[:damaged]
        assert all("training.safetensors: got sha256" in reason for _, reason in checkpoint.skipped)
        toy.save(run, 3)
    names = {path.name for path in (toy.path / "checkpoints").iterdir()}
    assert {f"damaged-step-00000000{4 - number}" for number in range(1, damaged + 1)} < names
    with toy.open() as run:
        checkpoint = resume(run)
        toy.check(checkpoint, 3)
        assert checkpoint.skipped == []


def test_no_usable_checkpoint_never_starts_from_zero(toy):
    run = toy.new([1, 2])
    run.close()
    for step in (1, 2):
        (toy.path / "checkpoints" / f"step-00000000{step}" / "manifest.json").write_bytes(b"")
    before = sorted(str(path) for path in toy.path.rglob("*"))
    with (
        toy.open() as run,
        pytest.raises(NoUsableCheckpoint, match="none of 2 checkpoints can be used") as caught,
    ):
        resume(run)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert sorted(str(path) for path in toy.path.rglob("*")) == before


def test_a_run_that_never_saved_is_told_apart(toy, tmp_path):
    run = toy.new()
    run.close()
    assert newest_verified(toy.path) is None
    assert newest_verified(tmp_path / "nothing") is None


def test_a_checkpoint_of_another_run_is_skipped(toy, tmp_path):
    toy.new([1, 2]).close()
    path = toy.path
    toy.path.rename(tmp_path / "other")
    with toy.open(seed=1) as run:
        assert resume(run) is None
        shutil.copytree(tmp_path / "other" / "checkpoints", path / "checkpoints", dirs_exist_ok=True)
        shutil.copytree(tmp_path / "other" / "replay", path / "replay", dirs_exist_ok=True)
        with pytest.raises(NoUsableCheckpoint, match="belongs to a run with another config"):
            resume(run)


def test_a_damaged_segment_shared_by_all_is_repaired_by_the_running_process(toy):
    run = toy.new([1, 2])
    for path in (toy.path / "replay").iterdir():
        path.write_bytes(b"rot")
    toy.save(run, 3)
    run.close()
    toy.check(load_checkpoint(toy.path / "checkpoints" / "step-000000003"), 3)
    toy.check(load_checkpoint(toy.path / "checkpoints" / "step-000000002"), 2)


def rewrite(path, change):
    """Changes a sealed document and gives it an honest checksum again."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(durable.seal(document.pop("format"), document.pop("format_version"), document))


def rewrite_manifest(folder, change):
    rewrite(folder / "manifest.json", change)


@pytest.mark.parametrize(
    ("version", "advice"), [(1, "open it with the version that wrote it"), (99, "upgrade")]
)
def test_another_format_says_so_and_nothing_older_is_taken(saved, toy, version, advice):
    folder, _ = saved
    rewrite_manifest(folder, lambda document: document.update(format_version=version, package_version="9.9"))
    message = (
        f"written by iris_wm 9.9 in format {version}, this is iris_wm {iris_wm.__version__} .*; {advice}"
    )
    with pytest.raises(OtherFormat, match=message):
        verify_checkpoint(folder)
    with toy.open() as run, pytest.raises(OtherFormat, match=message):
        resume(run)
    assert folder.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format="other"),
        lambda document: document.update(format_version="banana"),
        lambda document: document.update(format_version=True),
        lambda document: document.update(format_version=0),
        lambda document: document.update(step=-1),
        lambda document: document.update(step=1.5),
        lambda document: document.update(env_steps=None),
        lambda document: document.update(score="high"),
        lambda document: document.update(score=float("nan")),
        lambda document: document.update(created=3),
        lambda document: document.pop("epoch"),
        lambda document: document.update(files=[]),
        lambda document: document.update(files=None),
        lambda document: document["files"].update({"../../escape.json": {"size": 1, "sha256": "0" * 64}}),
        lambda document: document["files"].update({"/etc/passwd": {"size": 1, "sha256": "0" * 64}}),
        lambda document: document["files"].update({"manifest.json": {"size": 1, "sha256": "0" * 64}}),
        lambda document: document["files"].update({"agent.json": {"size": 1}}),
        lambda document: document["files"]["agent.json"].update(sha256="0"),
        lambda document: document["files"]["agent.json"].update(size=-1),
        lambda document: document["files"]["agent.json"].update(size=8 * 10**11),
        lambda document: document.update(replay=3),
        lambda document: document["replay"].append(document["replay"][0]),
        lambda document: document["replay"].pop(0),
        lambda document: document["replay"].reverse(),
        lambda document: document["replay"][0].update(start="0"),
        lambda document: document["replay"][0].update(sha256="../x"),
        lambda document: document.update(metrics=None),
        lambda document: document["files"].pop("training.json"),
    ],
)
def test_manifests_that_lie(saved, change):
    folder, _ = saved
    rewrite_manifest(folder, change)
    assert len(refused(folder)) < 400


def test_sizes_are_compared_before_anything_is_read(saved):
    """A sparse file of 800 GB costs nothing to make and must cost nothing to refuse."""
    folder, _ = saved
    path = folder / "agent.safetensors"
    os.truncate(path, 800 * 10**9)
    assert "got 800000000000" in refused(folder)
    rewrite_manifest(folder, lambda document: document["files"]["agent.safetensors"].update(size=800 * 10**9))
    assert "over the limit" in refused(folder)


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def safetensors_file(header, body=b"\0" * 4, length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + body


MALICIOUS = {
    "empty": b"",
    "zeros": b"\0" * 64,
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "pickle": b"\x80\x04cposix\nsystem\nX\x0a\0\0\0touch pwned\x85R." + b"\0" * 20,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "header of 2**63 bytes": safetensors_file({"w": TENSOR}, length=2**63),
    "header of 90 MB": safetensors_file({"w": TENSOR}, length=90_000_000),
    "nested header": safetensors_file(b"[" * 100_000),
    "800 GB tensor": safetensors_file(
        {"w": {**TENSOR, "shape": [2 * 10**11], "data_offsets": [0, 8 * 10**11]}}
    ),
    "shape larger than data": safetensors_file({"w": {**TENSOR, "shape": [2 * 10**11]}}),
    "overflowing shape": safetensors_file({"w": {**TENSOR, "shape": [2**63, 2**63]}}),
    "negative offsets": safetensors_file({"w": {**TENSOR, "data_offsets": [-4, 0]}}),
    "overlapping tensors": safetensors_file({"v": TENSOR, "w": TENSOR}),
    "hole": safetensors_file({"w": {**TENSOR, "data_offsets": [4, 8]}}, b"\0" * 8),
    "bytes left over": safetensors_file({"w": TENSOR}, b"\0" * 9),
    "unknown dtype": safetensors_file({"w": {**TENSOR, "dtype": "OBJECT"}}),
    "no header": safetensors_file(b"3"),
}


@pytest.mark.parametrize("data", MALICIOUS.values(), ids=MALICIOUS)
@pytest.mark.parametrize("name", ["agent.safetensors", "training.safetensors"])
def test_malicious_tensors_with_honest_checksums(saved, name, data):
    """Whoever writes a file can also write its checksum; the contents must be harmless nevertheless."""
    folder, _ = saved
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / name).write_bytes(data)
    if name == "agent.safetensors":
        rewrite(folder / "agent.json", lambda document: document.update(weights=entry))
    config = (folder / "agent.json").read_bytes()

    def change(document):
        document["files"][name] = entry
        document["files"]["agent.json"] = {"size": len(config), "sha256": hashlib.sha256(config).hexdigest()}

    rewrite_manifest(folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verify_checkpoint(folder)
    with pytest.raises(DamagedCheckpoint, match=rf"{name}: not a safetensors file") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000 + b"]" * 200_000,
        b'{"tuple": [' * 3000 + b"]}" * 3000,
        b"\x80\x04}.",
        b'{"dict": [["a", {"tensor": "nobody"}]]}',
        b'{"py/reduce": ["os.system", "true"]}',
        b'{"dict": [[["unhashable"], 1]]}',
        b'{"dict": 3}',
        b"{}",
        b"",
    ],
)
def test_malicious_structures_with_honest_checksums(saved, data):
    folder, _ = saved
    (folder / "training.json").write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite_manifest(folder, lambda document: document["files"].update({"training.json": entry}))
    verify_checkpoint(folder)
    with pytest.raises(DamagedCheckpoint, match=r"training\.json: "):
        load_checkpoint(folder)


def test_an_agent_alone_is_verified_too(tmp_path):
    weights = {"a.weight": torch.randn(3, 4), "a.count": torch.tensor(3)}
    config = {"codebook_size": 512, "limit": float("inf")}
    folder = tmp_path / "agent"
    save_agent(folder, weights, config)
    save_agent(folder, weights, config)
    again, found = load_agent(folder)
    assert found == config
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert set(safetensors.torch.load_file(folder / "agent.safetensors")) == set(weights)
    assert json.loads((folder / "agent.json").read_text())["config"]["codebook_size"] == 512
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for bit in range(8 * len(original)):
            with flipped(path, original, bit), pytest.raises(DamagedCheckpoint, match=path.name):
                load_agent(folder)
        path.unlink()
        with pytest.raises(DamagedCheckpoint, match=f"{path.name}: missing"):
            load_agent(folder)
        path.write_bytes(original)
    with pytest.raises(ValueError, match=r"a: got a builtins\.dict, expected a plain tensor"):
        save_agent(folder, {"a": {"b": torch.ones(1)}}, {})


def test_no_reader_can_run_code():
    """None of the modules names anything that runs code found in a file or unpacks an archive."""
    modules = sorted(Path(iris_wm.__file__).with_name("checkpoint").glob("*.py"))
    assert len(modules) > 8
    dangerous = r"pickle|(?<!safetensors\.)torch\.load|extractall|\beval\(|\bexec\(|marshal|shelve|__import__"
    assert [path.name for path in modules if re.search(dangerous, path.read_text())] == []
