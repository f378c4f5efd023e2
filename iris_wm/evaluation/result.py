"""The result file of one finished run, `result.json`: what was measured, and how."""

import itertools
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iris_wm.checkpoint import durable
from iris_wm.config import (
    Config,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    build_config,
)
from iris_wm.evaluation.published import games
from iris_wm.evaluation.scores import human_normalized_score

FORMAT: Literal[1] = 1
RESULT_FILE = "result.json"
BENCHMARK_FILE = "benchmark.json"
"""What all runs of a benchmark's folder share."""
DEVICE_SHARE_VARIABLE = "IRIS_WM_DEVICE_SHARE"  # set by the benchmark for runs that share a GPU


@dataclass(frozen=True)
class CurvePoint(Config):
    """One evaluation during training, after `env_steps` agent steps; `returns` of its episodes, unclipped."""

    env_steps: int
    epoch: int
    mean_return: FiniteFloat
    returns: list[FiniteFloat]


@dataclass(frozen=True)
class EvaluationRecord(Config):
    """The final evaluation: its episodes, and every setting that published methods choose differently.

    returns: sum of unclipped rewards of each episode. lengths: agent steps of each episode. policy_temperature: of the
    draws of actions. epsilon: share of uniformly random actions. sticky_actions: probability that the emulator repeats
    the last action. noop_max: most no-ops at a game's start. max_emulator_frames: limit of a game. life_loss_terminal:
    whether a lost life ended *training* episodes. resize: how frames were made 64x64. full_games: whether an evaluated
    episode is a whole game with all lives.
    """

    episodes: PositiveInt
    returns: list[FiniteFloat]
    lengths: list[int]
    policy_temperature: float
    epsilon: float
    sticky_actions: float
    noop_max: int
    max_emulator_frames: int
    life_loss_terminal: bool
    resize: str
    seed: int
    full_games: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("returns", "lengths"):
            if len(getattr(self, name)) != self.episodes:
                raise ValueError(f"{name}: got {len(getattr(self, name))} values, expected {self.episodes}")

    @property
    def mean_return(self) -> float:
        """The run's score: the mean of `returns`."""
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class RunResult(Config):
    """One run: a game, a seed, a preset, and what came out.

    env_steps: agent steps taken in the real environment (one is 4 emulator frames). wall_seconds: of
    training, all sittings together, without the final evaluation. device: as the driver names it, or "cpu".
    device_share: how much of the device(s) the run had: 0.5 if two runs shared one, 2 on two GPUs.
    commit: of the code, None if unknown. curve: evaluations during training, oldest first; may be empty.
    """

    game: str
    seed: int
    preset: str
    config_hash: str
    package_version: str
    commit: str | None
    env_steps: NonNegativeInt
    epochs: int
    wall_seconds: NonNegativeFloat
    device: str
    evaluation: EvaluationRecord
    curve: list[CurvePoint] = field(default_factory=list)
    device_share: PositiveFloat = 1.0
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(a.env_steps > b.env_steps for a, b in itertools.pairwise(self.curve)):
            raise ValueError("curve: expected rising env_steps")

    @property
    def score(self) -> float:
        """Mean return of the final evaluation."""
        return self.evaluation.mean_return

    @property
    def human_normalized_score(self) -> float | None:
        """Of the score; None if the game is not one of the 26."""
        return float(human_normalized_score(self.game, self.score)) if self.game in games() else None

    @property
    def device_hours(self) -> float:
        """Hours of training on one whole device."""
        return self.wall_seconds / 3600 * self.device_share

    def as_dict(self) -> dict[str, Any]:
        """What a result file holds: all fields, and the human-normalised score."""
        return {**asdict(self), "human_normalized_score": self.human_normalized_score}

    def save(self, path: str | Path) -> None:
        """Write the file, and its folder if missing: whole or not at all."""
        path = Path(path)
        durable.make_folder(path.parent)
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False)
        durable.replace_file(path, f"{text}\n".encode())


def load_result(path: str | Path) -> RunResult:
    """Read and check a result file.

    Raises FileNotFoundError, or ValueError in one line naming the file, the field, what it is and what it
    should be.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    try:
        stated = raw.pop("human_normalized_score") if "human_normalized_score" in raw else None
        result = build_config(RunResult, raw)
        expected = result.human_normalized_score
        if stated != expected and (stated is None or expected is None or not math.isclose(stated, expected)):
            raise ValueError(f"human_normalized_score: got {stated}, expected {expected} from the returns")
        return result
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
