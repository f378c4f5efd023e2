"""The checkpoint commands: what they print, what they change, and their exit codes."""

import io
import os

import pytest
import torch
from rich.console import Console

from iris_wm.checkpoint.agent_files import load_agent
from iris_wm.checkpoint.errors import (
    DamagedCheckpoint,
    ForeignRun,
    NoUsableCheckpoint,
    NumericFailure,
    ResourceError,
    RunInUse,
    Stopped,
    exit_code,
)
from iris_wm.checkpoint.verify import list_checkpoints
from iris_wm.cli.checkpoint import export_agent, list_run, prune_run, select_checkpoint, verify_run


@pytest.fixture
def output():
    buffer = io.StringIO()
    return Console(file=buffer, width=160), buffer.getvalue


@pytest.fixture
def three(toy):
    """Checkpoints 1 (best), 2 and 3; 3 is damaged."""
    run = toy.new()
    for step, score in ((1, 9.0), (2, 4.0), (3, None)):
        toy.save(run, step, score=score, keep_last=3)
    run.close()
    (toy.path / "checkpoints" / "step-000000003" / "agent.json").write_bytes(b"rot")
    return toy


def test_verify_names_the_damaged(three, output):
    console, text = output
    assert verify_run(three.path, console) == 3
    lines = text().splitlines()
    assert lines[0].startswith("step-000000003: ")
    assert "agent.json: got 3 bytes, expected" in lines[0]
    assert lines[1:] == ["step-000000002: verified", "step-000000001: verified"]
    assert verify_run(three.path / "checkpoints" / "step-000000001", console) == 0


def test_list_shows_every_checkpoint(three, output):
    console, text = output
    (three.path / "checkpoints" / "step-000000002" / "manifest.json").write_bytes(b"")
    assert list_run(three.path, console) == 0
    rows = [line for line in text().splitlines() if line.startswith("│ step")]
    assert [row.split()[1] for row in rows] == ["step-000000001", "step-000000002", "step-000000003"]
    assert "verified, best" in rows[0]
    assert " 9 " in rows[0]
    assert "damaged" in rows[1]
    assert "damaged" in rows[2]
    assert "manifest.json: got b''..., expected a document with its right sha256" in text()


def test_prune_keeps_the_last_and_the_best(three, output):
    console, text = output
    assert prune_run(three.path, 1, False, console) == 0
    assert text() == "nothing to remove\n"
    assert prune_run(three.path, 1, True, console) == 0
    assert text().endswith("removed step-000000003\n")
    assert [folder.name[-1] for folder in list_checkpoints(three.path)] == ["2", "1"]


def test_prune_refuses_a_running_run(toy, output):
    with toy.new([1]), pytest.raises(RunInUse):
        prune_run(toy.path, 2, False, output[0])


@pytest.mark.parametrize(("which", "step"), [("newest", 2), ("best", 1), ("step-000000002", 2)])
def test_export_copies_an_agent(three, output, tmp_path, which, step):
    console, text = output
    target = tmp_path / "exported" / "agent"
    assert export_agent(three.path, target, which, console) == 0
    assert sorted(os.listdir(target)) == ["agent.json", "agent.safetensors"]
    weights, config = load_agent(target)
    assert torch.equal(weights["tokenizer.weight"], torch.full((4, 3), float(step)))
    assert config == {"num_layers": 2}
    assert f"step-00000000{step}" in text()
    with pytest.raises(ValueError, match="there is an agent in it already"):
        export_agent(three.path, target, which, console)


def test_export_from_a_checkpoint_folder(three, output, tmp_path, monkeypatch):
    folder = three.path / "checkpoints" / "step-000000001"
    assert export_agent(folder, tmp_path / "one", "newest", output[0]) == 0
    monkeypatch.chdir(folder)
    assert export_agent(".", tmp_path / "two", "newest", output[0]) == 0


def test_choices_that_cannot_be_met(three, tmp_path):
    with pytest.raises(DamagedCheckpoint, match=r"agent\.json"):
        select_checkpoint(three.path, "step-000000003")
    with pytest.raises(ValueError, match=r"expected newest, best or one of step-000000003, .* got 'last'"):
        select_checkpoint(three.path, "last")
    for path in (tmp_path / "missing", three.path / "config.yaml"):
        with pytest.raises(ValueError, match="expected a run folder or a checkpoint folder"):
            select_checkpoint(path)
    with pytest.raises(NoUsableCheckpoint, match="there is no checkpoint in it"):
        select_checkpoint(tmp_path)


def test_best_without_any_score(toy):
    toy.new([1]).close()
    with pytest.raises(ValueError, match="got 'best'; none has a score"):
        select_checkpoint(toy.path, "best")


def test_exit_codes():
    codes = {ForeignRun("x"): 3, NumericFailure("x"): 4, ResourceError("x"): 5, Stopped("x"): 143}
    codes |= {ValueError("x"): 2, OSError(28, "x"): 5, MemoryError(): 5, RuntimeError("x"): 1}
    for error, code in codes.items():
        assert exit_code(error) == code
