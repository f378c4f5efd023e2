"""The configs that the stages use, by name: all there are, those for a GPU first."""

from pathlib import Path

from iris_wm.config import apply_overrides, build_config
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml

FOLDER = Path(__file__).resolve().parents[2] / "configs"
FILES = {
    "fast": "atari100k/fast.yaml",
    "iris": "atari100k/iris.yaml",
    "demo": "demo.yaml",
    "assault": "assault.yaml",
    "minatar": "minatar.yaml",
    "catch": "catch.yaml",
    "notebook": "notebook.yaml",
    "debug": "debug.yaml",
}


def preset(name: str, *overrides: str) -> RunConfig:
    """A config with "key=value" overrides."""
    return build_config(RunConfig, apply_overrides(read_yaml(FOLDER / FILES[name]), list(overrides)))
