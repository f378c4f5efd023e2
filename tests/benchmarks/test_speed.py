"""The speed table: every row is measured, and what follows from rows follows."""

import json
from dataclasses import replace

import pytest
import torch
from clock import Clock, Row
from projection import frames_a_segment, project
from rows import SIZES, Bench, Sizes
from run import main, measure

from iris_wm.config import build_config, dump_yaml
from iris_wm.strict_yaml import parse_yaml

TINY = Sizes(
    frames=2, rollout_batches=(2,), horizon=2, update_batch=2, burn_in=2, context=3, rounds=2,
    scaling_batches=(1, 2), scaling_horizons=(2, 3), scaling_contexts=(2, 3),
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tiny_run):
    rows: list[Row] = []
    results = measure(tiny_run(), TINY, Clock("cpu"), rows.append)
    return rows, results


def test_every_row_has_a_reference_and_ratios(table):
    rows, results = table
    names = [row.name.split(",")[0].split(":")[0] for row in rows]
    assert {"tokenizer", "acting", "collection", "imagination", "world model", "actor-critic"} == set(names)
    for row, stored in zip(rows, results["rows"], strict=True):
        assert {"reference", "exact", "bf16"} <= set(row.seconds)
        if "imagination" in row.name or "update," in row.name:
            assert {"parallel", "parallel bf16"} <= set(row.seconds)
        assert all(seconds > 0 for seconds in row.seconds.values())
        assert stored["ratios"]["reference"] == 1.0
        assert row.ratio("exact") == pytest.approx(row.seconds["reference"] / row.seconds["exact"])
        if row.name != "collection":
            assert set(row.peak_mb) == set(row.seconds)


def test_growth_projection_and_machine_are_plain_values(table):
    _, results = table
    assert json.loads(json.dumps(results))["rows"] == results["rows"]
    assert [point["x"] for point in results["scaling"]["horizon"]] == [2, 3]
    assert [point["x"] for point in results["scaling"]["context"]] == [2, 3]
    assert results["machine"]["torch"] == torch.__version__
    assert results["machine"]["clock"] == "cpu"


def test_a_run_is_projected_from_its_rows(table, tiny_run):
    rows, results = table
    config = tiny_run()
    projected = results["projection"]["exact"]
    seconds = {row.name.split(":")[0]: row.seconds["exact"] for row in rows if "step" not in row.unit}
    update = next(row.seconds["exact"] for row in rows if row.name.startswith("tokenizer: training"))
    steps = config.tokenizer.optimization.steps_per_epoch
    expected = steps * update * config.tokenizer.optimization.batch_size / TINY.frames
    assert projected["epoch_tokenizer_seconds"] == pytest.approx(expected)
    assert projected["epoch_seconds"] > seconds["actor-critic"]
    assert projected["run_hours"] * 3600 > projected["epoch_seconds"]


def test_an_agent_that_sees_tokens_is_measured_without_a_reference(tiny_run):
    config = tiny_run("policy.inputs=tokens", "world.prediction=parallel")
    results = measure(config, replace(TINY, scaling_batches=(1,), scaling_horizons=(2,)), Clock("cpu"))
    for row in results["rows"]:
        assert set(row["seconds"]) == {"parallel", "parallel bf16"}
        assert row["ratios"]["parallel"] is None


def test_a_row_ends_when_its_time_is_up(tiny_run):
    calls: list[str] = []
    work = {"exact": lambda: calls.append("exact"), "bf16": lambda: calls.append("bf16")}
    for seconds, rounds in ((0.0, 1), (60.0, 3)):
        calls.clear()
        started: list[str] = []
        bench = Bench(
            tiny_run(), replace(TINY, rounds=3, row_seconds=seconds), Clock("cpu"), on_start=started.append
        )
        bench.measure("a row", "frames", 1, work, warm_up=False)
        assert calls == ["exact", "bf16"] * rounds
        assert started[0] == "a row: exact, round 1 of at most 3"
        assert len(started) == len(calls)


def test_some_parts_alone(tiny_run):
    results = measure(tiny_run(), TINY, Clock("cpu"), parts=("acting",))
    assert [row["name"] for row in results["rows"]] == ["acting, batch 1"]
    assert results["projection"] == results["scaling"] == {}


def test_a_projection_without_a_phase_is_none(table, tiny_run):
    rows, _ = table
    assert project(tiny_run(), rows, frames=2, update_batch=2)
    some = [row for row in rows if not row.name.startswith("collection")]
    assert project(tiny_run(), some, frames=2, update_batch=2) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--parts acting,walking", "--parts: got 'walking', expected some of tokenizer, acting"),
        ("--parts collection", "--parts: collection needs acting, too"),
        ("--threads -1", "--threads: got -1, expected 0"),
    ],
)
def test_impossible_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cpu", *options.split()])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_frames_a_segment(tiny_run):
    config = tiny_run()
    few = frames_a_segment(config, num_frames=10_000_000)  # hardly any frame is drawn twice
    steps, seen = config.world.segment_steps, config.imagination.burn_in + 1
    draws = config.world.optimization.batch_size * steps + config.policy.optimization.batch_size * seen
    segments = config.world.optimization.batch_size + config.policy.optimization.batch_size
    assert few["encode"] == pytest.approx(draws / segments, rel=1e-3)
    assert few["decode"] == pytest.approx(seen, rel=1e-3)
    assert frames_a_segment(config, num_frames=1)["decode"] < seen


def test_the_command_writes_what_it_prints(tmp_path, tiny_run, monkeypatch, capsys):
    monkeypatch.setitem(SIZES, "quick", TINY)
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(tiny_run()))
    output = tmp_path / "deep" / "speed.json"
    arguments = ["--config", str(config), "--device", "cpu", "--quick", "--output", str(output)]
    main(arguments)
    printed = capsys.readouterr().out
    assert "acting, batch 1" in printed
    assert "the whole run" in printed
    results = json.loads(output.read_text())
    assert (
        results["sizes"]["context"]
        <= build_config(type(tiny_run()), parse_yaml(config.read_text(), "config")).world.context_steps
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "--device: got cuda, but torch finds no GPU" in capsys.readouterr().err
