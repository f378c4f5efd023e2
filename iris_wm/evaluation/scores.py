"""Statistics of a benchmark's scores: aggregates, bootstrap intervals, profiles, comparisons.

A score table is float64 of shape (num_runs, num_games). Games may have different numbers of runs: a table
then has NaN where a game has no such run, see :func:`score_table`. Aggregates also take leading axes,
(..., num_runs, num_games), and work on each table by itself. The statistics are those of Agarwal et al.,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021).

With ragged runs, `mean`, `median`, `optimality_gap`, `performance_profile` and `probability_of_improvement`
weigh every game the same; `iqm_over_runs` pools runs, so there a game with more runs weighs more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iris_wm.evaluation.published import REFERENCES, games, published

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

_MAX_CHUNK = 4_000_000  # numbers resampled at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A 95% interval by stratified percentile bootstrap; arrays for a curve's points."""

    low: Array
    high: Array


@dataclass(frozen=True)
class ReturnSummary:
    """Returns of one policy's episodes: their mean, its 95% interval, their number. One episode has no spread."""

    mean: float
    low: float
    high: float
    num_episodes: int

    def __str__(self) -> str:
        return (
            f"mean return {self.mean:.2f} (95% {self.low:.2f} to {self.high:.2f}) "
            f"over {self.num_episodes} episodes"
        )


def human_normalized_score(game: str, score: ArrayLike) -> Array:
    """(score - random) / (human - random) of a number or an array: 0 plays like chance, 1 like the human reference.

    Raises ValueError for a game that is not one of the 26.
    """
    if game not in games():
        raise ValueError(f"game: got {game!r}, expected one of the 26 Atari 100k games: {', '.join(games())}")
    random, human = (published()[name].scores[game][0] for name in REFERENCES)
    return np.asarray((np.asarray(score, dtype=np.float64) - random) / (human - random))


def human_normalized_table(scores: Mapping[str, ArrayLike], of_games: Sequence[str] | None = None) -> Array:
    """Table (num_runs, num_games) of human-normalised scores, from game -> raw scores; by default of all its games."""
    of_games = list(scores) if of_games is None else of_games
    return score_table({game: human_normalized_score(game, scores[game]) for game in of_games})


def score_table(runs_of_games: Sequence[ArrayLike] | Mapping[str, ArrayLike]) -> Array:
    """Table (num_runs, num_games) from one list of run scores per game, NaN below the shorter ones.

    Raises ValueError for no games, a game without runs, or a score that is not a finite number.
    """
    if isinstance(runs_of_games, Mapping):
        named = list(runs_of_games.items())
    else:
        named = [(str(index), runs) for index, runs in enumerate(runs_of_games)]
    columns = [(name, np.atleast_1d(np.asarray(runs, dtype=np.float64))) for name, runs in named]
    for name, column in columns:
        if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
            raise ValueError(
                f"scores of game {name}: expected one or more finite numbers, got {column.tolist()}"
            )
    if not columns:
        raise ValueError("scores: expected at least one game, got none")
    table = np.full((max(len(column) for _, column in columns), len(columns)), np.nan)
    for index, (_, column) in enumerate(columns):
        table[: len(column), index] = column
    return table


def mean(scores: Array) -> Array:
    """Mean over games of each game's mean over runs: (..., num_runs, num_games) -> (...)."""
    return np.asarray(_game_means(scores).mean(axis=-1))


def median(scores: Array) -> Array:
    """Median over games of each game's mean over runs: (..., num_runs, num_games) -> (...)."""
    return np.asarray(np.median(_game_means(scores), axis=-1))


def iqm_over_runs(scores: Array) -> Array:
    """Interquartile mean of all runs of all games together: (..., num_runs, num_games) -> (...).

    The usual IQM of the field. The lowest and the highest floor(n / 4) of the n runs are left out.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    flat = np.sort(flat, axis=-1)  # NaN goes last
    num = int((~np.isnan(flat)).sum(axis=-1).max())
    return _trimmed_mean(flat[..., :num])


def iqm_over_game_means(scores: Array) -> Array:
    """Interquartile mean of the games' means over runs: (..., num_runs, num_games) -> (...).

    All that can be said where only game means are published; it is not comparable with `iqm_over_runs`.
    """
    return _trimmed_mean(np.sort(_game_means(scores), axis=-1))


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """How far runs fall short of `target` on average, more than it counting as it. Lower is better."""
    return np.asarray(target - _game_means(np.minimum(scores, target)).mean(axis=-1))


def num_games_above_human(scores: Array) -> Array:
    """Games whose human-normalised mean over runs is 1 or more: (..., num_runs, num_games) -> (...).

    A mean equal to the human score counts, as in published tables (IRIS in Pong).
    """
    return np.asarray((_game_means(scores) >= 1.0 - 1e-9).sum(axis=-1), dtype=np.float64)


def performance_profile(scores: Array, thresholds: ArrayLike) -> Array:
    """Share of runs that score above each threshold: (..., num_runs, num_games), (P,) -> (..., P)."""
    profile = [
        _game_means(np.where(np.isnan(scores), np.nan, scores > threshold)).mean(axis=-1)
        for threshold in np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    ]
    return np.stack(profile, axis=-1)


def probability_of_improvement(scores: Array, others: Array) -> float:
    """Chance that a run of `scores` beats a run of `others` in a game drawn at random; a tie counts half.

    Both tables hold the same games in the same order, with any numbers of runs.
    """
    return float(np.mean([wins.mean() for wins in _pairwise_wins(scores, others)]))


def bootstrap_interval(
    scores: Array, statistic: Statistic, *, num_resamples: int = 10_000, seed: int = 0
) -> Interval | None:
    """Percentile interval of `statistic` when runs are drawn again, with replacement, game by game.

    `statistic` maps (..., num_runs, num_games) to (...) or (..., P). None where some game has a single run:
    such a game would seem to have no spread at all.
    """
    counts = (~np.isnan(scores)).sum(axis=0)
    if counts.min() < 2:
        return None
    ordered = np.sort(scores, axis=0)  # real runs first, NaN last
    padding = np.arange(len(scores))[:, None] >= counts
    generator = np.random.default_rng(seed)
    chunk = max(1, _MAX_CHUNK // scores.size)
    values = []
    for start in range(0, num_resamples, chunk):
        uniform = generator.random((min(chunk, num_resamples - start), *scores.shape))
        drawn = np.take_along_axis(ordered[None], (uniform * counts).astype(np.intp), axis=1)
        drawn[:, padding] = np.nan
        values.append(statistic(drawn))
    return _percentiles(np.concatenate(values))


def bootstrap_improvement_interval(
    scores: Array, others: Array, *, num_resamples: int = 2_000, seed: int = 0
) -> Interval | None:
    """Percentile interval of `probability_of_improvement`, runs of both sides drawn again game by game."""
    generator = np.random.default_rng(seed)
    means = np.zeros(num_resamples)
    all_wins = _pairwise_wins(scores, others)
    for wins in all_wins:
        num, num_others = wins.shape
        if min(num, num_others) < 2:
            return None
        drawn = resample_counts(num, num_resamples, generator) / num
        others_drawn = resample_counts(num_others, num_resamples, generator) / num_others
        means += ((drawn @ wins) * others_drawn).sum(axis=1) / len(all_wins)
    return _percentiles(means)


def summarize_returns(returns: Sequence[float]) -> ReturnSummary:
    """Mean of episodes' returns with its 95% bootstrap interval."""
    table = score_table([returns])
    value = float(mean(table))
    interval = bootstrap_interval(table, mean) or Interval(np.asarray(value), np.asarray(value))
    return ReturnSummary(value, float(interval.low), float(interval.high), len(returns))


def resample_counts(num: int, num_resamples: int, generator: np.random.Generator) -> Array:
    """How often each of `num` units is drawn in each resample: (num_resamples, num), every row sums to `num`."""
    return generator.multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(np.float64)


def _game_means(scores: Array) -> Array:
    """(..., num_runs, num_games) -> (..., num_games), over the runs that exist."""
    return np.asarray(np.nanmean(scores, axis=-2))


def _trimmed_mean(ordered: Array) -> Array:
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def _pairwise_wins(scores: Array, others: Array) -> list[Array]:
    """Per game a matrix (runs, other runs): 1 where the run is better, 0.5 where it ties."""
    if scores.shape[-1] != others.shape[-1]:
        raise ValueError(
            f"scores: expected the same games twice, got {scores.shape[-1]} and {others.shape[-1]}"
        )
    wins = []
    for column, other in zip(scores.T, others.T, strict=True):
        column, other = column[~np.isnan(column), None], other[None, ~np.isnan(other)]
        wins.append((column > other) + 0.5 * (column == other))
    return wins


def _percentiles(values: Array) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    return Interval(low, high)
