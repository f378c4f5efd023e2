"""A run that was stopped before its world model learned anything: every command that dreams says so in one line."""

from pathlib import Path

import gymnasium
import pytest

import iris_wm  # noqa: F401 (registers the environments)
from iris_wm import cli
from iris_wm.config import dump_yaml


@pytest.fixture(scope="module")
def young_run(tiny_run, tmp_path_factory) -> Path:
    """A run of a world model that trains from the first epoch on, stopped after its first step of collection."""
    folder = tmp_path_factory.mktemp("young")
    (folder / "tiny.yaml").write_text(dump_yaml(tiny_run("training.max_minutes=1e-6")))
    fit = ["fit", "--config", f"{folder}/tiny.yaml", "--run", f"{folder}/run", "--quiet"]
    assert cli.main(fit) == 143
    return folder / "run"


@pytest.mark.parametrize("command", ["dream", "play", "evaluate-dream"])
def test_an_untrained_world_does_not_dream(command: str, young_run: Path, capsys):
    assert cli.main([command, str(young_run)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"iris-wm {command}: " in message
    assert "world model is not trained yet (checkpoint of epoch 1" in message
    assert f"iris-wm fit --run {young_run}" in message


def test_nor_does_its_environment(young_run: Path):
    with pytest.raises(ValueError, match="world model is not trained yet"):
        gymnasium.make("iris_wm/Dream-v0", run=young_run)


def test_one_step_is_training(young_run: Path, tmp_path: Path, capsys):
    assert cli.main(["fit", "--run", str(young_run), "--quiet", "--training.max_minutes", "0"]) == 0
    assert cli.main(["dream", str(young_run), "--steps", "3", "--output", str(tmp_path)]) == 0
