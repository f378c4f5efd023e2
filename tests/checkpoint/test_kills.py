"""SIGKILL at random instants of a process that saves in a loop; IRIS_RELIABILITY_KILLS (default 15) sets how many."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("IRIS_RELIABILITY_KILLS", "15"))
MEMORY_FILES = Path("/dev/shm")


@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.parametrize("place", ["same file system", "another file system"])
def test_kills_lose_nothing(tmp_path, place, record_property):
    """The run and TMPDIR on one file system, and on two; nothing may ever be written to TMPDIR."""
    temporary = tmp_path / "tmpdir"
    temporary.mkdir()
    run = tmp_path / "run"
    if place == "another file system":
        if not os.access(MEMORY_FILES, os.W_OK) or os.stat(MEMORY_FILES).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("there is no second file system")
        run = MEMORY_FILES / f"iris-kills-{os.getpid()}" / "run"
    try:
        output = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).with_name("kill_saves.py")),
                str(run),
                str(KILLS),
                str(KILLS),
            ],
            env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        counts = json.loads(output.splitlines()[-1])
        print(f"{place}: {counts}")
        record_property("tried", counts["kills"])
        assert (counts["kills"], counts["lost"], counts["temporaries"]) == (KILLS, 0, 0)
        assert counts["saves"] > 0
        assert list(temporary.iterdir()) == []
    finally:
        shutil.rmtree(run.parent if run.is_relative_to(MEMORY_FILES) else run, ignore_errors=True)
