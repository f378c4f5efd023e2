"""The commands as a person uses them: dry run, run, run again, report, and wrong arguments."""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from iris_wm.benchmark.jobs import Plan
from iris_wm.benchmark.launch import atari100k
from iris_wm.cli import build_parser
from iris_wm.cli.benchmark import run

MakePlan = Callable[..., Plan]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "iris"):
        (tmp_path / f"{name}.yaml").write_text("seed: 0\n")
    return tmp_path / "tiny.yaml"


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_dry_run_prints_130_jobs_with_hours_and_disk(config: Path, console: Console, tmp_path: Path):
    assert (
        atari100k(
            preset=str(tmp_path / "iris.yaml"), env_steps=100_000, workers=8, dry_run=True, console=console
        )
        == 0
    )
    lines = text_of(console).splitlines()
    assert sum("missing" in line and "-seed" in line for line in lines) == 130
    assert "130 jobs (26 games x 5 seeds): 130 missing" in lines
    # 130 runs of IRIS's published week, 8 at once: 17 weeks
    assert any(
        "168 h (7.0 days) = 21,840 h (910.0 days) of jobs, 2,856 h (119.0 days) with 8" in x for x in lines
    )
    assert any("disk: 130 jobs left x 460 MB = 59.8 GB" in line for line in lines)
    assert not (tmp_path / "runs").exists()


def run_tiny(make_plan: MakePlan, console: Console, *options: str, **arguments: Any) -> int:
    plan = make_plan()
    values: dict[str, Any] = {
        "games": plan.games,
        "seeds": plan.seeds,
        "preset": str(plan.config),
        "output": plan.output.parent / "out",
        "workers": 2,
        "env_steps": plan.env_steps,
        "episodes": plan.episodes,
        "overrides": options,
        "fit": plan.fit,
        "evaluate": plan.evaluate,
        "console": console,
    }
    return atari100k(**(values | arguments))


def test_run_run_again_and_report(
    make_plan: MakePlan, console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_tiny(make_plan, console, games=["Boxing"]) == 0
    assert "2 of 2 jobs done" in text_of(console)
    assert run_tiny(make_plan, console) == 0  # the other game joins
    assert "4 jobs (2 games x 2 seeds): 2 done, 2 missing" in text_of(console)
    assert text_of(console).count("Boxing-seed0: started") == 1
    assert run_tiny(make_plan, console, dry_run=True) == 0
    assert "4 done" in text_of(console)
    assert "median of 4 done runs" in text_of(console)
    assert run(parse("report", str(tmp_path / "out"), "--methods", "IRIS")) == 0
    told = capsys.readouterr().out
    assert "report.html" in "".join(told.split())
    assert "reduced run" in told


def test_failures_are_listed_at_the_end(make_plan: MakePlan, console: Console):
    assert run_tiny(make_plan, console, "--exit", "3", "Pong") == 1
    tail = text_of(console)[text_of(console).index("failed:\n") :]
    assert (
        "Pong-seed0: fit: exit code 3 (damaged or foreign state): Traceback: Pong cannot be trained" in tail
    )
    assert "Pong-seed1.log" in tail
    assert "Boxing" not in tail
    assert "2 of 4 jobs done" in tail


def test_another_preset_needs_another_folder(make_plan: MakePlan, console: Console):
    assert run_tiny(make_plan, console) == 0
    with pytest.raises(
        ValueError, match="episodes: got 5, but the runs here have 2; choose another --output"
    ):
        run_tiny(make_plan, console, episodes=5)
    with pytest.raises(ValueError, match="episodes: got 5"):
        run_tiny(make_plan, console, episodes=5, dry_run=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"games": ["Doom"]}, "games: got Doom, expected some of Alien, Amidar"),
        ({"runner": "cloud"}, "runner: got 'cloud', expected one of local, slurm"),
        ({"workers": 0}, "workers: got 0"),
        ({"preset": "nothing"}, "preset: got 'nothing'"),
    ],
)
def test_wrong_arguments(config: Path, console: Console, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        atari100k(**({"preset": str(config), "console": console} | arguments))


def parse(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["benchmark", *words])


def test_arguments_of_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]):
    arguments = parse(
        "atari100k", "--games", "Pong,Boxing", "--seeds", "2", "--preset", str(config), "--dry-run"
    )
    assert run(arguments) == 0
    assert "4 jobs (2 games x 2 seeds): 4 missing" in capsys.readouterr().out
    assert parse("atari100k", "--seeds", "3,7").seeds == (3, 7)
    assert parse("atari100k", "--override", "training.epochs=3").override == [("training.epochs", "3")]
    assert parse("report", "x", "--gpu-price", "A100=1.5").gpu_prices == [("A100", "1.5")]
    for wrong in (["--seeds", "two"], ["--override", "epochs"], ["--game", "Pong"]):
        with pytest.raises(SystemExit):
            parse("atari100k", *wrong)
