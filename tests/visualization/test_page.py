"""The page of a run: complete, self-contained, and safe from what stands in its texts."""

import base64
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from iris_wm.visualization.page import Picture, ReturnSummary, RunSummary, run_page, write_page


@pytest.fixture
def summary(tmp_path) -> RunSummary:
    Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / "strip.png")
    Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / "dream.gif")
    return RunSummary(
        title="Breakout in ten minutes",
        game="Breakout",
        env_steps=12345,
        epochs=40,
        seed=3,
        agent=ReturnSummary(11.84, 20, low=9.1, high=14.2),
        random_policy=ReturnSummary(1.7, 1, std=0.5),
        human_return=30.5,
        human_normalized_score=0.352,
        seconds={"collection": 30, "world": 3690},
        num_parameters={"world": 1234567},
        config="env:\n  id: Breakout",
        pictures=[
            Picture(tmp_path / "strip.png", "Strip", "one caption"),
            Picture(tmp_path / "dream.gif", "Dream"),
        ],
        commands=[("Play", "iris-wm play runs/demo")],
        notes=["A note."],
    )


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


def test_everything_of_the_run_is_on_the_page(summary):
    text = read(run_page(summary)).text
    for part in (
        "Breakout in ten minutes", "12,345 environment steps", "40 epochs", "seed 3", "11.84", "9.1 to 14.2",
        "20 episodes", "1 episode ", "standard deviation 0.5", "+10.14", "35.2 %", "30.5", "one caption",
        "1 h 02 min", "1,234,567", "iris-wm play runs/demo", "id: Breakout", "A note.",
    ):  # fmt: skip
        assert part in text, part


def test_pictures_are_inside_and_nothing_comes_from_elsewhere(summary):
    page = run_page(summary)
    images = [attributes["src"] for tag, attributes in read(page).tags if tag == "img"]
    assert [image.split(",")[0] for image in images] == ["data:image/png;base64", "data:image/gif;base64"]
    assert base64.b64decode(images[0].split(",")[1]) == summary.pictures[0].path.read_bytes()
    assert not re.search(r"https?:|<script|<link|@import|url\(|file:", page)
    assert "default-src 'none'" in page


def test_texts_cannot_become_markup(summary):
    summary.title = summary.notes[0]
    summary.title, summary.config, summary.notes = '<script>"x"', "</pre><img src=y>", ["<b>&"]
    summary.pictures = [Picture(summary.pictures[0].path, '" onerror="z')]
    reader = read(run_page(summary))
    assert not any(tag in ("script", "b") and not attributes.get("style") for tag, attributes in reader.tags)
    assert sum(tag == "img" for tag, _ in reader.tags) == 1
    assert not any("onerror" in attributes for _, attributes in reader.tags)


def test_a_run_without_results_still_has_a_page():
    reader = read(run_page(RunSummary("New", "Pong", 0, 0)))
    assert "Pong" in reader.text
    assert "None" not in reader.text


def test_bars_stay_in_their_track_with_negative_returns(summary):
    summary.agent, summary.random_policy = ReturnSummary(-18, 5, low=-19, high=-17), ReturnSummary(-20.5, 5)
    for left, width in re.findall(r"left:(-?[\d.]+)%;width:(-?[\d.]+)%", run_page(summary)):
        assert float(left) >= 0
        assert float(width) >= 0
        assert float(left) + float(width) <= 100.01


def test_write_page_gives_utf8(summary, tmp_path):
    summary.title = "Träume · 夢"
    assert "Träume · 夢" in write_page(summary, tmp_path / "run.html").read_bytes().decode("utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.png", r"cannot read .*gone\.png"), ("run.svg", r"run\.svg: expected .* got \.svg")],
)
def test_bad_pictures_are_named(summary, tmp_path, name, message):
    summary.pictures = [Picture(tmp_path / name, "x")]
    with pytest.raises(ValueError, match=message):
        run_page(summary)
