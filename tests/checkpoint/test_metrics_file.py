"""metrics.csv: exact numbers, a known beginning after a resume, and names that keep it a table."""

import csv
import errno
import math
import os

import pytest

from iris_wm.checkpoint.errors import DamagedState, ResourceError
from iris_wm.checkpoint.metrics_file import MetricsFile


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.restore(None)
    yield file
    file.close()


def rows(metrics):
    with open(metrics.path, newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_read_back_exactly(metrics):
    values = {"a/loss": 0.1, "b": 1e-300, "c": math.pi, "d": -0.0, "e": math.inf, "f": math.nan, "g": 3}
    metrics.append(100, 2, values)
    found = rows(metrics)
    assert [row["name"] for row in found] == list(values)
    assert {(row["env_steps"], row["epoch"]) for row in found} == {("100", "2")}
    for row in found:
        assert repr(float(row["value"])) == repr(float(values[row["name"]]))


def test_a_resume_drops_what_came_after_the_checkpoint(metrics):
    metrics.append(1, 0, {"a": 1.0})
    part = metrics.sync()
    metrics.append(2, 0, {"a": 2.0})
    metrics.close()
    metrics.restore(part)
    assert metrics.sync() == part
    metrics.append(2, 0, {"a": 3.0})
    assert [row["value"] for row in rows(metrics)] == ["1.0", "3.0"]
    longer = metrics.sync()
    metrics.restore(longer)
    assert metrics.sync() == longer


def test_a_new_run_starts_with_an_empty_table(metrics):
    metrics.append(1, 0, {"a": 1.0})
    metrics.restore(None)
    assert rows(metrics) == []


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"X" + data[1:], lambda data: b""])
def test_another_beginning_is_refused_and_left_alone(metrics, change):
    metrics.append(1, 0, {"a": 1.0})
    part = metrics.sync()
    changed = change(metrics.path.read_bytes())
    metrics.path.write_bytes(changed)
    with pytest.raises(DamagedState, match=f"its first {part.size} bytes"):
        metrics.restore(part)
    assert metrics.path.read_bytes() == changed


@pytest.mark.parametrize("name", ["", "a,b", 'a"b', "a\nb", "a\rb"])
def test_names_that_would_break_the_table(metrics, name):
    with pytest.raises(ValueError, match="expected no comma, quote or line break"):
        metrics.append(1, 0, {"good": 1.0, name: 1.0})
    assert rows(metrics) == []


def test_a_full_disk_keeps_the_recorded_part_right(metrics, monkeypatch):
    metrics.append(1, 0, {"a": 1.0})
    real, calls = os.pwrite, []

    def half_then_full(descriptor, data, place):
        calls.append(place)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:3], place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half_then_full)
        with pytest.raises(ResourceError, match=r"metrics\.csv: cannot be written: No space left on device"):
            metrics.append(2, 0, {"a": 2.0})
    metrics.append(3, 0, {"a": 3.0})
    part = metrics.sync()
    assert [row["env_steps"] for row in rows(metrics)] == ["1", "3"]
    metrics.restore(part)
