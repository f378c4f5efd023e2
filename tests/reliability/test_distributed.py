"""Two processes that train together with gloo on the CPU: same weights, one writer, and a common end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iris_wm.checkpoint.verify import list_checkpoints

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
TIMEOUT = 30.0  # seconds that a process waits for the other one, which has to start first
slow = pytest.mark.slow


@dataclass
class Ended:
    code: int
    text: str
    seconds: float
    notes: Path

    def weights(self, rank: int) -> dict[str, str]:
        return {path.name[-1]: path.read_text() for path in self.notes.glob(f"weights-{rank}-*")}


def start(
    config: Path, run: Path, notes: Path, hook: dict[str, Any] | None, *options: str
) -> subprocess.Popen:
    notes.mkdir(exist_ok=True)
    arguments = ["fit", "--config", str(config), "--run", str(run), "--quiet", "--trainer.devices", "2"]
    arguments += ["--trainer.timeout_minutes", str(TIMEOUT / 60), *options]
    return subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("ddp_process.py")),
            str(notes),
            json.dumps(hook),
            *arguments,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def leftover(notes: Path) -> list[str]:
    """Processes of a run that are still there, but for those that ended and nobody asked yet."""
    found = []
    for path in notes.glob("pid-*"):
        status = Path(f"/proc/{path.read_text()}/status")
        if status.exists() and "zombie" not in status.read_text():
            found.append(path.name)
    return found


def end(process: subprocess.Popen, notes: Path, limit: float = 200) -> Ended:
    started = time.monotonic()
    try:
        _, text = process.communicate(timeout=limit)
    finally:
        process.kill()
    deadline = time.monotonic() + 5
    while leftover(notes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftover(notes) == [], "an orphan"
    return Ended(process.returncode, text, time.monotonic() - started, notes)


@pytest.fixture(scope="module")
def pair(tiny_config, tmp_path_factory) -> tuple[Path, Ended]:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("pair")
    process = start(tiny_config, folder / "run", folder / "notes", None)
    return folder / "run", end(process, folder / "notes")


def test_both_end_with_the_same_weights(pair, digest, undisturbed):
    run, ended = pair
    assert ended.code == 0, ended.text
    assert ended.weights(0) == ended.weights(1)
    assert len(ended.weights(0)) == 3
    assert (
        digest(run)["/agent/tokenizer.to_codes.weight"]
        != digest(undisturbed)["/agent/tokenizer.to_codes.weight"]
    ), "each has drawn batches of its own"
    assert digest(run)["replay/actions"], "one replay"
    assert (run / "metrics.csv").read_text().count("tokenizer/loss") == 3, "one writer"


@pytest.mark.parametrize(
    ("rank", "what", "place", "call"),
    [
        (1, "SIGTERM", "step", 9),
        pytest.param(0, "SIGTERM", "step", 9, marks=slow),
        pytest.param(1, "SIGINT", "optimize", 6, marks=slow),
        pytest.param(0, "SIGUSR1", "cache", 2, marks=slow),
        pytest.param(1, "SIGTERM twice", "evaluation", 1, marks=slow),
        pytest.param(0, "SIGTERM", "save", 3, marks=slow),
    ],
)
def test_a_signal_to_either_stops_both_and_the_run_goes_on(
    pair, tiny_config, digest, newest_is_good, tmp_path, rank, what, place, call
):
    run, notes = tmp_path / "run", tmp_path / "notes"
    hook = {"rank": rank, "place": place, "call": call, "what": what}
    ended = end(start(tiny_config, run, notes, hook), notes)
    assert ended.code == 143, ended.text
    assert newest_is_good(run) > 0
    ended = end(start(tiny_config, run, tmp_path / "notes-2", None), tmp_path / "notes-2")
    assert ended.code == 0, ended.text
    assert ended.weights(0) == ended.weights(1)
    assert digest(run) == digest(pair[0])


@pytest.mark.parametrize(
    ("rank", "what"),
    [
        (1, "SIGKILL"),
        pytest.param(1, "SIGSTOP", marks=slow),
        pytest.param(1, "exit", marks=slow),
        pytest.param(1, "raise", marks=slow),
        pytest.param(0, "SIGSTOP", marks=slow),
        pytest.param(0, "SIGKILL", marks=slow),
        pytest.param(0, "raise", marks=slow),
    ],
)
def test_one_that_dies_or_hangs_ends_both(tiny_config, newest_is_good, tmp_path, rank, what):
    run, notes = tmp_path / "run", tmp_path / "notes"
    hook = {"rank": rank, "place": "step", "call": 12, "what": what, "note": str(tmp_path / "time")}
    ended = end(start(tiny_config, run, notes, hook, "--training.checkpoint_every_epochs", "1"), notes)
    assert ended.code not in (0, 143), ended.text
    assert time.monotonic() - float((tmp_path / "time").read_text()) < TIMEOUT + 30
    assert newest_is_good(run) > 0


@slow
def test_a_signal_to_the_whole_group(tiny_config, newest_is_good, tmp_path):
    """As a terminal sends Ctrl-C, and a scheduler SIGTERM."""
    notes = tmp_path / "notes"
    process = start(
        tiny_config, tmp_path / "run", notes,
        {"rank": 0, "place": "step", "call": 6, "what": "SIGCONT", "note": str(tmp_path / "time")},
        "--training.num_epochs", "200",
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (tmp_path / "time").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for path in notes.glob("pid-*"):
        os.kill(int(path.read_text()), signal.SIGTERM)
    ended = end(process, notes)
    assert ended.code == 143, ended.text
    assert newest_is_good(tmp_path / "run") > 0


@pytest.mark.parametrize(
    "what", ["gradient", pytest.param("latent", marks=slow), pytest.param("reward", marks=slow)]
)
def test_a_bad_number_in_one_ends_both(tiny_config, tmp_path, what):
    """With exit code 4, and the weights of the last good checkpoint."""
    notes = tmp_path / "notes"
    place = "collect" if what == "reward" else "optimize"
    hook = {"rank": 1, "place": place, "call": 3, "what": what}
    ended = end(start(tiny_config, tmp_path / "run", notes, hook), notes)
    assert ended.code in ((4,) if what != "reward" else (4, 5, -9)), ended.text
    assert list_checkpoints(tmp_path / "run") == []
