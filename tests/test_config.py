"""Configurations: what YAML may say, what the dataclasses take, and how every mistake is reported."""

import math
import re
import time
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_wm.config import (
    apply_overrides,
    build_config,
    config_hash,
    describe,
    dump_yaml,
    to_mapping,
)
from iris_wm.strict_yaml import parse_value, parse_yaml, read_yaml


@dataclass
class WorldConfig:
    num_layers: int = 10
    embed_dim: int = 256
    num_heads: int = 4
    dropout: float = 0.1
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 0.5)
    mode: Literal["autoregressive", "parallel"] = "autoregressive"
    limit: float | None = None

    def __post_init__(self):
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must divide by num_heads ({self.embed_dim} / {self.num_heads})")


@dataclass
class Config:
    seed: int
    game: str = "Breakout"
    learning_rate: float = 1e-4
    fast: bool = False
    precision: Literal[16, 32] | str = 32
    world: WorldConfig = field(default_factory=WorldConfig)
    extra: WorldConfig | None = None
    names: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("+3", 3),
        ("0x10", 16),
        ("0o17", 15),
        ("0", 0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("=", "="),
        ("<<", "<<"),
        ("null", None),
        ("~", None),
        ("'010'", "010"),
        ('"1"', "1"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars_of_the_core_schema(text, value):
    for got in (parse_value(text), parse_yaml(f"key: {text}\n")["key"]):
        assert got == value
        assert type(got) is type(value)


def test_nan_must_be_written_with_a_dot():
    assert math.isnan(parse_value(".nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'file:3: duplicate key "a" (first at line 1)'),
        ("s:\n  a: 1\n  a: 2\n", 'file:3: duplicate key "a" (first at line 2)'),
        ("a: 010\n", "leading zero"),
        ("a: -007\n", "leading zero"),
        ("a: 1e999\n", "too large"),
        ("a: " + "9" * 5000, "64 bits"),
        ("a: 9223372036854775808", "64 bits"),
        ("a: &x 1\nb: *x\n", "anchors and aliases"),
        ("a: &a [1]\n", "anchors and aliases"),
        ("a: *nobody\n", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "tags are not allowed"),
        ("a: !!binary aGk=\n", "tags are not allowed"),
        ("a: !mine 1\n", "tags are not allowed"),
        ("%TAG ! tag:x,2000:\n---\na: !foo 1\n", "tags are not allowed"),
        ("a: " + "[" * 2000 + "]" * 2000, "nested too deep"),
        ("a: " + "[" * 90_000, "nested too deep"),
        ("a: " + "{a: " * 2000, "nested too deep"),
        ("a: " + "x" * 100_001, "too large for a config (limit 100 kB)"),
        ("- 1\n- 2\n", 'expected lines "key: value"'),
        ("just text", 'expected lines "key: value"'),
        ("a: 1\n---\nb: 2\n", "several YAML documents"),
        ("1: x\n", "got 1, expected a name as key"),
        ("true: x\n", "got true, expected a name as key"),
        ("~: x\n", "got null, expected a name as key"),
        ("? [a, b]\n: x\n", "expected a name as key"),
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: 'open\n", "not valid YAML"),
        ("a: b: c\n", "not valid YAML"),
        ("a:\n\t- 1\n", "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
        ("%YAML 9.0\n---\na: 1\n", "not valid YAML"),
        ("a: @x\n", "not valid YAML"),
    ],
)
def test_bad_yaml_is_one_line_that_names_the_place(text, message):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"^file") as caught:
        parse_yaml(text, "file")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert time.perf_counter() - started < 5


def test_empty_text_is_an_empty_mapping():
    assert parse_yaml("") == parse_yaml("# nothing\n") == parse_yaml("---\n") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}q\x00.", "binary data"),
        (b"\x00" * 200_000, "too large"),
        (b"\xff\xfea\x00", "binary data"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n <html>", "HTML"),
    ],
)
def test_files_that_are_not_yaml(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "deep").write_text("")
    for path, message in {
        tmp_path: "got a folder",
        tmp_path / "missing.yaml": "No such file",
        tmp_path / "deep" / "config.yaml": "Not a directory",
        "https://example.org/config.yaml": "got a URL",
        "nul\0byte": "null byte",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_yaml(path)


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_yaml(path) == {"seed": 1}


def test_builds_nested_dataclasses():
    config = build_config(
        Config,
        {
            "seed": 3,
            "learning_rate": 1,
            "world": {"widths": [8, 9, 10], "pair": [2, 1], "mode": "parallel", "limit": 2},
            "extra": {"dropout": 0},
            "names": ["a"],
            "weights": {"x": 1},
        },
    )
    assert config.learning_rate == 1.0
    assert isinstance(config.learning_rate, float)
    assert config.world.widths == (8, 9, 10)
    assert config.world.pair == (2, 1.0)
    assert config.world.limit == 2.0
    assert config.extra == WorldConfig(dropout=0.0)
    assert config.precision == 32
    assert config.weights == {"x": 1.0}
    assert build_config(Config, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, 'missing key "seed"; expected a whole number'),
        (
            {"seed": 0, "world": {"num_layer": 1}},
            'unknown key "world.num_layer"; did you mean "num_layers"?',
        ),
        ({"seed": 0, "_target_": "os.system"}, 'unknown key "_target_"; expected one of seed, game'),
        ({"seed": 0, "class_path": "x"}, 'unknown key "class_path"'),
        ({"seed": True}, "seed: got true, expected a whole number"),
        ({"seed": 1.0}, "seed: got 1.0, expected a whole number"),
        ({"seed": "1"}, 'seed: got "1", expected a whole number'),
        ({"seed": None}, "seed: got null, expected a whole number"),
        ({"seed": 0, "game": 1942}, "game: got 1942, expected text; put it in quotes"),
        ({"seed": 0, "game": None}, "game: got null, expected text"),
        ({"seed": 0, "fast": 1}, "fast: got 1, expected true or false"),
        ({"seed": 0, "fast": "no"}, 'fast: got "no", expected true or false'),
        ({"seed": 0, "learning_rate": True}, "learning_rate: got true, expected a number"),
        (
            {"seed": 0, "learning_rate": "nan"},
            'learning_rate: got "nan", expected a number; write .nan or .inf',
        ),
        (
            {"seed": 0, "world": {"mode": "paralel"}},
            'world.mode: got "paralel", expected one of "autoregressive", "parallel"; '
            'did you mean "parallel"?',
        ),
        ({"seed": 0, "precision": 8}, "precision: got 8, expected one of 16, 32 or text"),
        (
            {"seed": 0, "world": {"widths": [1, "x"]}},
            'world.widths[1]: got "x", expected a whole number',
        ),
        (
            {"seed": 0, "world": {"widths": 3}},
            "world.widths: got 3, expected a list, each a whole number",
        ),
        (
            {"seed": 0, "world": {"pair": [1]}},
            "world.pair: got [1], expected a list of 2: a whole number, a number",
        ),
        ({"seed": 0, "world": 3}, 'world: got 3, expected a section of "key: value" lines'),
        ({"seed": 0, "world": None}, 'world: got null, expected a section of "key: value" lines'),
        ({"seed": 0, "extra": {"dropout": "x"}}, 'extra.dropout: got "x", expected a number'),
        ({"seed": 0, "weights": {"x": "y"}}, 'weights.x: got "y", expected a number'),
        (
            {"seed": 0, "world": {"embed_dim": 30}},
            "world.embed_dim must divide by num_heads (30 / 4)",
        ),
        ({"seed": 0, "world": {"limit": "x"}}, 'world.limit: got "x", expected a number'),
    ],
)
def test_bad_values_name_key_value_and_expectation(mapping, message):
    with pytest.raises(ValueError, match=r".") as caught:
        build_config(Config, mapping)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_overrides_in_three_spellings():
    mapping = {"seed": 0, "world": {"num_layers": 10}}
    result = apply_overrides(
        mapping,
        ["--world.num_layers", "3", "--game=no", "learning_rate=1e-3", "--world.limit", "-1"],
    )
    assert result == {
        "seed": 0,
        "game": "no",
        "learning_rate": 1e-3,
        "world": {"num_layers": 3, "limit": -1},
    }
    assert mapping == {"seed": 0, "world": {"num_layers": 10}}
    assert apply_overrides({}, ["--world.widths", "[1, 2]"]) == {"world": {"widths": [1, 2]}}
    assert apply_overrides({}, ["--game=a=b"]) == {"game": "a=b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed"], "--seed: expected a value"),
        (["--seed", "--game", "x"], "--seed: expected a value"),
        (["seed"], 'cannot understand "seed"'),
        (["-s", "1"], 'cannot understand "-s"'),
        (["--seed", "1", "--seed", "2"], "--seed: given twice"),
        (["--world..x", "1"], "cannot understand the key"),
        (["--=1"], "cannot understand the key"),
        (["--seed=010"], "--seed: 010 has a leading zero"),
        (["--names", "[1"], "--names:1: not valid YAML"),
    ],
)
def test_bad_overrides(arguments, message):
    with pytest.raises(ValueError, match=r".") as caught:
        apply_overrides({"seed": 0}, arguments)
    assert message in str(caught.value)


def test_abbreviated_keys_are_refused():
    with pytest.raises(ValueError, match=r'unknown key "world.num_l"'):
        build_config(Config, apply_overrides({"seed": 0}, ["--world.num_l", "3"]))


def test_dumped_text_reads_back():
    config = Config(seed=1, game="no", learning_rate=1e-5, extra=WorldConfig(limit=math.inf), names=["1e-4"])
    text = dump_yaml(config)
    assert build_config(Config, parse_yaml(text)) == config
    assert "1.0e-05" in text or "1e-05" in text


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["no", "1e-4", "010", "1:30", "~", "", "null", ".inf", "<<", "=", "0x1", "yes", "-", "? a"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), _values, max_size=4))
def test_any_mapping_survives_yaml(mapping):
    assert parse_yaml(dump_yaml(mapping)) == mapping


def test_hash_ignores_the_order_of_keys_and_sees_every_value():
    config = Config(seed=1)
    assert config_hash(config) == config_hash(dict(reversed(to_mapping(config).items())))
    assert config_hash(config) != config_hash(Config(seed=2))
    assert config_hash(config) != config_hash(Config(seed=1, world=WorldConfig(dropout=0.2)))


# ---- tagged unions ----


@dataclass(frozen=True)
class Circle:
    """Round."""

    kind: Literal["circle"] = field(default="circle", init=False)
    radius: float = 1.0
    """Of the border."""


@dataclass(frozen=True)
class Square:
    """Not round."""

    kind: Literal["square"] = field(default="square", init=False)
    side: int = 2
    """Of each side."""
    color: str = "red"
    """Of the area."""


@dataclass(frozen=True)
class Drawing:
    """A picture."""

    shape: Circle | Square = Circle()
    """What is drawn."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", Circle()),
        ("shape: square", Square()),
        ("shape: {kind: square, side: 3}", Square(side=3)),
        ("shape: {kind: circle, radius: 2}", Circle(radius=2.0)),
        ("shape: {radius: 2}", Circle(radius=2.0)),
    ],
)
def test_a_kind_brings_its_own_options(text, expected):
    drawing = build_config(Drawing, parse_yaml(text))
    assert drawing.shape == expected
    assert build_config(Drawing, parse_yaml(dump_yaml(drawing))) == drawing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape: sqare", 'shape: got "sqare", expected one of "circle", "square"; did you mean "square"?'),
        ("shape: {kind: oval}", 'shape.kind: got "oval", expected one of "circle", "square"'),
        ("shape: {side: 3}", 'unknown key "shape.side"; expected one of radius'),
        ("shape: {kind: square, sid: 3}", 'unknown key "shape.sid"; did you mean "side"?'),
        ("shape: {kind: circle, side: 3}", 'unknown key "shape.side"; expected one of radius'),
        ("shape: 3", 'shape: got 3, expected one of "circle", "square"'),
        ("shape: {kind: square, side: x}", 'shape.side: got "x", expected a whole number'),
    ],
)
def test_what_no_kind_has_is_refused(text, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        build_config(Drawing, parse_yaml(text))


@pytest.mark.parametrize(
    ("under", "arguments", "expected"),
    [
        ("shape: square", ["--shape.side", "5"], Square(side=5)),
        ("shape: {kind: square, side: 5}", ["--shape.color", "blue"], Square(5, "blue")),
        ("shape: {kind: square, side: 5}", ["--shape", "square"], Square(5)),
        ("shape: {kind: square, side: 5}", ["--shape", "circle"], Circle()),
        ("shape: {kind: square, side: 5}", ["--shape.kind", "circle", "--shape.radius", "3"], Circle(3.0)),
        ("shape: square", ["--shape.radius=3", "--shape.kind=circle"], Circle(3.0)),
        ("shape: square", ["--shape.radius=3", "--shape=circle"], Circle(3.0)),
        ("{}", ["--shape=square", "--shape.side=3"], Square(3)),
    ],
)
def test_another_kind_leaves_the_options_of_the_one_before(under, arguments, expected):
    assert build_config(Drawing, apply_overrides(parse_yaml(under), arguments)).shape == expected


def test_a_union_is_told_kind_by_kind():
    drawing, circle, square = describe(Drawing())
    assert drawing.options == [("shape", 'one of "circle", "square"', "circle", "What is drawn.")]
    assert (circle.key, circle.help) == ("shape", "circle: Round.")
    assert [option.key for option in square.options] == ["shape.side", "shape.color"]
