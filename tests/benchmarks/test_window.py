"""benchmarks/learning/window.py, in its smallest form."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_rolled_cache_is_a_refilled_one_until_the_context_is_full():
    script = [sys.executable, "benchmarks/learning/window.py", "--context", "2", "--env-steps", "60"]
    script += ["--updates", "2", "--tokenizer-updates", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, cwd=ROOT, check=True, env=environment, capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["Refilled", "Rolled", "Anew"]
    assert len({tuple(row[1:3]) for row in rows}) == 1
    assert all(0 < float(nats) < 20 for row in rows for nats in row[1:9:2])
