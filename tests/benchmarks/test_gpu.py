"""benchmarks/gpu: the whole of it rehearsed on a CPU, and what becomes of a stage that fails, hangs or is cut short."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu/run.py"


def load(name: str):
    """A script of benchmarks/gpu as a module."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", SCRIPT.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner():
    """The script, whose stages a test may replace."""
    return load("run")


@pytest.mark.timeout(1800)
def test_every_stage_is_rehearsed(tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--minutes", "30", "--output", str(folder)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    files = {path.name for path in folder.iterdir()}
    assert files == {"results.json", "summary.md", "log.txt"}
    stages = json.loads((folder / "results.json").read_text())["stages"]
    assert list(stages) == ["machine", "numerics", "graphs", "train", "kernel_times", "throughput", "learn"]
    for name, stage in stages.items():
        assert stage["status"] == "rehearsed", (name, stage["error"])
        assert stage["cases"], name
        assert {"device", "driver", "torch", "triton", "cuda", "commit", "date"} <= set(stage["environment"])
    assert stages["learn"]["cases"][1]["returns"]
    assert (folder / "summary.md").read_text().count("**rehearsed**") == 7
    written = "\n".join(load("report").sections({"a machine": {"stages": stages}}))
    for text in ("imagination: 2 x 2, tokens only", "| debug | decode_layers | token B=2", "| Boxing | "):
        assert text in written


@pytest.fixture
def beside(monkeypatch):
    """What the stages import by its bare name."""
    for folder in ("benchmarks/gpu", "benchmarks/speed", "kernels/benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


def test_kernels_are_timed_at_the_shapes_of_every_preset(beside):
    presets, kernel_times = (importlib.import_module(name) for name in ("presets", "kernel_times"))
    files = {str(path.relative_to(presets.FOLDER)) for path in presets.FOLDER.rglob("*.yaml")}
    assert set(presets.FILES.values()) == files
    shapes = {name: kernel_times.shape_of(presets.preset(name)) for name in presets.FILES}
    demo = shapes["demo"]
    assert (demo.tokens_per_frame, demo.width, demo.num_codes, demo.masks) == (64, 96, 625, ("parallel",))
    assert (demo.length, demo.positions, demo.maps) == (2 * 65 + 64, (65,), ((32, 16), (32, 8)))
    assert all(
        shape.positions[0] + shape.tokens_per_step + shape.is_parallel * shape.tokens_per_frame
        <= shape.length
        for shape in shapes.values()
    )


def test_the_model_of_a_graph_by_hand(beside):
    timing = importlib.import_module("timing")
    idle = timing.Case("bfloat16", "", lambda: None, launches=10)
    assert timing.model_us(idle) == pytest.approx(10 * (1.5 + 1.2))
    busy = idle._replace(bytes=4.3e6 * 100)  # a hundred microseconds
    assert timing.model_us(busy) == pytest.approx(10 * 1.5 + 100)
    x = torch.ones(3)
    counted = timing.Case("float32", "", lambda: (x + 1).view(3, 1).exp(), flops=67e6 * 20)
    assert timing.model_us(counted) == pytest.approx(2 * 1.5 + 20)  # a view starts nothing


def test_without_results_one_sentence_says_so():
    assert list(load("report").sections({}))[1:] == ["**Nothing has been measured on a GPU yet.**"]
    is_measured = any((SCRIPT.parent / "results").glob("*.json"))
    assert is_measured or "Nothing has been measured" in (SCRIPT.parent / "tables.md").read_text()


def plant(runner, monkeypatch, tmp_path, **sources: str) -> Path:
    """Stages of the given code in place of the real ones; where they are."""
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(f"import os, time\n\n\ndef run(stage):\n    {source}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits = {name: 30 if name == "hangs" else 120 for name in sources}
    monkeypatch.setattr(runner, "STAGES", limits)
    monkeypatch.setattr(runner, "limit_of", lambda stage, *_: limits[stage])
    monkeypatch.setattr(runner, "SHOWS", dict.fromkeys(sources, ""))
    monkeypatch.setattr(runner, "GRACE", 1.0)
    return tmp_path / "out"


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["stages"]


GOOD = 'stage.case("good", lambda: {"value": 1})'


def test_a_stage_that_fails_hangs_or_dies_takes_no_other_with_it(runner, monkeypatch, tmp_path):
    child = (
        'import subprocess; child = subprocess.Popen(["sleep", "1000"]); '
        f'open("{tmp_path}/pid", "w").write(str(child.pid))'
    )
    folder = plant(
        runner,
        monkeypatch,
        tmp_path,
        fails=f'stage.case("bad", lambda: 1 / 0); {GOOD}',
        hangs=f'{GOOD}; {child}; stage.case("endless", time.sleep, 1000)',
        dies=f'{GOOD}; stage.case("killed", os.kill, os.getpid(), 9)',
        broken="import nothing_of_that_name",
        late=f"stage._deadline = time.time(); {GOOD}",
        good=GOOD,
    )
    assert runner.main(["--device", "cpu", "--minutes", "9", "--output", str(folder)]) == 1
    found = results(folder)
    assert {name: stage["status"] for name, stage in found.items()} == {
        "fails": "failed", "hangs": "failed", "dies": "failed", "broken": "failed", "late": "in part",
        "good": "rehearsed",
    }  # fmt: skip
    assert found["fails"]["error"] == "bad: ZeroDivisionError: division by zero"
    assert [case["status"] for case in found["fails"]["cases"]] == ["failed", "done"]
    assert found["hangs"]["error"] == "endless: killed after 31 s"
    assert found["dies"]["error"].startswith("killed: ")
    assert found["dies"]["cases"][0]["value"] == found["hangs"]["cases"][0]["value"] == 1
    assert found["broken"]["error"] == "ModuleNotFoundError: No module named 'nothing_of_that_name'"
    assert "bad: ZeroDivisionError" in (folder / "summary.md").read_text()
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")  # what a stage has started ends with it
    assert not status.exists() or "zombie" in status.read_text()


def test_resume_runs_only_what_is_missing_or_failed(runner, monkeypatch, tmp_path):
    place = tmp_path / "flag"
    case = f'stage.case("flag", lambda: {{"size": os.stat("{place}").st_size}})'
    count = f'open("{tmp_path}/count", "a").write("x")'
    folder = plant(
        runner,
        monkeypatch,
        tmp_path,
        good=GOOD,
        fails=f'stage.case("counted", lambda: {{"n": {count}}}); {case}',
    )
    arguments = ["--device", "cpu", "--minutes", "9", "--output", str(folder)]
    assert runner.main(arguments) == 1
    first = results(folder)
    place.write_text("here")
    assert runner.main([*arguments, "--resume"]) == 0
    found = results(folder)
    assert found["good"] == first["good"]
    assert found["fails"]["status"] == "rehearsed"
    assert [case["name"] for case in found["fails"]["cases"]] == ["counted", "flag"]
    assert (tmp_path / "count").read_text() == "x"  # done in the first run, not again


@pytest.mark.parametrize(("minutes", "learn"), [(9, 90), (15, 400), (3, 30)])
def test_limits_shrink_in_proportion(runner, minutes, learn):
    left, limits, to_do = 60.0 * minutes, {}, list(runner.STAGES)
    while to_do:
        limits[to_do[0]] = runner.limit_of(to_do[0], to_do, left, 60.0 * minutes, False)
        left -= limits[to_do.pop(0)]
    assert left >= 0
    assert limits["learn"] >= learn
    assert all(limits[name] <= seconds for name, seconds in runner.STAGES.items())
    if minutes == 15:
        assert limits["throughput"] == 120
