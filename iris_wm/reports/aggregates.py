"""A comparison in numbers: aggregates with intervals, chances of improvement, curves over env steps."""

from dataclasses import dataclass

import numpy as np

from iris_wm.evaluation import scores
from iris_wm.evaluation.result import RunResult
from iris_wm.reports.comparison import Comparison, Method

_MAX_POINTS = 60


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; both ends None where no interval can be had."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Aggregates:
    """A method's human-normalised aggregates; None where they would need scores of single runs."""

    mean: Estimate
    median: Estimate
    iqm_over_runs: Estimate | None
    iqm_over_game_means: Estimate
    optimality_gap: Estimate | None
    num_games_above_human: int


@dataclass(frozen=True)
class SampleEfficiency:
    """Aggregates against env steps: env_steps (P,); each of mean and iqm (P, 3): value, low, high (or NaN)."""

    env_steps: scores.Array
    mean: scores.Array
    iqm_over_runs: scores.Array


def aggregate(method: Method, games: list[str]) -> Aggregates:
    """All aggregates of a method over `games`."""
    table = method.table(games)

    def estimate(statistic: scores.Statistic) -> Estimate:
        interval = scores.bootstrap_interval(table, statistic) if method.per_run else None
        value = float(statistic(table))
        return Estimate(value, float(interval.low), float(interval.high)) if interval else Estimate(value)

    return Aggregates(
        mean=estimate(scores.mean),
        median=estimate(scores.median),
        iqm_over_runs=estimate(scores.iqm_over_runs) if method.per_run else None,
        iqm_over_game_means=estimate(scores.iqm_over_game_means),
        optimality_gap=estimate(scores.optimality_gap) if method.per_run else None,
        num_games_above_human=int(scores.num_games_above_human(table)),
    )


def improvements(comparison: Comparison) -> dict[tuple[str, str], Estimate]:
    """(own, other) -> chance that a run of the own method beats one of the other in a random game."""
    found = {}
    for own in comparison.own:
        for other in comparison.methods:
            if other is own or not other.per_run:
                continue
            tables = own.table(comparison.games), other.table(comparison.games)
            interval = scores.bootstrap_improvement_interval(*tables)
            ends = (float(interval.low), float(interval.high)) if interval else (None, None)
            found[own.name, other.name] = Estimate(scores.probability_of_improvement(*tables), *ends)
    return found


def sample_efficiency(method: Method, games: list[str]) -> SampleEfficiency | None:
    """Aggregates of an own method during training, None where some run has no curve.

    Between its evaluations a run counts with the last one; only env steps that every run has reached, and that
    none had its first evaluation after, are shown.
    """
    runs = [result for result in method.results if result.game in games]
    if not runs or not all(result.curve for result in runs):
        return None
    first = max(result.curve[0].env_steps for result in runs)
    last = min(result.curve[-1].env_steps for result in runs)
    curves = [(result.game, curve_of(result)) for result in runs]
    steps = sorted({step for _, curve in curves for step in curve if first <= step <= last})
    if not steps:
        return None
    if len(steps) > _MAX_POINTS:
        steps = [steps[index] for index in np.linspace(0, len(steps) - 1, _MAX_POINTS).astype(int)]
    means, iqms = [], []
    for step in steps:
        by_game: dict[str, list[float]] = {game: [] for game in games}
        for game, curve in curves:
            reached = max(at for at in curve if at <= step)
            by_game[game].append(curve[reached])
        table = scores.human_normalized_table(by_game)
        means.append(_with_interval(table, scores.mean))
        iqms.append(_with_interval(table, scores.iqm_over_runs))
    return SampleEfficiency(np.array(steps, dtype=np.float64), np.array(means), np.array(iqms))


def curve_of(result: RunResult) -> dict[int, float]:
    """Env steps -> mean return; where several evaluations had the same env steps, the last one."""
    return {point.env_steps: point.mean_return for point in result.curve}


def _with_interval(table: scores.Array, statistic: scores.Statistic) -> tuple[float, float, float]:
    interval = scores.bootstrap_interval(table, statistic, num_resamples=2000)
    value = float(statistic(table))
    return (value, float(interval.low), float(interval.high)) if interval else (value, np.nan, np.nan)
