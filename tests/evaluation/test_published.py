"""The published scores: complete, and their known aggregates to three decimals."""

import numpy as np
import pytest

from iris_wm.evaluation import published, published_method, scores
from iris_wm.evaluation.published import REFERENCES, games, normalize

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
    assert round(float(statistic(published()[method].human_normalized_scores())), 3) == expected


@pytest.mark.parametrize(("method", "expected"), [("IRIS", 10), ("DIAMOND", 11), ("TWM", 8)])
def test_published_numbers_of_superhuman_games(method: str, expected: int):
    assert scores.num_games_above_human(published()[method].human_normalized_scores()) == expected


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
    table = published_method("BBF (released csv, RR8)").human_normalized_scores()
    assert table.shape == (60, 26)
    assert np.isnan(table).any()


def test_references_normalise_to_nought_and_one():
    assert set(REFERENCES) <= set(published())
    for game in games():
        assert normalize(game, published()["Random"].scores[game]).tolist() == [0.0]
        assert normalize(game, published()["Human"].scores[game]).tolist() == [1.0]


def test_a_subset_of_games_keeps_its_order():
    table = published_method("IRIS").human_normalized_scores(["Pong", "Alien"])
    assert table[:, 0] == pytest.approx(normalize("Pong", published()["IRIS"].scores["Pong"]))


def test_the_function_is_not_hidden_by_its_module():
    import iris_wm.evaluation.published

    assert callable(iris_wm.evaluation.published)


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match="published method: got 'Iris', expected one of SimPLe, CURL"):
        published_method("Iris")
    with pytest.raises(ValueError, match="game: got 'Doom'"):
        normalize("Doom", 1.0)


def test_the_environment_part_has_the_same_references():
    envs = pytest.importorskip("iris_wm.envs.atari100k")
    assert sorted(envs.GAMES) == games()
    for name, table in (("Random", envs.RANDOM_SCORES), ("Human", envs.HUMAN_SCORES)):
        assert {game: [score] for game, score in table.items()} == published()[name].scores
