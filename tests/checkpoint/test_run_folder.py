"""The run folder: whose it is, who may write to it, and the paths it refuses."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import DamagedState, ForeignRun, ResourceError, RunInUse, exit_code
from iris_wm.checkpoint.folder import resume
from iris_wm.checkpoint.run_folder import RunFolder

HOLDER = """
import os, sys, time
from iris_wm.checkpoint.run_folder import RunFolder
run = RunFolder(sys.argv[1], {"seed": 0})
if len(sys.argv) > 2 and os.fork() > 0:
    time.sleep(60)  # the child tells that it has begun
print("held", flush=True)
time.sleep(60)
"""


def hold(path, *arguments):
    """A process that holds the run folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_what_is_in_a_new_folder(tmp_path):
    path = tmp_path / "runs" / "a b ü"
    with RunFolder(path, {"env": {"id": "Pong"}, "seed": 3}, "seed: 3\n") as run:
        assert sorted(os.listdir(path)) == ["checkpoints", "config.yaml", "identity.json", "lock", "replay"]
        assert (path / "config.yaml").read_text() == "seed: 3\n"
        assert len(run.config_hash) == 64
    with RunFolder(path, {"seed": 3, "env": {"id": "Pong"}}, "seed: 3\nepochs: 9\n") as again:
        assert again.config_hash == run.config_hash
        assert (path / "config.yaml").read_text() == "seed: 3\nepochs: 9\n"
    with RunFolder(path) as again:
        assert again.config_hash == run.config_hash
        assert (path / "config.yaml").read_text() == "seed: 3\nepochs: 9\n"


def test_the_folder_of_another_run_is_refused(tmp_path):
    identity = {
        "env": {"id": "Pong", "sizes": (64, 64)},
        "seed": 0,
        "rate": 1.0,
        **{f"k{i}": i for i in range(9)},
    }
    RunFolder(tmp_path / "run", identity).close()
    RunFolder(tmp_path / "run", identity).close()
    with pytest.raises(ForeignRun) as caught:
        RunFolder(tmp_path / "run", {**identity, "seed": 1})
    text = f"run folder {tmp_path / 'run'} belongs to another run: seed: it has 0, you asked for 1"
    assert str(caught.value) == text
    assert exit_code(caught.value) == 3
    other = {
        "env": {"id": "Breakout", "sizes": [64, 64]},
        "rate": 1.0,
        "new": None,
        **{f"k{i}": -1 for i in range(9)},
    }
    with pytest.raises(ForeignRun, match=r'env\.id: it has "Pong", you asked for "Breakout".*; and 7 more$'):
        RunFolder(tmp_path / "run", other)


def test_a_key_that_is_newer_than_the_run_has_its_default(tmp_path):
    old = {"seed": 0, "losses": {"gamma": 0.9}}
    new = {"seed": 0, "losses": {"gamma": 0.9, "scale": {"kind": "none"}}}
    defaults = {"seed": 7, "losses": {"gamma": 0.5, "scale": {"kind": "none"}}}
    with RunFolder(tmp_path / "run", old) as run:
        first = run.config_hash
    with RunFolder(tmp_path / "run", new, defaults=defaults) as run:
        assert run.config_hash == first  # or none of its checkpoints would be found again
    for changed in ({**new, "seed": 7}, {"seed": 0, "losses": {**new["losses"], "scale": {"kind": "batch"}}}):
        with pytest.raises(ForeignRun, match=r"seed: it has 0, you|scale\.kind: it has \"none\", you"):
            RunFolder(tmp_path / "run", changed, defaults=defaults)
    with pytest.raises(ForeignRun, match=r'losses\.scale\.kind: it has nothing, you asked for "none"'):
        RunFolder(tmp_path / "run", new)
    with pytest.raises(ForeignRun, match=r"losses\.gamma: it has 0\.9, you asked for nothing"):
        RunFolder(tmp_path / "run", {"seed": 0}, defaults=defaults)


def test_folders_that_are_no_run_are_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ForeignRun, match=r"got one with notes\.txt .* expected a new or empty folder"):
        RunFolder(tmp_path, {"seed": 0})
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(ValueError, match=r"expected a run folder, there is no identity\.json"):
        RunFolder(tmp_path)
    with pytest.raises(ValueError, match="expected a run folder"):
        RunFolder(tmp_path / "missing")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_folder_whose_creation_was_cut_short_is_taken(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "lock").write_text("")
    (path / ".tmp-identity.json").write_text("{")
    RunFolder(path, {"seed": 0}).close()
    assert not (path / ".tmp-identity.json").exists()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("", ValueError, "printable characters"),
        ("  ", ValueError, "printable characters"),
        ("a\nb", ValueError, "printable characters"),
        ("a\0b", ValueError, "printable characters"),
        ("s3://bucket/run", ValueError, "got the URL"),
        ("{tmp}/file", ValueError, "got a file, expected a folder"),
        ("{tmp}/file/run", ResourceError, "Not a directory"),
        ("/proc/run", ResourceError, "cannot be written"),
        ("{tmp}/" + "x" * 300, ResourceError, "File name too long"),
    ],
)
def test_paths_that_cannot_be_run_folders(tmp_path, path, error, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message) as caught:
        RunFolder(path.replace("{tmp}", str(tmp_path)), {"seed": 0})
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    RunFolder(tmp_path / "run", {"seed": 0}).close()

    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_file", refuse)
        with pytest.raises(ResourceError, match="cannot be written: Permission denied"):
            RunFolder(tmp_path / "run", {"seed": 0})
    RunFolder(tmp_path / "run", {"seed": 0}).close()


def test_a_damaged_identity_is_noticed(tmp_path):
    RunFolder(tmp_path / "run", {"seed": 0}).close()
    path = tmp_path / "run" / "identity.json"
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(DamagedState, match=r"identity\.json: .* expected a document with its right sha256"):
        RunFolder(tmp_path / "run", {"seed": 0})


def test_a_second_writer_is_refused_at_once(tmp_path):
    process = hold(tmp_path / "run")
    try:
        started = time.perf_counter()
        with pytest.raises(RunInUse) as caught:
            RunFolder(tmp_path / "run", {"seed": 0})
        assert time.perf_counter() - started < 1
        assert f"in use by process {process.pid} on host {os.uname().nodename} since 2" in str(caught.value)
        assert exit_code(caught.value) == 3
    finally:
        process.kill()
        process.wait()


def test_a_lock_file_that_somebody_removes(toy):
    """Whoever takes a lock for stale and removes it: two may run, but only one of them can still save."""
    first = toy.new([1])
    (toy.path / "lock").unlink()
    toy.save(first, 2)
    with pytest.raises(RunInUse):
        toy.open()
    (toy.path / "lock").unlink()
    second = toy.open()
    resume(second)
    with pytest.raises(RunInUse, match="in use by process"):
        toy.save(first, 3)
    toy.save(second, 3)
    second.close()
    first.close()
    with toy.open() as run:
        toy.check(resume(run), 3)


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    with RunFolder(tmp_path / "run", {"seed": 0}), pytest.raises(RunInUse, match=f"process {os.getpid()}"):
        RunFolder(tmp_path / "run", {"seed": 0})
    RunFolder(tmp_path / "run", {"seed": 0}).close()


@pytest.mark.parametrize("arguments", [(), ("with a forked child",)], ids=["alone", "with a child"])
def test_a_killed_writer_leaves_no_lock(tmp_path, arguments):
    process = hold(tmp_path / "run", *arguments)
    process.kill()
    process.wait()
    try:
        RunFolder(tmp_path / "run", {"seed": 0}).close()
    finally:
        if arguments:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="this file system cannot lock: No locks available"):
        RunFolder(tmp_path / "run", {"seed": 0})


def test_a_lock_file_full_of_nonsense_does_no_harm(tmp_path):
    process = hold(tmp_path / "run")
    try:
        (tmp_path / "run" / "lock").write_bytes(b"\xff\x00{")
        with pytest.raises(RunInUse, match="in use by another process"):
            RunFolder(tmp_path / "run", {"seed": 0})
    finally:
        process.kill()
        process.wait()
    RunFolder(tmp_path / "run", {"seed": 0}).close()
