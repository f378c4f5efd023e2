"""Presets: which file a name means, and how many env steps a run with it takes."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from iris_wm.strict_yaml import parse_yaml


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
    """Env steps that a whole run takes, by the config that `iris-wm fit` itself makes of its arguments.

    Raises ValueError with its complaint where it refuses the config or the overrides.
    """
    command = [sys.executable, "-m", "iris_wm", "fit", "--config", str(config), "--run", "unused"]
    command += ["--env.id", game, *overrides, "--print-config"]
    printed = subprocess.run(command, capture_output=True, text=True)
    if printed.returncode:
        lines = printed.stderr.strip().splitlines() or [f"exit code {printed.returncode}"]
        raise ValueError(f"preset {config}: {lines[-1]}")
    whole = parse_yaml(printed.stdout, str(config))
    collection, training = whole["collection"], whole["training"]
    epochs = min(collection["stop_after_epoch"], training["num_epochs"])
    if not epochs:
        return 0
    return int(collection["first_epoch_env_steps"] + (epochs - 1) * collection["env_steps_per_epoch"])
