"""The report of a small benchmark: figures, refusals, files, and the page."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_wm.benchmark.jobs import Plan
from iris_wm.benchmark.process import run_job
from iris_wm.evaluation import scores
from iris_wm.evaluation.protocol import ENV_STEPS, differences, refusal
from iris_wm.evaluation.published import games, published_method
from iris_wm.evaluation.result import load_result
from iris_wm.reports.aggregates import aggregate, improvements, sample_efficiency
from iris_wm.reports.benchmark_report import write_benchmark_report
from iris_wm.reports.comparison import compare
from iris_wm.reports.comparison_tables import aggregate_table, readme_table
from iris_wm.reports.table import Table

MakePlan = Callable[..., Plan]


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory, fake_commands: dict[str, tuple[str, ...]]) -> Plan:
    """Two games, two seeds, all done with the whole budget."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "tiny.yaml").write_text("seed: 0\n")
    plan = Plan(
        output=folder / "bench",
        preset="tiny",
        config=folder / "tiny.yaml",
        games=("Boxing", "Pong"),
        seeds=(0, 1),
        env_steps=ENV_STEPS,
        episodes=2,
        **fake_commands,
    )
    plan.claim_output()
    for job in plan.jobs:
        assert run_job(job, plan).ok
    return plan


@pytest.fixture
def done(done_once: Plan, tmp_path: Path) -> Plan:
    """A copy of the finished benchmark that a test may damage."""
    shutil.copytree(done_once.output, tmp_path / "bench")
    return replace(done_once, output=tmp_path / "bench")


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_published_figures_come_out_of_the_tables():
    names = ["IRIS", "SimPLe", "TWM", "DIAMOND", "REM", "Simulus", "EfficientZero"]
    comparison = compare([], [], names)
    assert comparison.games == games()
    table = aggregate_table(comparison, {m.name: aggregate(m, comparison.games) for m in comparison.methods})
    shown = {row[0]: [cell.split()[0] for cell in row[1:]] for row in table.rows}
    #                          runs  IQM runs  IQM games  median   mean
    assert shown["IRIS"][:5] == ["5", "0.501", "0.543", "0.289", "1.046"]
    assert shown["SimPLe"][1] == "0.130"
    assert shown["SimPLe"][4] == "0.332"
    assert shown["TWM"][1::3] == ["0.459", "0.956"]
    assert shown["DIAMOND"][1::3] == ["0.641", "1.459"]
    assert shown["REM"][4] == "1.222"
    assert shown["Simulus"][1] == "0.990"
    assert shown["EfficientZero"][:3] == [
        "means",
        "–",
        "1.047",
    ]  # a game-mean IQM never poses as one over runs
    assert shown["EfficientZero"][5] == "–"


def test_own_figures(done: Plan):
    comparison = compare([done.output], ["ours"], ["IRIS", "EfficientZero"])
    assert comparison.games == ["Boxing", "Pong"]
    ours = comparison.methods[0]
    runs = [load_result(job.result_file) for job in done.jobs]
    expected = scores.score_table(
        [[r.human_normalized_score for r in runs if r.game == game] for game in comparison.games]  # type: ignore[misc]
    )
    figures = aggregate(ours, comparison.games)
    assert figures.mean.value == pytest.approx(float(scores.mean(expected)))
    assert figures.iqm_over_runs is not None
    assert figures.iqm_over_runs.low is not None
    assert figures.iqm_over_runs.value == pytest.approx(float(scores.iqm_over_runs(expected)))
    assert ours.gpu_hours == pytest.approx(0.01)
    chances = improvements(comparison)
    assert list(chances) == [("ours", "IRIS")]
    assert 0 <= chances["ours", "IRIS"].value <= 1
    assert "over 2 of the 26 games: Boxing, Pong" in comparison.notes[0]


def test_sample_efficiency_is_the_aggregate_at_each_point(done: Plan):
    comparison = compare([done.output])
    efficiency = sample_efficiency(comparison.methods[0], comparison.games)
    assert efficiency is not None
    assert efficiency.env_steps.tolist() == [20_000, 40_000, 60_000, 80_000, 100_000]
    final = aggregate(comparison.methods[0], comparison.games)
    assert efficiency.mean[-1, 0] == pytest.approx(final.mean.value)
    assert (np.diff(efficiency.mean[:, 0]) > 0).all()
    assert (efficiency.mean[:, 1] <= efficiency.mean[:, 0]).all()


def test_curves_of_different_lengths_are_shown_where_all_have_points(done: Plan):
    path = done.jobs[0].result_file
    curve = json.loads(path.read_text())["curve"]
    change(path, curve=[curve[1], curve[3]])
    comparison = compare([done.output])
    efficiency = sample_efficiency(comparison.methods[0], comparison.games)
    assert efficiency is not None
    assert efficiency.env_steps.tolist() == [40_000, 60_000, 80_000]
    change(
        path, curve=[curve[1], curve[1] | {"mean_return": 0.0}, curve[3]]
    )  # training went on without playing
    again = sample_efficiency(compare([done.output]).methods[0], comparison.games)
    assert again is not None
    assert again.mean[0, 0] < efficiency.mean[0, 0]
    change(path, curve=[])
    comparison = compare([done.output])
    assert sample_efficiency(comparison.methods[0], comparison.games) is None


def test_a_run_with_too_many_env_steps_is_refused(done: Plan):
    change(done.jobs[0].result_file, env_steps=100_001)
    result = load_result(done.jobs[0].result_file)
    assert refusal(result) == (
        "Boxing seed 0: refused, it took 100,001 env steps and Atari 100k allows 100,000"
    )
    comparison = compare([done.output], ["ours"])
    assert len(comparison.methods[0].scores["Boxing"]) == 1
    assert any("ours: Boxing seed 0: refused" in note for note in comparison.notes)
    assert aggregate(comparison.methods[0], comparison.games).mean.low is None  # one run has no spread


def test_unfinished_and_torn_runs_are_named(done: Plan):
    done.jobs[0].result_file.write_text("{")
    (done.jobs[1].run / "result.json").unlink()
    notes = " ".join(compare([done.output], ["ours"]).notes)
    assert "left out:" in notes
    assert "expected JSON" in notes
    assert "not finished and left out: Pong-seed0" in notes


def test_differences_from_the_protocol_are_said(done: Plan):
    raw = json.loads(done.jobs[0].result_file.read_text())
    change(done.jobs[0].result_file, evaluation=raw["evaluation"] | {"sticky_actions": 0.25})
    lines = differences(load_result(done.jobs[0].result_file))
    assert lines == ["episodes 2, the protocol says 100", "sticky_actions 0.25, the protocol says 0.0"]
    notes = compare([done.output], ["ours"]).notes
    assert "ours: not as the protocol says in 4 of 4 runs: episodes 2, the protocol says 100." in notes
    assert (
        "ours: not as the protocol says in 1 of 4 runs: sticky_actions 0.25, the protocol says 0.0." in notes
    )


def test_reduced_runs_say_what_they_are(make_plan: MakePlan):
    plan = make_plan()
    assert run_job(plan.jobs[0], plan).ok
    notes = " ".join(compare([plan.output]).notes)
    assert "reduced run of 1,000 env steps" in notes
    assert "cannot be compared" in notes


def test_folders_without_runs_are_refused(make_plan: MakePlan, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no benchmark.json here"):
        compare([tmp_path])
    with pytest.raises(ValueError, match="no finished run"):
        compare([make_plan().output])
    with pytest.raises(ValueError, match="names"):
        compare([tmp_path], ["IRIS"], ["IRIS"])


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_complete_and_repeatable(done: Plan, tmp_path: Path):
    arguments: dict[str, Any] = {
        "names": ["ours <b>"],
        "methods": ["IRIS", "SimPLe"],
        "gpu_prices": {"A100": 2.0, "cpu": 0.1},
    }
    first = write_benchmark_report([done.output], folder=tmp_path / "a", **arguments)
    stems = {path.name for path in first.files}
    for table in ("aggregates", "games", "cost", "protocol", "improvement"):
        assert {f"{table}.md", f"{table}.csv", f"{table}.tex"} <= stems
    for plot in ("aggregates", "games", "profiles", "sample_efficiency", "game_curves", "hours", "cost"):
        assert {f"plot_{plot}.png", f"plot_{plot}.svg"} <= stems
    assert {"report.html", "readme.md", "scores.json", "runs.json", "aggregates.json"} <= stems
    page = Page(first.page.read_text(encoding="utf-8"))
    assert not page.open
    assert len(page.images) == 7
    assert all(image.startswith("data:image/svg+xml;base64,") for image in page.images)
    assert "http" not in re.sub(r'src="[^"]*"', "", first.page.read_text()).replace("http-equiv", "")
    assert "ours <b>" in page.text
    raw = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert len(raw["ours <b>"]["Pong"]) == 2
    assert len(json.loads((tmp_path / "a" / "runs.json").read_text())["ours <b>"]) == 4
    rows = list(csv.DictReader((tmp_path / "a" / "cost.csv").open()))
    assert rows[1] == {"method": "IRIS", "device": "A100", "device-hours": "84.0", "cost": "$168.00"}
    second = write_benchmark_report([done.output], folder=tmp_path / "b", **arguments)
    for path in second.files:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name


def test_a_benchmark_alone_and_of_single_runs_has_a_report(make_plan: MakePlan):
    plan = make_plan(seeds=(0,))
    for job in plan.jobs:
        assert run_job(job, plan).ok
    report = write_benchmark_report([plan.output])
    assert report.folder == plan.output / "report"
    text = report.page.read_text()
    assert "no interval from single runs" in text
    assert "reduced run" in text


def test_tables_in_three_languages():
    table = Table(
        "Title", "50 % & more", ["a_b", "c"], [["x|y", "1 ± 2"], ["z > y", "3"]], frozenset({(1, 1)})
    )
    assert table.markdown().splitlines() == [
        "| a_b | c |",
        "| --- | ---: |",
        r"| x\|y | 1 ± 2 |",
        "| z > y | **3** |",
    ]
    assert list(csv.reader(table.csv().splitlines())) == [["a_b", "c"], ["x|y", "1 ± 2"], ["z > y", "3"]]
    latex = table.latex()
    assert r"\caption{50 \% \& more}" in latex
    assert r"z $>$ y & \textbf{3} \\" in latex
    assert r"1 $\pm$ 2" in latex


def test_the_readme_table_is_short():
    comparison = compare([], [], ["IRIS", "SimPLe"])
    text = readme_table(comparison, {m.name: aggregate(m, comparison.games) for m in comparison.methods})
    assert text.splitlines()[0] == "| method | runs | IQM (runs) | median | mean | ≥ human |"
    assert "| IRIS | 5 | **0.501 (" in text


def test_gpu_hours_of_published_methods_are_of_one_run():
    assert compare([], [], ["IRIS"]).methods[0].gpu_hours == published_method("IRIS").gpu_hours == 84
