"""Configurations as data: strict YAML in, typed dataclasses out, and back.

The YAML is the core schema of version 1.2 without tags, anchors and aliases: only ``true`` and ``false`` are
booleans (``game: no`` is text), ``1e-4`` is a number, ``1:30`` is text, a key stands once. Every complaint is
one ``ValueError`` that names the place.

A choice whose members have options of their own is a tagged union: a field typed ``A | B`` of dataclasses, each with
``kind: Literal["a"] = field(default="a", init=False)``. In YAML ``{kind: a, size: 3}``; ``a`` alone is short for
``{kind: a}``, and without a kind the options are those of the field's default.
"""

import ast
import copy
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

MAX_BYTES = 100_000
MAX_DEPTH = 20
_INT_LIMIT = 2**63

_PLAIN = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_Config = TypeVar("_Config")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file of at most 100 kB; a one-line ``ValueError`` where it is anything else."""
    name = str(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ValueError(f"{name}: expected the path of a YAML file, got a URL; download it first")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise ValueError(f"{name}: expected a YAML file, got a folder") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{name}: cannot read this config file: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}: too large for a config (limit {MAX_BYTES // 1000} kB)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"{name}: expected a YAML text file, got binary data (it begins {data[:8]!r})"
        ) from None
    if re.match(r"\s*<(?:!doctype|html|\?xml)", text, re.IGNORECASE):
        raise ValueError(f"{name}: expected a YAML file, got an HTML or XML page")
    return parse_yaml(text, name)


def parse_yaml(text: str, source: str = "config") -> dict[str, Any]:
    """The mapping that ``text`` holds ({} for an empty text); ``source`` names it in errors."""
    value = _parse(text, source)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f'{source}: expected lines "key: value", got {_show(value)}')
    return value


def parse_value(text: str, source: str = "value") -> Any:
    """One value of the command line: a bracketed or quoted text is YAML, anything else a plain scalar."""
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return _parse(text, source)
    return _plain(text, source)


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
            f'{path or cls.__name__}: expected a section of "key: value" lines, got {_show(mapping)}'
        )
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f'did you mean "{close[0]}"?' if close else "expected one of " + ", ".join(fields)
            raise ValueError(f"unknown key {_show(_join(path, str(key)))}; {hint}")
    hints = typing.get_type_hints(cls)
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
    mapping = dict(config) if isinstance(config, Mapping) else to_mapping(config)
    return yaml.dump(
        mapping, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    )


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
    hints, texts = typing.get_type_hints(type(config)), field_docstrings(type(config))
    own = Section(path, inspect.cleandoc(type(config).__doc__ or "").splitlines()[0], [])
    sections = [own]
    for field in dataclasses.fields(config):
        value, key, hint = getattr(config, field.name), _join(path, field.name), hints[field.name]
        members = _members(hint)
        for kind, member in members.items():
            (section,) = describe(value if value.kind == kind else member(), key)
            sections += [section._replace(help=f"{kind}: {section.help}")] if section.options else []
        if dataclasses.is_dataclass(value) and not members:
            sections += describe(value, key)
        elif field.init:
            value = value.kind if members else value
            default = value if isinstance(value, str) and value else _show(value)
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


# ---- reading ----


def _parse(text: str, source: str) -> Any:
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"{source}: too large for a config (limit {MAX_BYTES // 1000} kB)")
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(events)  # the start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        value = _node(next(events), events, source, 1)
        next(events)  # the end of the document
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise ValueError(f"{source}: expected one YAML document, got several")
        return value
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{source}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None


def _node(event: Any, events: Iterator[Any], source: str, depth: int) -> Any:
    """The value that begins with ``event``; built here so that lines, depth and duplicates are known."""
    where = f"{source}:{event.start_mark.line + 1}"
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise ValueError(f"{where}: anchors and aliases (& and *) are not allowed; write the value out")
    if event.tag and event.tag != "!":
        raise ValueError(f"{where}: tags are not allowed, got {event.tag!r}")
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}: nested too deep for a config (limit {MAX_DEPTH})")
    if isinstance(event, yaml.ScalarEvent):
        return event.value if event.style or event.tag else _plain(event.value, where)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, source, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    lines: dict[str, int] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = event.start_mark.line + 1
        key = _node(event, events, source, depth + 1)
        if not isinstance(key, str):
            raise ValueError(f"{source}:{line}: expected a name as key, got {_show(key)}")
        if key in lines:
            raise ValueError(f"{source}:{line}: duplicate key {_show(key)} (first at line {lines[key]})")
        lines[key] = line
        mapping[key] = _node(next(events), events, source, depth + 1)
    return mapping


def _plain(text: str, where: str) -> Any:
    """What an unquoted scalar means."""
    if _PLAIN["null"].match(text):
        return None
    if _PLAIN["bool"].match(text):
        return text.lower() == "true"
    if _PLAIN["int"].match(text):
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits.isdigit() and digits[0] == "0":
            raise ValueError(
                f"{where}: {text[:40]} has a leading zero; write the number without it, or quote the text"
            )
        number = int(text, 0) if len(text) <= 22 else _INT_LIMIT
        if abs(number) >= _INT_LIMIT:
            raise ValueError(f"{where}: the number {text[:40]} does not fit into 64 bits")
        return number
    if _PLAIN["float"].match(text):
        lowered = text.lower()
        value = float(lowered.replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and "inf" not in lowered:
            raise ValueError(f"{where}: the number {text[:40]} is too large; write .inf for infinity")
        return value
    return text


class _Dumper(yaml.SafeDumper):
    """Writes flat lists in brackets, mappings in lines, and quotes what ``_plain`` would not read as text."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in _PLAIN.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
_Dumper.add_representer(
    dict, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=not data)
)
_Dumper.add_representer(
    str,
    lambda dumper, data: dumper.represent_scalar(
        "tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"'
    ),
)


# ---- building ----


def _convert(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type ``hint``, or a ``ValueError`` naming ``path``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
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
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{path}: expected {_describe(hint)}, got {_show(value)}{_advice(hint, value)}")


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
        raise ValueError(f"{path}: expected {_describe(kinds)}, got {_show(value)}")
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
        return f"; did you mean {_show(close[0])}?" if close else ""
    return ""


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if members := _members(hint):
        return _describe(Literal[tuple(members)])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(_show(option) for option in arguments)
    if origin in (tuple, list):
        if origin is list or arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(_describe(option) for option in arguments)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(hint, "a section")


def _show(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
