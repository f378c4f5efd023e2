"""SIGKILL at random instants: however often, the run ends bit-identical to one that nothing happened to.

IRIS_RELIABILITY_KILLS (default 3) sets how many kills.
"""

import os
import random
import signal
import time

import pytest

from iris_wm.checkpoint.verify import list_checkpoints

KILLS = int(os.environ.get("IRIS_RELIABILITY_KILLS", "3"))
EVERY_STEP = ("--training.checkpoint_every_minutes", "1e-6")


def wait_for(is_true):
    deadline = time.monotonic() + 60
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.timeout(300 + 20 * KILLS)
def test_kills_at_random_instants(processes, tiny_config, undisturbed, digest, tmp_path, record_property):
    """Saves happen at every step, so that kills hit them, too. A finished run is followed by a new one."""
    dice = random.Random(KILLS)
    kills, runs, lost = 0, 0, 0
    while kills < KILLS or runs == 0:
        run = tmp_path / f"run-{runs}"
        fit = ("fit", "--config", tiny_config, "--run", run, "--quiet", *EVERY_STEP)
        code = None
        while code != 0:
            before = list_checkpoints(run)[:1]
            pid = processes.start(*fit)
            if kills < KILLS:
                if dice.random() < 0.7:  # not in the first steps only, however busy the machine
                    wait_for(lambda known=before, run=run: list_checkpoints(run)[:1] != known)
                time.sleep(dice.uniform(0, 1))
                os.kill(pid, signal.SIGKILL)
            code = processes.wait(pid)
            kills += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL), processes.output.read_text()
        found, expected = digest(run), digest(undisturbed)
        if found != expected:
            lost += 1
            print("differ:", [name for name in expected if found.get(name) != expected[name]][:9])
        assert not list(run.rglob(".tmp-*")), "what a kill left behind goes at the next start"
        runs += 1
    print(f"{kills} kills in {runs} runs, {lost} runs differ")
    record_property("tried", kills)
    assert lost == 0


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("save", 9),
        pytest.param("cache", 2, marks=pytest.mark.slow),
        *[
            pytest.param(place, call, marks=pytest.mark.slow)
            for place in ("tokenizer", "world", "policy")
            for call in (1, 4)
        ],
        *[pytest.param("save", call, marks=pytest.mark.slow) for call in range(1, 60, 3)],
        *[pytest.param("collection", call, marks=pytest.mark.slow) for call in (1, 60, 61, 110)],
        pytest.param("evaluation", 1, marks=pytest.mark.slow),
    ],
)
def test_death_at_a_chosen_instant(processes, tiny_config, undisturbed, digest, tmp_path, place, call):
    """In each phase, and before each file of the first saves; nothing is flushed, nothing is cleaned up."""
    run = tmp_path / "run"
    fit = ("fit", "--config", tiny_config, "--run", run, "--quiet", *EVERY_STEP)
    assert processes.run(*fit, hook={"place": place, "call": call, "what": "exit"}).code == 9
    assert processes.run(*fit).code == 0
    assert digest(run) == digest(undisturbed)
