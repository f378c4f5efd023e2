"""benchmarks/speed/prediction_quality.py, in its smallest form."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_prediction_is_trained_and_judged(tmp_path):
    options = ["--config", "configs/catch.yaml", "--env-steps", "80", "--updates", "2", "--starts", "4"]
    script = [
        sys.executable,
        "benchmarks/speed/prediction_quality.py",
        *options,
        "--output",
        tmp_path / "quality.json",
    ]
    subprocess.run(script, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    results = json.loads((tmp_path / "quality.json").read_text())["results"]
    assert set(results) == {"autoregressive", "parallel", "block"}
    for result in results.values():
        assert 0 < result["one_step_nats"] < 20
        assert len(result["frame_l1"]) == 10
