"""benchmarks/speed/positions.py, in its smallest form."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_learned_and_rotary_positions_are_timed():
    script = [sys.executable, "benchmarks/speed/positions.py", "--config", "configs/catch.yaml"]
    script += ["--batch", "2", "--rounds", "1"]
    done = subprocess.run(
        script,
        cwd=ROOT,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "update, batch 2",
        "roll-out, batch 2",
        "imagined steps/s",
    ]
    assert all("learned" in line and "rotary" in line for line in lines)
