"""Statistics against hand-made cases, rliable's recorded figures, and rliable itself where installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_wm.evaluation import scores
from iris_wm.evaluation.published import published

ORACLE = json.loads((Path(__file__).parent / "fixtures" / "rliable_scores.json").read_text(encoding="utf-8"))
AGGREGATES = {
    "mean": scores.mean,
    "median": scores.median,
    "iqm_over_runs": scores.iqm_over_runs,
    "optimality_gap": scores.optimality_gap,
}


def table_of(method: str) -> scores.Array:
    return scores.human_normalized_table(published()[method].scores)


def test_aggregates_by_hand():
    table = scores.score_table([[0.0, 1.0], [2.0, 4.0], [0.5, 0.5]])
    assert scores.mean(table) == pytest.approx((0.5 + 3.0 + 0.5) / 3)
    assert scores.median(table) == 0.5
    # six runs, floor(6 / 4) = 1 cut at each end of 0, .5, .5, 1, 2, 4
    assert scores.iqm_over_runs(table) == pytest.approx((0.5 + 0.5 + 1.0 + 2.0) / 4)
    # three game means, none cut
    assert scores.iqm_over_game_means(table) == pytest.approx(4.0 / 3)
    assert scores.optimality_gap(table) == pytest.approx(1 - (0.5 + 1.0 + 0.5) / 3)
    assert scores.num_games_above_human(table) == 1


def test_the_two_iqms_differ():
    table = table_of("IRIS")
    assert float(scores.iqm_over_runs(table)) == pytest.approx(0.501, abs=5e-4)
    assert float(scores.iqm_over_game_means(table)) == pytest.approx(0.543, abs=5e-4)


def test_ragged_runs():
    table = scores.score_table({"A": [1.0, 2.0, 3.0, 6.0], "B": [10.0], "C": [0.0, 0.5]})
    assert table.shape == (4, 3)
    assert np.isnan(table).sum() == 5
    assert scores.mean(table) == pytest.approx((3.0 + 10.0 + 0.25) / 3)  # every game the same weight
    assert scores.median(table) == 3.0
    assert scores.iqm_over_runs(table) == pytest.approx(
        (0.5 + 1 + 2 + 3 + 6) / 5
    )  # every run the same weight
    assert scores.performance_profile(table, [2.0]).tolist() == pytest.approx([(0.5 + 1 + 0) / 3])
    assert scores.bootstrap_interval(table, scores.mean) is None  # B has one run: its spread is unknown
    two = scores.score_table({"A": [1.0, 2.0, 3.0, 6.0], "C": [0.0, 0.5]})
    interval = scores.bootstrap_interval(two, scores.mean)
    assert interval is not None
    assert interval.low < scores.mean(two) < interval.high


def test_the_order_of_ragged_runs_does_not_matter():
    table = scores.score_table([[1.0, 2.0, 5.0], [3.0, 4.0]])
    shuffled = np.array([[2.0, np.nan], [1.0, 3.0], [5.0, 4.0]])
    for statistic in (*AGGREGATES.values(), scores.iqm_over_game_means):
        assert statistic(table) == pytest.approx(statistic(shuffled))
    assert scores.bootstrap_interval(table, scores.mean) == scores.bootstrap_interval(
        shuffled[[1, 0, 2]], scores.mean
    )


def test_aggregates_take_leading_axes():
    tables = np.random.default_rng(0).random((3, 2, 5, 7))
    for statistic in (*AGGREGATES.values(), scores.iqm_over_game_means, scores.num_games_above_human):
        result = statistic(tables)
        assert result.shape == (3, 2)
        assert result[1, 0] == pytest.approx(statistic(tables[1, 0]))
    assert scores.performance_profile(tables, [0.1, 0.5]).shape == (3, 2, 2)


def test_scores_must_be_numbers():
    with pytest.raises(ValueError, match="scores of game Pong: expected one or more finite numbers"):
        scores.score_table({"Pong": [1.0, float("nan")]})
    with pytest.raises(ValueError, match="at least one game"):
        scores.score_table([])
    with pytest.raises(ValueError, match="same games"):
        scores.probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 4)))


def test_probability_of_improvement_by_hand():
    ours = scores.score_table([[1.0, 3.0], [2.0]])
    theirs = scores.score_table([[2.0, 0.0, 3.0], [2.0]])
    # first game: 1 beats 0 only; 3 beats 2 and 0 and ties 3; second game: a tie
    assert scores.probability_of_improvement(ours, theirs) == pytest.approx(((1 + 2.5) / 6 + 0.5) / 2)
    assert scores.probability_of_improvement(ours, ours) == pytest.approx(0.5)
    assert scores.bootstrap_improvement_interval(ours, theirs) is None


@given(st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=6), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_properties(runs_of_games: list[list[float]]):
    table = scores.score_table(runs_of_games)
    everything = np.concatenate([np.array(runs) for runs in runs_of_games])
    for statistic in (scores.mean, scores.median, scores.iqm_over_runs, scores.iqm_over_game_means):
        assert everything.min() - 1e-9 <= statistic(table) <= everything.max() + 1e-9
        assert statistic(table + 1) == pytest.approx(statistic(table) + 1)
        interval = scores.bootstrap_interval(table, statistic, num_resamples=50)
        assert interval is not None
        assert everything.min() - 1e-9 <= interval.low <= interval.high <= everything.max() + 1e-9
    chance = scores.probability_of_improvement(table, table + 0.1)
    assert chance + scores.probability_of_improvement(table + 0.1, table) == pytest.approx(1.0)


def test_the_bootstrap_is_repeatable_and_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch):
    table = table_of("IRIS")
    first = scores.bootstrap_interval(table, scores.median, num_resamples=300, seed=3)
    monkeypatch.setattr(scores, "_MAX_CHUNK", table.size * 7)
    assert scores.bootstrap_interval(table, scores.median, num_resamples=300, seed=3) == first
    assert scores.bootstrap_interval(table, scores.median, num_resamples=300, seed=4) != first


@pytest.mark.parametrize("method", sorted(ORACLE["aggregates"]))
@pytest.mark.parametrize("aggregate", sorted(AGGREGATES))
def test_aggregates_equal_rliable(method: str, aggregate: str):
    table = table_of(method)
    value, low, high = ORACLE["aggregates"][method][aggregate]
    assert AGGREGATES[aggregate](table) == pytest.approx(value, abs=1e-9)
    interval = scores.bootstrap_interval(table, AGGREGATES[aggregate], num_resamples=20_000)
    assert interval is not None
    tolerance = 0.03 * (high - low) + 1e-3  # of two bootstraps with different random numbers
    assert interval.low == pytest.approx(low, abs=tolerance)
    assert interval.high == pytest.approx(high, abs=tolerance)


@pytest.mark.parametrize("pair", sorted(ORACLE["probability_of_improvement"]))
def test_probability_of_improvement_equals_rliable(pair: str):
    ours, theirs = (table_of(name) for name in pair.split(" > "))
    value, low, high = ORACLE["probability_of_improvement"][pair]
    assert scores.probability_of_improvement(ours, theirs) == pytest.approx(value, abs=1e-9)
    interval = scores.bootstrap_improvement_interval(ours, theirs)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-3)


@pytest.mark.parametrize("method", sorted(ORACLE["profiles"]))
def test_profiles_equal_rliable(method: str):
    table, thresholds = table_of(method), ORACLE["thresholds"]
    values, low, high = ORACLE["profiles"][method]
    assert scores.performance_profile(table, thresholds) == pytest.approx(values, abs=1e-9)
    interval = scores.bootstrap_interval(
        table, lambda drawn: scores.performance_profile(drawn, thresholds), num_resamples=2000
    )
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.012)
    assert interval.high == pytest.approx(high, abs=0.012)


def test_against_rliable_itself():
    metrics = pytest.importorskip("rliable.metrics", exc_type=Exception)
    table = np.random.default_rng(1).normal(0.5, 1.0, size=(7, 11))
    others = np.random.default_rng(2).normal(0.4, 1.0, size=(7, 11))
    assert scores.mean(table) == pytest.approx(metrics.aggregate_mean(table))
    assert scores.median(table) == pytest.approx(metrics.aggregate_median(table))
    assert scores.iqm_over_runs(table) == pytest.approx(metrics.aggregate_iqm(table))
    assert scores.optimality_gap(table) == pytest.approx(metrics.aggregate_optimality_gap(table))
    expected = np.squeeze(metrics.probability_of_improvement(table, others))
    assert scores.probability_of_improvement(table, others) == pytest.approx(expected)
