"""Nothing grows: memory, open files, threads and the run folder over a run of many epochs.

IRIS_RELIABILITY_EPOCHS (default 12, without the marker slow; 400 are about 10 minutes) sets how many.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EPOCHS = int(os.environ.get("IRIS_RELIABILITY_EPOCHS", "12"))


def sample(pid: int, run: Path) -> dict[str, float]:
    """Resident memory in MB, open files, threads, and MB of the run folder but for metrics and events."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kept = [*run.glob("checkpoints/**/*"), *run.glob("replay/*")]
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "threads": float(status["Threads"]),
        "files": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "folder": sum(path.stat().st_size for path in kept if path.is_file()) / 1e6,
    }


@pytest.mark.timeout(120 + 5 * EPOCHS)
def test_nothing_grows(tiny_config, tmp_path, record_property):
    """The first half warms up and fills the replay; the third quarter and the last one are compared."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "iris_wm", "fit", "--config", tiny_config, "--run", run, "--quiet"]
    command += ["--training.num_epochs", str(EPOCHS), "--training.checkpoint_every_epochs", "1"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    samples: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    while process.poll() is None:
        metrics = run / "metrics.csv"
        epoch = metrics.read_text().count("tokenizer/loss") if metrics.exists() else 0
        with contextlib.suppress(FileNotFoundError, KeyError, ProcessLookupError):
            if epoch >= EPOCHS // 2:
                samples["after" if epoch >= 3 * EPOCHS // 4 else "before"].append(sample(process.pid, run))
        time.sleep(0.05)
    assert process.returncode == 0
    record_property("tried", EPOCHS)
    for name, allowed in {"memory": 1.03, "threads": 1.0, "files": 1.0, "folder": 1.05}.items():
        # The folder between saves: how much of a save in progress a sample meets is chance.
        extreme = min if name == "folder" else max
        before, after = (extreme(each[name] for each in part) for part in samples.values())
        print(f"{name}: {before:.1f}, then {after:.1f}")
        assert after <= allowed * before + (2 if name == "files" else 0), name


def test_a_stopped_process_ends_at_once_when_killed(processes, tiny_config, tmp_path):
    """SIGSTOP and SIGKILL leave neither a process nor a lock."""
    fit = ("fit", "--config", tiny_config, "--run", tmp_path / "run", "--quiet")
    pid = processes.start(*fit, hook={"place": "step", "call": 2, "what": "SIGSTOP"})
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().split()[2] != "T" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes.run(*fit).code == 3
    os.kill(pid, signal.SIGKILL)
    assert processes.wait(pid) == -signal.SIGKILL
    assert processes.run(*fit, "--training.num_epochs", "1").code == 0
