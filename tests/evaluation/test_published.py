"""The published scores: complete, and their known aggregates to three decimals."""

import numpy as np
import pytest

from iris_wm.envs.atari100k import GAMES
from iris_wm.evaluation import scores
from iris_wm.evaluation.published import REFERENCES, games, published, published_method
from iris_wm.evaluation.scores import human_normalized_score, human_normalized_table

FIGURES = [
    ("IRIS", scores.mean, 1.046),
    ("IRIS", scores.median, 0.289),
    ("IRIS", scores.iqm_over_runs, 0.501),
    ("SimPLe", scores.mean, 0.332),
    ("SimPLe", scores.iqm_over_runs, 0.130),
    ("TWM", scores.mean, 0.956),
    ("TWM", scores.iqm_over_runs, 0.459),
    ("DIAMOND", scores.mean, 1.459),
    ("DIAMOND", scores.iqm_over_runs, 0.641),
    ("REM", scores.mean, 1.222),
    ("Simulus", scores.iqm_over_runs, 0.990),
]


@pytest.mark.parametrize(("method", "statistic", "expected"), FIGURES)
def test_published_figures(method: str, statistic: scores.Statistic, expected: float):
    assert round(float(statistic(human_normalized_table(published()[method].scores))), 3) == expected


@pytest.mark.parametrize(("method", "expected"), [("IRIS", 10), ("DIAMOND", 11), ("TWM", 8)])
def test_published_numbers_of_superhuman_games(method: str, expected: int):
    assert scores.num_games_above_human(human_normalized_table(published()[method].scores)) == expected


def test_every_method_is_complete():
    assert len(published()) == 23
    assert len(games()) == 26
    for method in published().values():
        assert sorted(method.scores) == games()
        assert method.source
        assert all(np.isfinite(runs).all() and len(runs) for runs in method.scores.values())
        assert method.per_run == (max(len(runs) for runs in method.scores.values()) > 1)
        known = [method.gpu_model, method.num_gpus, method.hours_per_run, method.hours]
        assert all(known) or not any(known), method.name


def test_gpu_hours_count_the_share_of_a_gpu():
    assert published_method("IRIS").gpu_hours == 84  # a week on half a GPU
    assert published_method("EfficientZero").gpu_hours == 28  # seven hours on four
    assert published_method("REM").gpu_hours is None


def test_ragged_methods_load():
    table = human_normalized_table(published_method("BBF (released csv, RR8)").scores)
    assert table.shape == (60, 26)
    assert np.isnan(table).any()


def test_references_normalise_to_nought_and_one():
    assert set(REFERENCES) <= set(published())
    for game in games():
        assert human_normalized_score(game, published()["Random"].scores[game]).tolist() == [0.0]
        assert human_normalized_score(game, published()["Human"].scores[game]).tolist() == [1.0]


def test_a_subset_of_games_keeps_its_order():
    table = human_normalized_table(published_method("IRIS").scores, ["Pong", "Alien"])
    assert table[:, 0] == pytest.approx(human_normalized_score("Pong", published()["IRIS"].scores["Pong"]))


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match="published method: got 'Iris', expected one of SimPLe, CURL"):
        published_method("Iris")
    with pytest.raises(ValueError, match="game: got 'Doom'"):
        human_normalized_score("Doom", 1.0)


def test_the_environments_know_the_same_games():
    assert sorted(GAMES) == games()
    assert all(published()["Human"].scores[game][0] > published()["Random"].scores[game][0] for game in GAMES)


def test_human_normalized_scores():
    assert human_normalized_score("Breakout", 1.7) == 0.0
    assert human_normalized_score("Breakout", 30.5) == 1.0
    assert human_normalized_score("Pong", [-20.7 + 35.3 / 2]) == pytest.approx([0.5])
