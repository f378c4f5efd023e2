"""Signals in every phase: a verified checkpoint, exit code 143 in time, and a run that goes on as if undisturbed.

The process sends itself the signal in the middle of the phase; from outside, it comes at any time.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import pytest

LIMIT = 20.0  # seconds from the signal to the end of the process
PHASES = ("collection", "tokenizer", "cache", "world", "policy", "evaluation", "save")
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGTERM twice")
# When a phase is reached for the N-th time: an early one, and one in a later epoch.
EARLY = {"collection": 20, "save": 2}
LATE = {"collection": 95, "tokenizer": 4, "cache": 2, "world": 4, "policy": 3, "save": 7}
SHORT = [
    ("collection", "SIGTERM", 95),
    ("world", "SIGUSR1", 4),
    ("policy", "SIGINT", 1),
    ("evaluation", "SIGTERM", 1),
    ("save", "SIGTERM twice", 2),
]
LONG = [
    (phase, what, calls.get(phase, 1))
    for phase, what, calls in itertools.product(PHASES, SIGNALS, (EARLY, LATE))
    if (phase, what, calls.get(phase, 1)) not in SHORT and not (phase == "evaluation" and calls is LATE)
]
CASES = SHORT + [pytest.param(*case, marks=pytest.mark.slow) for case in LONG]


@pytest.mark.parametrize(("phase", "what", "call"), CASES)
def test_signal_in_a_phase(
    processes,
    tiny_config,
    undisturbed,
    digest,
    newest_is_good,
    on_a_busy_machine,
    tmp_path,
    phase,
    what,
    call,
):
    run = tmp_path / "run"
    fit = ("fit", "--config", tiny_config, "--run", run, "--quiet")
    if phase == "save":  # one at every step
        fit = (*fit, "--training.checkpoint_every_minutes", "1e-6")
    finished = processes.run(*fit, hook={"place": phase, "call": call, "what": what})
    assert finished.code == 143, finished.text
    assert finished.latency is not None
    assert finished.latency < on_a_busy_machine(LIMIT)
    assert what.split()[0] in finished.text
    assert finished.text.count("\n") == 1, finished.text
    assert newest_is_good(run) <= 21
    finished = processes.run(*fit)
    assert finished.code == 0, finished.text
    assert digest(run) == digest(undisturbed)


@pytest.mark.parametrize("what", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGINT"])
def test_a_signal_in_the_last_step_comes_too_late(
    processes, tiny_config, undisturbed, digest, tmp_path, what
):
    """The work is done by then, and the exit code says so."""
    fit = ("fit", "--config", tiny_config, "--run", tmp_path / "run", "--quiet")
    finished = processes.run(*fit, hook={"place": "policy", "call": 4, "what": what})
    assert (finished.code, finished.text) == (0, "")
    assert digest(tmp_path / "run") == digest(undisturbed)


def test_a_signal_before_the_first_step(
    processes, tiny_config, undisturbed, digest, newest_is_good, tmp_path
):
    fit = ("fit", "--config", tiny_config, "--run", tmp_path / "run", "--quiet")
    finished = processes.run(*fit, hook={"place": "start", "what": "SIGTERM"})
    assert finished.code == 143, finished.text
    assert newest_is_good(tmp_path / "run") <= 1
    assert processes.run(*fit).code == 0
    assert digest(tmp_path / "run") == digest(undisturbed)


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(int(os.environ.get("IRIS_RELIABILITY_SIGNALS", "10")), marks=pytest.mark.slow)]
)
def test_signals_from_outside_at_random_times(
    tiny_config, undisturbed, digest, newest_is_good, on_a_busy_machine, tmp_path, record_property, rounds
):
    """A process started as users start it, `python -m iris_wm`, again and again until the run is done."""
    run, dice, stops = tmp_path / "run", random.Random(0), 0
    command = [sys.executable, "-m", "iris_wm", "fit", "--config", tiny_config, "--run", run, "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(rounds):
        process = subprocess.Popen(
            [*command, "--training.checkpoint_every_minutes", "0.001"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = (run / "metrics.csv").stat().st_mtime if (run / "metrics.csv").exists() else 0.0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # until it has begun to train
            if (run / "metrics.csv").exists() and (run / "metrics.csv").stat().st_mtime > before:
                break
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.5))
        sent = time.monotonic()
        process.send_signal(dice.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
        _, text = process.communicate(timeout=200)
        if process.returncode == 0:
            break
        assert process.returncode == 143, text
        assert time.monotonic() - sent < on_a_busy_machine(LIMIT)
        newest_is_good(run)
        stops += 1
    print(f"{stops} stops")
    record_property("tried", stops)
    assert subprocess.run(command, env=environment, timeout=240).returncode == 0
    assert digest(run) == digest(undisturbed)
