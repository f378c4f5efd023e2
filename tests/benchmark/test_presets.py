"""Presets by name and by path, and their env steps."""

from pathlib import Path

import pytest

from iris_wm.benchmark.presets import find_preset, planned_env_steps
from iris_wm.config import apply_overrides, build_config
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"


def test_presets_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "configs" / "atari100k").mkdir(parents=True)
    for name in ("demo_here", "atari100k/paper_here"):
        (tmp_path / "configs" / f"{name}.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_preset("demo_here") == ("demo_here", tmp_path / "configs/demo_here.yaml")
    assert find_preset("paper_here")[0] == find_preset("atari100k/paper_here")[0] == "paper_here"
    assert find_preset("configs/demo_here.yaml") == ("demo_here", tmp_path / "configs/demo_here.yaml")
    with pytest.raises(ValueError, match="preset: got 'nothing', expected a YAML file, or a name below"):
        find_preset("nothing")


def test_env_steps_are_the_ones_that_fit_will_take():
    overrides = ["--collection.stop_after_epoch", "2"]
    config = build_config(RunConfig, apply_overrides(read_yaml(CONFIGS / "debug.yaml"), overrides))
    assert planned_env_steps(CONFIGS / "debug.yaml", overrides, "Pong") == config.total_env_steps


def test_a_config_that_fit_refuses_is_refused_before_any_job():
    with pytest.raises(ValueError, match=r"debug.yaml: unknown key .collection.colour"):
        planned_env_steps(CONFIGS / "debug.yaml", ["--collection.colour", "2"], "Pong")
