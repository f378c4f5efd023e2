"""Real processes of iris-wm, quickly started, what a run folder holds as one number, and the suite's table."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iris_wm.checkpoint.folder import load_checkpoint
from iris_wm.checkpoint.verify import list_checkpoints, verify_checkpoint
from iris_wm.config import dump_yaml
from iris_wm.runs.progress import STATE_KEY

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Finished:
    """How a process ended: exit code, all it printed, and seconds from the hook's action to the end."""

    code: int
    text: str
    latency: float | None = None


class Processes:
    """Starts iris-wm through the fork server."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self._answer()

    def start(self, *arguments: Any, hook: dict[str, Any] | None = None) -> int:
        """The pid of a new process; its output goes to a file named after it."""
        self.count += 1
        self.output = self.folder / f"output-{self.count}.txt"
        self.note = self.folder / f"note-{self.count}.txt"
        if hook is not None:
            hook = {**hook, "note": str(self.note)}
        request = {"arguments": list(map(str, arguments)), "output": str(self.output), "hook": hook}
        return self._ask(request)["pid"]

    def wait(self, pid: int) -> int:
        """The exit code; `cpu` is the processor time in seconds from then on."""
        answer = self._ask({"wait": pid})
        self.cpu = answer["cpu"]
        return answer["code"]

    def run(self, *arguments: Any, hook: dict[str, Any] | None = None) -> Finished:
        """From start to end."""
        code = self.wait(self.start(*arguments, hook=hook))
        latency = time.monotonic() - float(self.note.read_text()) if self.note.exists() else None
        return Finished(code, self.output.read_text(), latency)

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(60)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts iris-wm in real processes: run(*arguments, hook=None) or start and wait."""
    started = Processes(tmp_path_factory.mktemp("output"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def tiny_config(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest run's config as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(dump_yaml(tiny_run()))
    return path


@pytest.fixture(scope="session")
def undisturbed(processes: Processes, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = processes.run("fit", "--config", tiny_config, "--run", run, "--quiet")
    assert finished.code == 0, finished.text
    return run


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}/{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{name}/{index}")
    else:
        yield name, tree


def _digest(run: Path) -> dict[str, str]:
    checkpoint = load_checkpoint(list_checkpoints(run)[0])
    # Lightning counts its own epochs and steps anew in every process; nothing reads them. Seconds are seconds.
    training = {
        key: value for key, value in checkpoint.training.items() if key not in ("epoch", "global_step")
    }
    training[STATE_KEY] = {key: value for key, value in training[STATE_KEY].items() if key != "seconds"}
    replay: dict[str, Any] = {}
    for part in checkpoint.replay_parts():
        for name, column in part.items():
            digest = replay.setdefault(name, hashlib.sha256())
            digest.update(column.contiguous().view(-1).numpy().tobytes())
    result = {"metrics.csv": hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest()}
    result |= {f"replay/{name}": digest.hexdigest() for name, digest in replay.items()}
    for name, value in _leaves({"agent": checkpoint.agent, "training": training}):
        data = (
            value.contiguous().view(-1).numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
        )
        result[name] = hashlib.sha256(data).hexdigest()
    return result


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], dict[str, str]]:
    """sha256 of all that a run is: weights, moments, place, collector, emulator, replay, metrics.csv."""
    return _digest


@pytest.fixture
def on_a_busy_machine() -> Callable[[float], float]:
    """What so many seconds on a machine with nothing else to do may become on this one, by its load a core."""
    return lambda seconds: seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="session")
def newest_is_good() -> Callable[[Path], int]:
    """Verifies the newest checkpoint of a run; the steps done by then."""

    def verify(run: Path) -> int:
        newest = list_checkpoints(run)[0]
        verify_checkpoint(newest)
        assert not list(run.rglob(".tmp-*"))
        return load_checkpoint(newest).training[STATE_KEY]["total_steps"]

    return verify


# The table at the end of the long suite. What a test is about, by its name, and what its failing means.
# A test counts once, or as often as it says with record_property("tried", ...).
ROWS = [
    ("test_kills_lose_nothing", "SIGKILL at a random instant of a process that only saves", "lost"),
    ("test_kills_at_random_instants", "SIGKILL at a random instant of a training run", "lost"),
    ("test_death_at_a_chosen_instant", "death in a chosen phase or before a chosen file of a save", "lost"),
    ("test_power_cut.py", "simulated power cuts", "lost"),
    ("test_full_disk.py|full", "failing calls of a save, full disks", "lost"),
    ("test_every_flipped_bit", "single-bit flips", "silent"),
    ("test_every_truncation", "truncations and extensions", "silent"),
    ("test_damage.py|tests/security", "missing, foreign, lying or malicious files", "silent"),
    ("test_signals.py", "signals inside a phase and at random times", "lost"),
    ("test_distributed.py", "faults and signals in one of two processes", "hung"),
    ("test_numbers.py", "numbers that are not finite, codebook collapse", "silent"),
    ("test_nothing_grows", "epochs of the soak, a save each", "hung"),
    ("test_bad_inputs.py", "bad command lines, configuration keys and files", "silent"),
    ("", "exit codes, locks, folders, formats, the hub", "silent"),
]


class Table:
    """A plugin of its own: hooks of a conftest are not told of tests in other folders."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What became of each test goes to the file, which several calls of pytest may share."""
        if report.when != "call" and report.passed:
            return
        failing = "" if not report.failed else "hung" if "Timeout" in report.longreprtext else "failed"
        tried = int(dict(report.user_properties).get("tried", 0 if report.skipped else 1))
        with self.path.open("a") as file:
            line = {"test": report.nodeid, "tried": tried, "failing": failing, "skipped": report.skipped}
            file.write(json.dumps(line) + "\n")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table of all in that file; of a test that ran again, the last time counts."""
        if not self.path.is_file():
            return
        lines = map(json.loads, self.path.read_text().splitlines())
        results = {line["test"]: line for line in lines}
        table = {what: {"tried": 0, "lost": 0, "silent": 0, "hung": 0} for _, what, _ in ROWS}
        for test, result in results.items():
            name = test.split("[")[0]
            what, meaning = next((what, meaning) for part, what, meaning in ROWS if re.search(part, name))
            table[what]["tried"] += result["tried"]
            if result["failing"]:
                table[what]["hung" if result["failing"] == "hung" else meaning] += 1
        terminalreporter.section("reliability")
        terminalreporter.write_line("| What | Tried | Lost | Silent | Hung |\n|---|---:|---:|---:|---:|")
        for what, counts in table.items():
            if counts["tried"]:
                cells = " | ".join(f"{count:,}" for count in counts.values())
                terminalreporter.write_line(f"| {what} | {cells} |")
        skipped = sum(result["skipped"] for result in results.values())
        terminalreporter.write_line(f"\n{len(results)} tests, {skipped} of them skipped")


def pytest_configure(config: pytest.Config) -> None:
    """Where the results go: the file IRIS_RELIABILITY_RESULTS; without it there is no table."""
    if path := os.environ.get("IRIS_RELIABILITY_RESULTS"):
        config.pluginmanager.register(Table(Path(path)))
