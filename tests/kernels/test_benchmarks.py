"""Every benchmark runs on a CPU with small shapes and writes what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"


@pytest.mark.parametrize("kernel", ["attention", "decode_layers", "head_sample", "group_norm_silu"])
def test_runs_on_a_cpu(kernel: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    environment = {key: value for key, value in os.environ.items() if key != "IRIS_KERNELS_BACKEND"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(BENCHMARKS / f"{kernel}.py"), "--device", "cpu", "--out", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(path.read_text())
    assert report["kernel"] == kernel
    assert set(report["environment"]) == {"device", "driver", "sm_clock", "torch", "triton", "commit", "date"}
    assert {"iris_kernels"} < {row["rival"] for row in report["rows"]}
    for row in report["rows"]:
        assert row["us"]["cpu"][0] > 0
