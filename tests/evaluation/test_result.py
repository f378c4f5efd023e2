"""The result file: exact round trip, and one clear line for anything wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from iris_wm.evaluation.result import CurvePoint, EvaluationRecord, RunResult, load_result


def make_result(**changes: Any) -> RunResult:
    evaluation = EvaluationRecord(
        episodes=2,
        returns=[12.1, 24.1],
        lengths=[100, 200],
        policy_temperature=0.5,
        epsilon=0.0,
        sticky_actions=0.0,
        noop_max=30,
        max_emulator_frames=108_000,
        life_loss_terminal=True,
        resize="bilinear_then_max",
        seed=7,
        full_games=True,
    )
    values: dict[str, Any] = {
        "game": "Boxing",
        "seed": 0,
        "preset": "demo",
        "config_hash": "abc",
        "package_version": "0.1.0",
        "commit": None,
        "env_steps": 100_000,
        "epochs": 600,
        "wall_seconds": 3600.0,
        "device": "cpu",
        "evaluation": evaluation,
        "curve": [CurvePoint(1000, 5, 1.0, [1.0]), CurvePoint(2000, 10, 2.0, [2.0])],
    }
    return RunResult(**(values | changes))


def test_round_trip(tmp_path: Path):
    result = make_result(device_share=0.5)
    path = tmp_path / "run" / "result.json"
    result.save(path)
    assert load_result(path) == result
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
    assert result.score == pytest.approx(18.1)
    assert result.device_hours == 0.5


def test_whole_numbers_may_stand_for_floats(tmp_path: Path):
    make_result().save(tmp_path / "result.json")
    raw = json.loads((tmp_path / "result.json").read_text())
    raw["wall_seconds"] = 3600
    (tmp_path / "result.json").write_text(json.dumps(raw))
    assert load_result(tmp_path / "result.json") == make_result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, 'seed: got "0", expected a whole number'),
        ({"env_steps": True}, "env_steps: got true, expected a whole number"),
        ({"commit": 3}, "commit: got 3, expected text"),
        ({"curve": {}}, "curve: got {}, expected a list"),
        ({"surprise": 1}, 'unknown key "surprise"'),
        ({"evaluation": None}, "evaluation: got null, expected a section"),
        ({"format": 2}, "format: got 2, expected 1"),
        ({"human_normalized_score": 1.4}, "human_normalized_score: got 1.4, expected 1.5"),
        ({"human_normalized_score": None}, "human_normalized_score: got None, expected 1.5"),
        ({"wall_seconds": -1.0}, "wall_seconds: got -1.0, expected a number of at least 0"),
        (
            {"curve": [{"env_steps": 1, "epoch": 0, "mean_return": "x", "returns": []}]},
            r"curve\[0\].mean_return",
        ),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str):
    path = tmp_path / "result.json"
    make_result().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as error:
        load_result(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_torn_file_is_refused(tmp_path: Path):
    path = tmp_path / "result.json"
    make_result().save(path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="expected JSON"):
        load_result(path)


def test_a_missing_field_is_named(tmp_path: Path):
    path = tmp_path / "result.json"
    make_result().save(path)
    raw = json.loads(path.read_text())
    del raw["evaluation"]["policy_temperature"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r'missing key "evaluation.policy_temperature"'):
        load_result(path)


def test_other_games_have_no_human_normalized_score(tmp_path: Path):
    assert make_result().human_normalized_score == pytest.approx(1.5)
    assert make_result(game="Tetris").human_normalized_score is None
    path = tmp_path / "result.json"
    make_result().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"game": "Tetris"}))
    with pytest.raises(ValueError, match=r"human_normalized_score: got 1\.5, expected None"):
        load_result(path)


def test_curves_must_rise():
    with pytest.raises(ValueError, match="curve"):
        make_result(curve=[CurvePoint(2000, 5, 1.0, [1.0]), CurvePoint(1000, 10, 2.0, [2.0])])
