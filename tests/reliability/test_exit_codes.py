"""The exit code tells the truth, and the same command continues, refuses or stops, whatever it finds."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iris_wm.checkpoint.verify import list_checkpoints


@pytest.fixture
def finished_run(undisturbed, tmp_path) -> Path:
    """A copy of a run that is done."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "agent.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def only_line(finished) -> str:
    assert finished.text.count("\n") == 1, finished.text
    assert "Traceback" not in finished.text
    return finished.text


def test_a_finished_run_is_finished(processes, tiny_config, finished_run, digest):
    before = digest(finished_run)
    finished = processes.run("fit", "--config", tiny_config, "--run", finished_run)
    assert finished.code == 0
    assert "has finished its 3 epochs already" in finished.text
    assert digest(finished_run) == before


def test_without_a_config_the_run_goes_on_with_its_own(processes, finished_run):
    finished = processes.run("fit", "--run", finished_run, "--quiet", "--training.num_epochs", "4")
    assert finished.code == 0, finished.text
    assert list_checkpoints(finished_run)[0].name == "step-000000028"


def test_a_foreign_run_is_refused(processes, tiny_config, finished_run, digest):
    before = digest(finished_run)
    for override, key in (
        ("--seed=7", "seed: it has 0, you asked for 7"),
        ("--env.id=Pong", "env.id: it has"),
    ):
        finished = processes.run("fit", "--config", tiny_config, "--run", finished_run, override)
        assert finished.code == 3
        assert key in only_line(finished)
    assert digest(finished_run) == before


def test_variables_of_a_scheduler_change_nothing(
    tiny_config, finished_run, processes, digest, undisturbed, tmp_path, monkeypatch
):
    """Neither a foreign rank nor somebody's automatic checkpoint in the current folder."""
    from iris_wm import cli

    for name, value in {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "hpc_ckpt_1.ckpt").write_bytes(b"not ours")
    run = tmp_path / "new"
    assert cli.main(["fit", "--config", str(tiny_config), "--run", str(run), "--quiet"]) == 0
    assert digest(run) == digest(undisturbed)
    assert os.listdir() == ["hpc_ckpt_1.ckpt"]


def test_a_run_in_use_is_refused_at_once_and_free_after_a_kill(
    processes, tiny_config, tmp_path, undisturbed, digest
):
    fit = ("fit", "--config", tiny_config, "--run", tmp_path / "run", "--quiet")
    first = processes.start(*fit, hook={"place": "step", "call": 3, "what": "sleep"})
    deadline = time.monotonic() + 60
    while not processes.note.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes.note.exists()
    second = processes.run(*fit)
    assert processes.cpu < 4
    assert second.code == 3
    assert f"in use by process {first}" in only_line(second)
    os.kill(first, signal.SIGKILL)
    assert processes.wait(first) == -signal.SIGKILL
    assert processes.run(*fit).code == 0
    assert digest(tmp_path / "run") == digest(undisturbed)


def test_the_newest_that_verifies_is_taken(processes, tiny_config, finished_run, digest, undisturbed):
    newest, older = list_checkpoints(finished_run)[:2]
    flip_a_bit(newest)
    finished = processes.run("checkpoint", "verify", finished_run)
    assert finished.code == 3
    assert f"{newest.name}: " in finished.text
    assert f"{older.name}: verified" in finished.text
    finished = processes.run("fit", "--config", tiny_config, "--run", finished_run)
    assert finished.code == 0, finished.text
    assert f"skipped {newest.name}: " in finished.text
    assert "agent.safetensors: got sha256" in finished.text
    assert digest(finished_run) == digest(undisturbed)
    assert (finished_run / "checkpoints" / f"damaged-{newest.name}").is_dir()


def test_all_damaged_is_never_a_new_start(processes, tiny_config, finished_run):
    for checkpoint in list_checkpoints(finished_run):
        flip_a_bit(checkpoint)
    before = sorted((path, path.stat().st_mtime_ns) for path in (finished_run / "checkpoints").rglob("*"))
    for command in ("fit", "evaluate", "report", "dream"):
        arguments = (command, "--run", finished_run) if command == "fit" else (command, finished_run)
        finished = processes.run(*arguments)
        assert finished.code == 3, command
        assert "checkpoints can be used" in only_line(finished)
    assert sorted((p, p.stat().st_mtime_ns) for p in (finished_run / "checkpoints").rglob("*")) == before


def test_a_metrics_file_of_other_content_is_damage(processes, finished_run):
    path = finished_run / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"tokenizer/loss", b"tokenizer/lass", 1))
    finished = processes.run("fit", "--run", finished_run, "--training.num_epochs", "4")
    assert finished.code == 3
    assert "metrics.csv" in only_line(finished)


@pytest.mark.parametrize(
    "call", [1, 4, *[pytest.param(call, marks=pytest.mark.slow) for call in range(5, 25)]]
)
def test_a_full_disk(processes, tiny_config, undisturbed, digest, newest_is_good, tmp_path, call):
    """No space at some file of a save: the checkpoints so far stay, and with space the run goes on."""
    fit = ("fit", "--config", tiny_config, "--run", tmp_path / "run", "--quiet")
    every_step = ("--training.checkpoint_every_minutes", "1e-6")
    finished = processes.run(
        *fit, *every_step, hook={"place": "save", "call": 12 + call, "what": "disk full"}
    )
    assert finished.code == 5
    assert "No space left on device" in only_line(finished)
    assert newest_is_good(tmp_path / "run") >= 1
    if call == 1:
        assert processes.run(*fit).code == 0
        assert digest(tmp_path / "run") == digest(undisturbed)


def test_a_reader_that_goes_away_ends_no_run():
    """As `iris-wm fit ... | head` does, or a terminal that closes."""
    program = (
        "import sys; from iris_wm.training.display import RunConsole; console = RunConsole()\n"
        "for number in range(2000): console.print('x' * 100)\n"
        "sys.exit(7)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait(120) == 7, process.stderr.read()
    process.stderr.close()


@pytest.mark.slow
def test_a_disk_that_is_really_full(processes, tiny_config, newest_is_good, tmp_path):
    """On a tmpfs of 12 MB, where that can be mounted: too little for a save, and nothing at all in mid-run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        fit = ("fit", "--config", tiny_config, "--run", disk / "run", "--quiet")
        filler = disk / "filler"
        assert processes.run(*fit).code == 0
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        finished = processes.run(*fit, "--training.num_epochs", "5")
        assert finished.code == 5, finished.text
        only_line(finished)
        newest_is_good(disk / "run")
        filler.unlink()
        pid = processes.start(
            *fit, "--training.num_epochs", "300", hook={"place": "step", "call": 9, "what": "SIGSTOP"}
        )
        output, deadline = processes.output, time.monotonic() + 120
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "T" and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.kill(pid, signal.SIGCONT)
        assert processes.wait(pid) == 5
        assert output.read_text().count("\n") == 1, output.read_text()
        newest_is_good(disk / "run")
        filler.unlink()
        assert processes.run(*fit, "--training.num_epochs", "5").code == 0
    finally:
        subprocess.run(["umount", disk], check=True)
