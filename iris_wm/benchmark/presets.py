"""Presets: which file a name means, and how many env steps a run with it takes."""

from collections.abc import Sequence
from pathlib import Path

from iris_wm.config import apply_overrides, build_config
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml


def find_preset(name: str) -> tuple[str, Path]:
    """A preset's name and file from a path, or from a name below `configs/` ("demo", "atari100k/iris").

    Looked for from here and beside the package. Raises ValueError listing the places.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.stem, path.resolve()
    roots = [Path.cwd() / "configs", Path(__file__).resolve().parents[2] / "configs"]
    for root in roots:
        for candidate in (root / f"{name}.yaml", root / "atari100k" / f"{name}.yaml"):
            if candidate.is_file():
                return candidate.stem, candidate
    raise ValueError(
        f"preset: got {name!r}, expected a YAML file, or a name below {' or '.join(map(str, roots))}"
    )


def planned_env_steps(config: Path, overrides: Sequence[str], game: str) -> int:
    """Env steps that a whole run takes, with the arguments that `iris-wm fit` is given.

    Raises ValueError where it would refuse the config or the overrides.
    """
    mapping = apply_overrides(read_yaml(config), ["--env.id", game, *overrides])
    try:
        return build_config(RunConfig, mapping).total_env_steps
    except ValueError as error:
        raise ValueError(f"preset {config}: {error}") from None
