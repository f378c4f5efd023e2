"""The pages: complete, self-contained, and safe from what stands in their texts."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from iris_wm.evaluation.scores import ReturnSummary
from iris_wm.reports.page import Card, Section, render_page
from iris_wm.reports.run_report import run_page
from iris_wm.reports.table import Table
from iris_wm.runs.open import Run
from iris_wm.runs.progress import RunProgress

AGENT, RANDOM = ReturnSummary(11.84, 9.1, 14.2, 20), ReturnSummary(1.7, 1.7, 1.7, 1)


@pytest.fixture
def run(tiny_run, tiny_agent, tmp_path) -> Run:
    """A run of Breakout in a folder; no checkpoint is needed to show it."""
    progress = RunProgress(epoch=41, env_steps=12345, seconds={"collection": 30.0, "world": 3690.0})
    config = tiny_run("env.id=Breakout", "seed=3")
    return Run(tmp_path / "in ten minutes", config, tiny_agent(), progress, checkpoint=None)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path) -> list[Section]:
    for name in ("strip.png", "dream.gif"):
        Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / name)
    return [
        Section("Strip", "one caption", tmp_path / "strip.png"),
        Section("Dream", picture=tmp_path / "dream.gif"),
    ]


class Reader(HTMLParser):
    """Collects tags, attributes and text, and complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data + " "


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_everything_of_the_run_is_on_the_page(run, pictures):
    text = read(run_page(run, AGENT, RANDOM, pictures)).text
    parameters = sum(parameter.numel() for parameter in run.agent.world.parameters())
    for part in (
        "Breakout: in ten minutes", "12,345 environment steps", "40 epochs", "seed 3", "11.84", "9.1 to 14.2",
        "20 episodes", "1 episode ", "+10.14", "35.2 %", "30.5", "one caption", "1 h 02 min",
        f"world: {parameters:,} parameters", "iris-wm dream", "in ten minutes --seed 1", "id: Breakout",
    ):  # fmt: skip
        assert part in text, part


def test_pictures_are_inside_and_nothing_comes_from_elsewhere(run, pictures):
    page = run_page(run, AGENT, RANDOM, pictures)
    images = [attributes["src"] for tag, attributes in read(page).tags if tag == "img"]
    assert [image.split(",")[0] for image in images] == ["data:image/png;base64", "data:image/gif;base64"]
    assert base64.b64decode(images[0].split(",")[1]) == pictures[0].picture.read_bytes()
    assert not re.search(r"https?:|<script|<link|@import|url\(|file:", page)
    assert "default-src 'none'" in page


EVIL = '</pre></td><script>"x"</script><img src=y onerror="z"><b>&'


def test_texts_cannot_become_markup(run, pictures):
    table = Table(EVIL, EVIL, [EVIL, EVIL], [[EVIL, f"{EVIL} 1 ± {EVIL}"]])
    section = Section('" onerror="z', EVIL, pictures[0].picture, table, is_folded=True)
    reader = read(render_page(EVIL, [EVIL], [Card(EVIL, EVIL, EVIL)], [EVIL], [section]))
    assert reader.text.count(EVIL) == 13  # the title twice
    assert not {"script", "b"} & {tag for tag, _ in reader.tags}
    assert sum(tag == "img" for tag, _ in reader.tags) == 1
    assert not any("onerror" in attributes for _, attributes in reader.tags)


def test_a_run_of_an_evil_name_is_harmless(run):
    progress = replace(run.progress, seconds={EVIL: 1.0})
    reader = read(
        run_page(replace(run, path=Path(EVIL.replace("/", "")), progress=progress), AGENT, RANDOM, [])
    )
    assert EVIL in reader.text
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}


def test_a_game_without_references_and_a_run_without_times_have_a_page(run, tiny_run):
    other = replace(run, config=tiny_run(), progress=RunProgress())
    reader = read(run_page(other, AGENT, RANDOM, []))
    assert "iris_wm/Catch-v0" in reader.text
    assert "None" not in reader.text
    assert "Human" not in reader.text


def test_bars_stay_in_their_track(run):
    losing = ReturnSummary(-18, -19, -17, 5), ReturnSummary(-20.5, -20.7, -20, 5)
    nothing = ReturnSummary(0, 0, 0, 5), ReturnSummary(0, 0, 0, 5)
    for agent, random in (losing, nothing, (AGENT, RANDOM)):
        found = re.findall(r"left:(-?[\d.]+)%;width:(-?[\d.]+)%", run_page(run, agent, random, []))
        assert len(found) == 4
        for left, width in found:
            assert float(left) >= 0
            assert float(width) >= 0
            assert float(left) + float(width) <= 100.01


def test_spreads_stand_below_their_figures():
    table = Table(
        "", "", ["method", "mean", "games"], [["ours", "0.781 (0.633 to 0.935)", "8.8 ± 1.7"]], {(0, 1)}
    )  # type: ignore[arg-type]
    page = render_page("Träume · 夢", [], sections=[Section("Table", table=table)])
    assert '<td class="best">0.781<small>(0.633 to 0.935)</small></td>' in page
    assert "<td>8.8<small>± 1.7</small></td>" in page
    assert "Träume · 夢" in page


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.png", r"cannot read .*gone\.png"), ("run.bmp", r"run\.bmp: got \.bmp, expected one of \.png")],
)
def test_bad_pictures_are_named(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        render_page("x", [], sections=[Section("x", picture=tmp_path / name)])
