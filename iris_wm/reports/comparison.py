"""The methods of a report side by side: own benchmark folders and published scores, on the same games."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from iris_wm.evaluation.protocol import ENV_STEPS, differences, refusal
from iris_wm.evaluation.published import games as all_games
from iris_wm.evaluation.published import published_method
from iris_wm.evaluation.result import BENCHMARK_FILE, RESULT_FILE, RunResult, load_result
from iris_wm.evaluation.scores import Array, human_normalized_table


@dataclass(frozen=True)
class Method:
    """One column of a report.

    scores: game -> raw scores, one for each run if `per_run`, else one published game mean. gpu_model,
    gpu_hours: of one run on average, None if unknown. settings: what of the protocol methods do differently,
    in words. results: the own runs, empty for a published method.
    """

    name: str
    is_own: bool
    per_run: bool
    scores: dict[str, list[float]]
    source: str
    gpu_model: str | None
    gpu_hours: float | None
    settings: dict[str, str]
    results: list[RunResult] = field(default_factory=list)

    def table(self, games: Sequence[str]) -> Array:
        """Human-normalised scores (num_runs, num_games)."""
        return human_normalized_table(self.scores, games)

    def num_runs(self, games: Sequence[str]) -> str:
        """Runs per game in words: "5", "52 to 60", or "means" where only game means are public."""
        if not self.per_run:
            return "means"
        low, high = (f(len(self.scores[game]) for game in games) for f in (min, max))
        return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Comparison:
    """Methods on the games that all of them have, own ones first; `notes` says what a reader must know."""

    games: list[str]
    methods: list[Method]
    notes: list[str]

    @property
    def own(self) -> list[Method]:
        """The methods that were run here."""
        return [method for method in self.methods if method.is_own]


def compare(
    outputs: Sequence[str | Path], names: Sequence[str] | None = None, published: Sequence[str] = ()
) -> Comparison:
    """Load benchmark folders and set them beside published methods.

    A result that cannot be read or took more than 100,000 env steps is left out and named in the notes, like
    every difference from the protocol. Raises ValueError for a folder without any usable result, for unknown
    methods and for names that do not match the folders.
    """
    folders = [Path(output).absolute() for output in outputs]
    names = [folder.name for folder in folders] if names is None else list(names)
    if len(names) != len(folders) or len({*names, *published}) != len(names) + len(published):
        raise ValueError(
            f"names: got {names}, expected {len(folders)}, each different and of no other method"
        )
    notes: list[str] = []
    own = [_own_method(output, name, notes) for output, name in zip(folders, names, strict=True)]
    methods = own + [_published(name) for name in published]
    games = [game for game in all_games() if all(game in method.scores for method in methods)]
    if not games:
        raise ValueError("report: the benchmark folders have no game in common")
    if len(games) < len(all_games()):
        notes.insert(0, f"All aggregates are over {len(games)} of the 26 games: {', '.join(games)}.")
    for method in own:
        if extra := sorted(set(method.scores) - set(games)):
            notes.append(f"{method.name}: left out, as another folder lacks them: {', '.join(extra)}.")
    if means := [method.name for method in methods if not method.per_run]:
        notes.append(
            f"Only game means are public for {', '.join(means)}: no IQM over runs, no optimality gap, no "
            "intervals and no profile for them."
        )
    return Comparison(games, methods, notes)


def _own_method(output: Path, name: str, notes: list[str]) -> Method:
    if not (output / BENCHMARK_FILE).is_file():
        raise ValueError(
            f"{output}: no {BENCHMARK_FILE} here, expected a folder of iris-wm benchmark atari100k"
        )
    budget = json.loads((output / BENCHMARK_FILE).read_text(encoding="utf-8"))["env_steps"]
    results: list[RunResult] = []
    runs = sorted((output / "runs").iterdir()) if (output / "runs").is_dir() else []
    unfinished = []
    for run in runs:
        try:
            result = load_result(run / RESULT_FILE)
        except FileNotFoundError:
            unfinished.append(run.name)
            continue
        except ValueError as error:
            notes.append(f"{name}: left out: {error}")
            continue
        if reason := refusal(result):
            notes.append(f"{name}: {reason}.")
        elif result.env_steps < budget:
            notes.append(f"{name}: left out: {run.name} has {result.env_steps:,} of {budget:,} env steps.")
        else:
            results.append(result)
    if not results:
        raise ValueError(f"{output}: no finished run, expected one or more; run iris-wm benchmark atari100k")
    if unfinished:
        notes.append(f"{name}: not finished and left out: {', '.join(unfinished)}.")
    if budget < ENV_STEPS:
        notes.append(
            f"{name} is a reduced run of {budget:,} env steps. It shows that the machinery works; its scores "
            f"are no Atari 100k scores and cannot be compared with the published ones."
        )
    counts = Counter(line for result in results for line in differences(result))
    for line, count in counts.items():
        notes.append(f"{name}: not as the protocol says in {count} of {len(results)} runs: {line}.")
    scores: dict[str, list[float]] = {}
    for result in sorted(results, key=lambda result: (result.game, result.seed)):
        scores.setdefault(result.game, []).append(result.score)
    return Method(
        name=name,
        is_own=True,
        per_run=True,
        scores=scores,
        source=f"this benchmark, {len(results)} runs, preset {results[0].preset}",
        gpu_model=_same([_gpu_model(result.device) or result.device for result in results]),
        gpu_hours=fmean(result.device_hours for result in results),
        settings={
            "sticky actions": _same([f"{result.evaluation.sticky_actions:g}" for result in results]),
            "life loss ends training episodes": _same(
                ["yes" if result.evaluation.life_loss_terminal else "no" for result in results]
            ),
            "evaluation": _same([_evaluation(result) for result in results]),
        },
        results=results,
    )


def _published(name: str) -> Method:
    method = published_method(name)
    unknown = "not stated"
    return Method(
        name=name,
        is_own=False,
        per_run=method.per_run,
        scores=method.scores,
        source=method.source,
        gpu_model=method.gpu_model,
        gpu_hours=method.gpu_hours,
        settings={
            "sticky actions": method.sticky_actions or unknown,
            "life loss ends training episodes": method.life_loss_terminal or unknown,
            "evaluation": method.evaluation or unknown,
        },
    )


def _evaluation(result: RunResult) -> str:
    record = result.evaluation
    return (
        f"final, {record.episodes} episodes, policy temperature {record.policy_temperature:g}, "
        f"epsilon {record.epsilon:g}, {'full games' if record.full_games else 'single lives'}, "
        f"no-ops up to {record.noop_max}, {record.resize}"
    )


def _gpu_model(device: str) -> str | None:
    """The short name of a GPU in a driver's name: "NVIDIA A100-SXM4-40GB" is an A100."""
    found = re.search(r"(RTX|GTX)\s?\d{4}(\s?Ti)?|\b[ABHLPTV]\d{1,4}S?\b", device)
    return found.group(0) if found else None


def _same(values: list[str]) -> str:
    """The value that all share, or all of them."""
    return " / ".join(dict.fromkeys(values))
