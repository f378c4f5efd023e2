"""Nothing grows: memory, open files, threads and the run folder over a run of many epochs.

IRIS_RELIABILITY_EPOCHS (default 12, without the marker slow; 400 are about 10 minutes) sets how many.
"""

import contextlib
import os
import signal
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
def test_nothing_grows(processes, tiny_config, tmp_path):
    """Samples after the replay is full; the first third warms up, then the second and the last are compared."""
    run = tmp_path / "run"
    pid = processes.start(
        "fit", "--config", tiny_config, "--run", run, "--quiet", "--training.num_epochs", EPOCHS,
        "--evaluation.every_epochs", "3", "--training.checkpoint_every_epochs", "1",
    )  # fmt: skip
    samples = []
    while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        with contextlib.suppress(FileNotFoundError, KeyError, ProcessLookupError):
            samples.append(sample(pid, run))
        time.sleep(0.1)
    assert processes.wait(pid) == 0
    rows = (run / "metrics.csv").read_text()
    assert rows.count("tokenizer/loss") == EPOCHS
    third = len(samples) // 3
    assert third > 5
    for name, allowed in {"memory": 1.03, "threads": 1.0, "files": 1.0, "folder": 1.05}.items():
        middle = max(each[name] for each in samples[third : 2 * third])
        last = max(each[name] for each in samples[2 * third :])
        print(f"{name}: {middle:.1f}, then {last:.1f}")
        assert last <= allowed * middle + (2 if name == "files" else 0), name


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
