"""Configurations as typed dataclasses: from a mapping, back to one, changed from the command line, told to people.

A choice whose members have options of their own is a tagged union: a field typed ``A | B`` of dataclasses, each with
``kind: Literal["a"] = field(default="a", init=False)``. In YAML ``{kind: a, size: 3}``; ``a`` alone is short for
``{kind: a}``, and without a kind the options are those of the field's default.
"""

import ast
import copy
import dataclasses
import difflib
import functools
import hashlib
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from iris_wm import strict_yaml
from iris_wm.strict_yaml import parse_value, show

_Config = TypeVar("_Config")


# ---- limits ----


class Range(NamedTuple):
    """Limits of a number, in a field's type: ``Annotated[int, Range(1)]``. Never infinity or NaN.

    low, high: both inside, but for the one that ``without`` names.
    """

    low: float = -math.inf
    high: float = math.inf
    without: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value is within."""
        return math.isfinite(value) and self.low <= value <= self.high and value != self.without

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "that is finite"
        if self.high < math.inf and self.without != self.low:
            return f"from {self.low} to {'below ' if self.without == self.high else ''}{self.high}"
        low = f"above {self.low}" if self.without == self.low else f"of at least {self.low}"
        return low if self.high == math.inf else f"{low} and at most {self.high}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, without=0)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
FiniteFloat = Annotated[float, Range()]


class Config:
    """Base of the dataclasses that hold options: made by hand or from a file, each field is of its type, or a
    ``ValueError`` says "name: got X, expected Y"."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _convert(hint, getattr(self, name), name)


_hints = functools.partial(typing.get_type_hints, include_extras=True)


# ---- reading and writing ----


def apply_overrides(mapping: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """A copy of ``mapping`` with dotted keys set, from ``--key value``, ``--key=value`` and ``key=value``.

    Keys are taken as they stand; ``build_config`` then refuses unknown and abbreviated ones.
    """
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    given: set[str] = set()
    while rest:
        argument = rest.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not equals:
            if not argument.startswith("--"):
                raise ValueError(f'cannot understand "{argument}"; expected --key value or key=value')
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{argument}: expected a value after it")
            text = rest.pop(0)
        if key in given:
            raise ValueError(f"--{key}: given twice")
        given.add(key)
        if not all(key.split(".")):
            raise ValueError(f'cannot understand the key "{key}" in "{argument}"; expected section.key')
        value = parse_value(text, f"--{key}")
        for part in reversed(key.split(".")):
            value = {part: value}
        overrides = merge(overrides, value)
    return merge(mapping, overrides)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, that of ``over`` counts.

    Another ``kind`` brings its own options: those of the kind before go.
    """
    result = copy.deepcopy(dict(under))
    for key, value in over.items():
        below: Any = result.get(key)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = {"kind": below}
        elif isinstance(below, Mapping) and isinstance(value, str):
            value = {"kind": value}
        is_both = isinstance(below, Mapping) and isinstance(value, Mapping)
        is_other_kind = is_both and "kind" in below and value.get("kind", below["kind"]) != below["kind"]
        result[key] = merge(below, value) if is_both and not is_other_kind else copy.deepcopy(value)
    return result


def build_config(cls: type[_Config], mapping: Any, path: str = "") -> _Config:
    """An instance of the dataclass ``cls`` from a mapping, nested dataclasses included, nothing guessed.

    Field types: int, float (takes whole numbers), bool, str, Literal, tuple, list, dict with str keys, unions
    and None, dataclasses. ``path`` is the dotted key of the section, for errors.
    """
    assert dataclasses.is_dataclass(cls), cls
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f'{path or cls.__name__}: got {show(mapping)}, expected a section of "key: value" lines'
        )
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f'did you mean "{close[0]}"?' if close else "expected one of " + ", ".join(fields)
            raise ValueError(f"unknown key {show(_join(path, str(key)))}; {hint}")
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        if name in mapping:
            value = mapping[name]
            if _members(hints[name]) and isinstance(value, Mapping) and "kind" not in value:
                value = {"kind": _default(field).kind, **value}
            values[name] = _convert(hints[name], value, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f'missing key "{_join(path, name)}"; expected {_describe(hints[name])}')
    try:
        return cls(**values)
    except ValueError as error:
        # A dataclass names its own field first ("num_layers: got 0, ..."), so the path goes before it.
        raise ValueError(_join(path, str(error))) from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The nested dict of a dataclass, tuples as lists: what ``build_config`` takes back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(config))


def dump_yaml(config: Any) -> str:
    """A dataclass or mapping as YAML text that ``parse_yaml`` reads back unchanged."""
    return strict_yaml.dump(config if isinstance(config, Mapping) else to_mapping(config))


def config_hash(config: Any) -> str:
    """sha256 (hex) of a dataclass or mapping; the order of keys does not matter."""
    mapping = dict(config) if isinstance(config, Mapping) else to_mapping(config)
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()


# ---- telling ----


class Option(NamedTuple):
    """One key of a config: dotted, what it takes in words, its default, its field's docstring."""

    key: str
    type: str
    default: str
    help: str


class Section(NamedTuple):
    """The keys of one dataclass of a config; key: its own, "" for the whole."""

    key: str
    help: str
    options: list[Option]


def describe(config: Any, path: str = "") -> list[Section]:
    """Every section of a dataclass, itself first, and the sections inside it; its values are the defaults told."""
    hints, texts = _hints(type(config)), field_docstrings(type(config))
    own = Section(path, inspect.cleandoc(type(config).__doc__ or "").splitlines()[0], [])
    sections = [own]
    for field in dataclasses.fields(config):
        value, key, hint = getattr(config, field.name), _join(path, field.name), hints[field.name]
        members = _members(hint)
        for kind, member in members.items():
            first, *inside = describe(value if value.kind == kind else member(), key)
            sections += (
                [first._replace(help=f"{kind}: {first.help}"), *inside] if first.options or inside else []
            )
        if dataclasses.is_dataclass(value) and not members:
            sections += describe(value, key)
        elif field.init:
            value = value.kind if members else value
            default = value if isinstance(value, str) and value else show(value)
            own.options.append(Option(key, _describe(hint), default, texts[field.name]))
    return sections


def field_docstrings(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass, inherited ones too, by the field's name; none: it is missing."""
    texts: dict[str, str] = {}
    for each in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        texts |= {
            ast.unparse(field.target): " ".join(str(below.value.value).split())
            for field, below in itertools.pairwise(tree.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        }
    return texts


# ---- building ----


def _convert(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type ``hint``, or a ``ValueError`` naming ``path``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or dataclasses.is_dataclass(value):
        return value
    if origin is Annotated:
        number, limits = _convert(arguments[0], value, path), hint.__metadata__[0]
        if limits.holds(number):
            return number
    if members := _members(hint):
        return _choose(members, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build_config(hint, value, path)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        if value is None and len(options) < len(arguments):
            return None
        if len(options) == 1 and value is not None:
            return _convert(options[0], value, path)
        for option in options:
            try:
                return _convert(option, value, path)
            except ValueError:
                continue
    elif origin is Literal:
        for option in arguments:
            if type(option) is type(value) and option == value:
                return value
    elif origin in (tuple, list) and isinstance(value, (list, tuple)):
        if origin is list or arguments[-1] is Ellipsis:
            inner = [arguments[0]] * len(value)
        else:
            inner = list(arguments)
        if len(inner) == len(value):
            pairs = zip(inner, value, strict=True)
            return origin(
                _convert(each, item, f"{path}[{index}]") for index, (each, item) in enumerate(pairs)
            )
    elif origin is dict and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, _join(path, key)) for key, item in value.items()}
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{path}: got {show(value)}, expected {_describe(hint)}{_advice(hint, value)}")


def _default(field: dataclasses.Field) -> Any:
    """The default of a field that has one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _members(hint: Any) -> dict[str, Any]:
    """The members of a tagged union by kind; {} for any other type."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    is_tagged = all(dataclasses.is_dataclass(member) and hasattr(member, "kind") for member in members)
    return {member.kind: member for member in members} if is_tagged else {}


def _choose(members: dict[str, Any], value: Any, path: str) -> Any:
    """The member of a tagged union that ``value`` names: the kind alone, or a section with a key kind."""
    options = {"kind": value} if isinstance(value, str) else value
    kinds = Literal[tuple(members)]  # type: ignore[valid-type]
    if not isinstance(options, Mapping):
        raise ValueError(f"{path}: got {show(value)}, expected {_describe(kinds)}")
    kind = _convert(kinds, options.get("kind"), path if isinstance(value, str) else f"{path}.kind")
    return build_config(members[kind], {key: item for key, item in options.items() if key != "kind"}, path)


def _advice(hint: Any, value: Any) -> str:
    """How to repair a value of the wrong type, where that is known."""
    if hint is str and isinstance(value, (int, float)):
        return "; put it in quotes"
    if hint is float and str(value).lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return "; write .nan or .inf"
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        close = difflib.get_close_matches(value, map(str, typing.get_args(hint)), n=1)
        return f"; did you mean {show(close[0])}?" if close else ""
    return ""


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if members := _members(hint):
        return _describe(Literal[tuple(members)])
    if origin is Annotated:
        return f"{_describe(arguments[0])} {hint.__metadata__[0]}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(show, arguments))
    if origin in (tuple, list):
        if origin is list or arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(_describe(option) for option in arguments)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(hint, "a section")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
