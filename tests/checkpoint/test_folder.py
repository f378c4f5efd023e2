"""Saving, loading, resuming and pruning when nothing goes wrong, and mistakes of the caller."""

import re

import pytest
import torch

from iris_wm.checkpoint.agent_files import load_agent
from iris_wm.checkpoint.folder import load_checkpoint, prune, resume
from iris_wm.checkpoint.verify import list_checkpoints, verify_checkpoint


def names(toy):
    return [folder.name for folder in list_checkpoints(toy.path)]


def segments(toy):
    return sorted(path.name for path in (toy.path / "replay").iterdir())


def test_what_was_saved_comes_back(toy):
    run = toy.new()
    folder = toy.save(run, 7, score=1.5)
    assert folder == toy.path / "checkpoints" / "step-000000007"
    checkpoint = load_checkpoint(folder)
    toy.check(checkpoint, 7)
    manifest = checkpoint.manifest
    assert (manifest.score, manifest.epoch, manifest.config_hash) == (1.5, 0, run.config_hash)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)
    assert manifest.size == sum(
        path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"
    )
    weights, config = load_agent(folder)
    assert config == checkpoint.agent_config == {"num_layers": 2}
    assert torch.equal(weights["tokenizer.weight"], checkpoint.agent["tokenizer.weight"])
    assert verify_checkpoint(folder) == manifest


def test_loading_changes_nothing_and_needs_no_lock(toy):
    run = toy.new([1])
    before = sorted((str(path), path.stat().st_mtime_ns) for path in toy.path.rglob("*"))
    toy.check(load_checkpoint(toy.path / "checkpoints" / "step-000000001"), 1)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in toy.path.rglob("*")) == before
    run.close()


def test_a_run_without_replay_saves_too(toy):
    run = toy.new()
    folder = toy.save(run, 3, replay=None)
    assert list(load_checkpoint(folder).replay_parts()) == []


def test_the_last_two_and_the_best_are_kept(toy):
    run = toy.new()
    for step, score in enumerate([1.0, 5.0, None, 5.0, 2.0, 3.0, None], start=1):
        toy.save(run, step, score=score)
    assert names(toy) == ["step-000000007", "step-000000006", "step-000000004"]
    toy.check(load_checkpoint(toy.path / "checkpoints" / "step-000000004"), 4)


def test_several_saves_at_one_step_stand_side_by_side(toy):
    run = toy.new()
    for _ in range(12):
        toy.save(run, 5)
    assert names(toy) == ["step-000000005-11", "step-000000005-10"]
    toy.save(run, 6)
    assert names(toy) == ["step-000000006", "step-000000005-11"]


def test_damaged_ones_do_not_count_among_the_last(toy):
    run = toy.new([1, 2])
    (toy.path / "checkpoints" / "step-000000002" / "agent.json").write_bytes(b"rot")
    toy.save(run, 3)
    assert names(toy) == ["step-000000003", "step-000000002", "step-000000001"]
    assert [path.name for path in prune(run, damaged_too=True)] == ["step-000000002"]
    toy.save(run, 4)
    toy.save(run, 5)
    assert names(toy) == ["step-000000005", "step-000000004"]
    with pytest.raises(ValueError, match="keep_last: got 0, expected at least 1"):
        prune(run, 0)


def test_the_damaged_are_never_removed_when_nothing_else_is_left(toy):
    run = toy.new([1, 2])
    for folder in list_checkpoints(toy.path):
        (folder / "agent.json").write_bytes(b"rot")
    assert prune(run, damaged_too=True) == []
    assert len(names(toy)) == 2


def test_resume_continues_where_the_checkpoint_stood(toy):
    run = toy.new([1, 2])
    run.metrics.append(25, 0, {"lost": 1.0})
    run.close()
    stray = toy.path / "replay" / "segment-000000020-000000025-0123456789ab.bin"
    (toy.path / "replay" / "notes.txt").write_text("mine")
    leftovers = [toy.path / "checkpoints" / ".tmp-step-000000003", toy.path / "replay" / ".tmp-segment"]
    leftovers[0].mkdir()
    (leftovers[0] / "agent.safetensors").write_bytes(b"half")
    for path in (stray, leftovers[1], toy.path / ".tmp-config.yaml"):
        path.write_bytes(b"half")
    with toy.open() as run:
        toy.check(resume(run), 2)
        assert not stray.exists()
        (toy.path / "replay" / "notes.txt").unlink()  # nobody else has removed it
        assert not [path for path in toy.path.rglob("*") if path.name.startswith(".tmp-")]
        assert "lost" not in (toy.path / "metrics.csv").read_text()
        assert len(segments(toy)) == 2
        toy.save(run, 3)
        assert [(entry.start, entry.stop) for entry in run.segments] == [(0, 10), (10, 20), (20, 30)]
    with toy.open() as run:
        toy.check(resume(run), 3)


def test_resuming_twice_gives_the_same(toy):
    toy.new([1, 2]).close()

    def state():
        return {
            path: path.read_bytes() for path in toy.path.rglob("*") if path.is_file() and path.name != "lock"
        }

    before = state()
    for _ in range(2):
        with toy.open() as run:
            toy.check(resume(run), 2)
        assert state() == before


def test_a_save_needs_resume_first(toy):
    toy.new([1]).close()
    with toy.open() as run, pytest.raises(AssertionError, match="restore"):
        toy.save(run, 2)


def test_steps_never_go_back(toy):
    run = toy.new([5])
    with pytest.raises(ValueError, match="step: got 4, expected at least 5"):
        toy.save(run, 4)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_are_finite(toy, score):
    with pytest.raises(ValueError, match=r"score: got .*, expected a finite number"):
        toy.save(toy.new(), 1, score=score)


def test_a_lost_or_edited_metrics_file(toy):
    toy.new([1, 2]).close()
    path = toy.path / "metrics.csv"
    content = path.read_text()
    path.write_text(content.replace("1,0", "7,0"))
    with (
        toy.open() as run,
        pytest.raises(Exception, match=r"metrics\.csv: its first .* remove it to continue"),
    ):
        resume(run)
    path.unlink()
    with toy.open() as run:
        toy.check(resume(run), 2)
        toy.save(run, 3)
    with toy.open() as run:
        toy.check(resume(run), 3)
    assert path.read_text() == f"env_steps,epoch,name,value\n3,0,tokenizer/loss,{3 / 7!r}\n"
