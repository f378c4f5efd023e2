"""The job list: which runs a benchmark consists of, and which are done, half done or missing on disk."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from iris_wm.checkpoint import durable
from iris_wm.evaluation.protocol import ENV_STEPS, EPISODES
from iris_wm.evaluation.result import BENCHMARK_FILE, RESULT_FILE, load_result

FIT = (
    *("{python}", "-m", "iris_wm", "fit", "--config", "{config}", "--run", "{run}"),
    *("--seed", "{seed}", "--env.id", "{game}"),
)
EVALUATE = (
    *("{python}", "-m", "iris_wm", "evaluate", "{run}"),
    *("--episodes", "{episodes}", "--preset", "{preset}", "--output", "{result}"),
)


class State(StrEnum):
    """How far a job is, from what lies on disk; `REFUSED` has a result that is not this job's."""

    DONE = "done"
    HALF_DONE = "half done"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True)
class Job:
    """One run: `game` and `seed` trained with `preset` in the run folder `run`."""

    game: str
    seed: int
    preset: str
    run: Path

    @property
    def name(self) -> str:
        """Unique among the benchmark's jobs: Breakout-seed0."""
        return f"{self.game}-seed{self.seed}"

    @property
    def result_file(self) -> Path:
        """Where the job's result is, once it is done."""
        return self.run / RESULT_FILE


@dataclass(frozen=True)
class Plan:
    """A benchmark: games x seeds with one preset, below the folder `output`.

    config: the preset's YAML file. env_steps, episodes: what a finished run must have. fit, evaluate: the
    commands of a job; {python}, {config}, {preset}, {run}, {result}, {game}, {seed}, {episodes} and {env_steps} are
    filled in. overrides: further arguments of `fit`, as on its command line.
    """

    output: Path
    preset: str
    config: Path
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    env_steps: int = ENV_STEPS
    episodes: int = EPISODES
    overrides: tuple[str, ...] = ()
    fit: tuple[str, ...] = FIT
    evaluate: tuple[str, ...] = EVALUATE

    def __post_init__(self) -> None:
        for name in ("games", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: got {list(values)}, expected one or more, each once")
        if not 1 <= self.env_steps <= ENV_STEPS:
            raise ValueError(
                f"env_steps: got {self.env_steps}, expected 1 to {ENV_STEPS}: Atari 100k allows no more"
            )
        if self.episodes < 1:
            raise ValueError(f"episodes: got {self.episodes}, expected 1 or more")

    @property
    def jobs(self) -> list[Job]:
        """All jobs, a whole seed of every game before the next, so that a part is a fair part."""
        return [
            Job(game, seed, self.preset, self.output / "runs" / f"{game}-seed{seed}")
            for seed in self.seeds
            for game in self.games
        ]

    @property
    def recorded_config(self) -> Path:
        """The copy of `config` in the benchmark's folder, which the jobs read."""
        return self.output / f"{self.preset}.yaml"

    def identity(self) -> dict[str, object]:
        """What all runs of a folder must share; games and seeds may be added later."""
        return {
            "preset": self.preset,
            "config_sha256": hashlib.sha256(self.config.read_bytes()).hexdigest(),
            "overrides": list(self.overrides),
            "env_steps": self.env_steps,
            "episodes": self.episodes,
        }

    def check_output(self) -> None:
        """ValueError if the folder holds a benchmark with other settings."""
        path = self.output / BENCHMARK_FILE
        if not path.exists():
            return
        there = json.loads(path.read_text(encoding="utf-8"))
        for key, value in self.identity().items():
            if there.get(key) != value:
                raise ValueError(
                    f"{path}: {key}: got {value!r}, but the runs here have {there.get(key)!r}; "
                    "choose another --output"
                )

    def claim_output(self) -> None:
        """Record the benchmark in its folder, so that a later one with other settings is refused."""
        self.check_output()
        path = self.output / BENCHMARK_FILE
        if path.exists():
            return
        durable.make_folder(self.output)
        durable.replace_file(self.recorded_config, self.config.read_bytes())
        durable.replace_file(path, f"{json.dumps(self.identity(), indent=1)}\n".encode())


@dataclass(frozen=True)
class Status:
    """A job's state and, unless done or missing, why."""

    state: State
    reason: str = ""


def inspect(job: Job, plan: Plan) -> Status:
    """Find a job's state from its folder alone.

    Done needs a valid result file of this game, seed and preset with exactly `plan.env_steps` env steps and
    `plan.episodes` episodes. A torn or short result is half done: running the job again completes it. One of
    another run, or with more env steps than allowed, is refused and never overwritten.
    """
    if not job.run.is_dir() or not any(job.run.iterdir()):
        return Status(State.MISSING)
    try:
        result = load_result(job.result_file)
    except FileNotFoundError:
        return Status(State.HALF_DONE, "no result yet")
    except ValueError as error:
        return Status(State.HALF_DONE, str(error))
    for key in ("game", "seed", "preset"):
        if getattr(result, key) != getattr(job, key):
            return Status(
                State.REFUSED,
                f"{job.result_file}: {key}: got {getattr(result, key)!r}, expected {getattr(job, key)!r}",
            )
    if result.env_steps > plan.env_steps:
        return Status(
            State.REFUSED, f"took {result.env_steps:,} env steps, the benchmark allows {plan.env_steps:,}"
        )
    if result.env_steps < plan.env_steps:
        return Status(State.HALF_DONE, f"{result.env_steps:,} of {plan.env_steps:,} env steps")
    if result.evaluation.episodes != plan.episodes:
        return Status(
            State.HALF_DONE, f"evaluated on {result.evaluation.episodes} of {plan.episodes} episodes"
        )
    return Status(State.DONE)
