"""Worlds after equal seconds: every variant and seed is measured, and what has been learned shows."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_variants_of_a_small_world(tmp_path):
    command = [
        *(sys.executable, str(ROOT / "benchmarks/learning/worlds.py"), str(ROOT / "configs/minatar.yaml")),
        *("--games", "MinAtar/Breakout-v1", "--seeds", "3", "--seconds", "2", "--env-steps", "400"),
        *("--variant", "learned --world.positions learned", "--variant", "rotary"),
        *("--output", str(tmp_path / "worlds.json"), "--world.embed_dim", "32", "--world.num_heads", "2"),
    ]
    subprocess.run(command, check=True, timeout=240)
    results = json.loads((tmp_path / "worlds.json").read_text())["results"]
    assert [each["variant"].split()[0] for each in results] == ["learned", "rotary"]
    for each in results:
        assert [round(2 * point["seconds"]) for point in each["curve"]] == [1, 2, 3, 4]
        assert each["curve"][-1]["nats a token"] < each["curve"][0]["nats a token"]
        assert each["curve"][0]["nats a frame"] == 25 * each["curve"][0]["nats a token"]
