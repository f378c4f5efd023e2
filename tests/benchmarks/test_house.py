"""The measures of the house are printed, and those that hold today go on holding."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import house

    yield house
    del sys.modules["house"]


def test_what_holds_goes_on_holding(house):
    measures = house.measures()
    for name in ("accesses to private parts of a world", "places that step a world: learning's and people's"):
        figure, aim, where = measures[name]
        assert figure <= aim, where
    assert measures["lines of iris_wm"][0] < 17_000
    assert len(house.frames_way()) <= 29


def test_planted_places_are_found(house):
    text = {"a.py": "x = 1\nenv.step(2)\nself.envs[i].step(a)\nworld._cache\n"}
    assert house.places(r"\benvs?(\[\w+\])?\.step\(", text) == ["a.py:2", "a.py:3"]
    assert house.places(r"\b(world|network)\._", text) == ["a.py:4"]
