"""Strict YAML, and how values are shown in messages.

The core schema of version 1.2 without tags, anchors and aliases: only ``true`` and ``false`` are booleans
(``game: no`` is text), ``1e-4`` is a number, ``1:30`` is text, a key stands once. Every complaint is one
``ValueError`` that names the place.
"""

import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file of at most 100 kB; a one-line ``ValueError`` where it is anything else."""
    name = str(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ValueError(f"{name}: got a URL, expected the path of a YAML file; download it first")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise ValueError(f"{name}: got a folder, expected a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{name}: cannot read this config file: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}: too large for a config (limit {MAX_BYTES // 1000} kB)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"{name}: got binary data (it begins {data[:8]!r}), expected a YAML text file"
        ) from None
    if re.match(r"\s*<(?:!doctype|html|\?xml)", text, re.IGNORECASE):
        raise ValueError(f"{name}: got an HTML or XML page, expected a YAML file")
    return parse_yaml(text, name)


def parse_yaml(text: str, source: str = "config") -> dict[str, Any]:
    """The mapping that ``text`` holds ({} for an empty text); ``source`` names it in errors."""
    value = _parse(text, source)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f'{source}: got {show(value)}, expected lines "key: value"')
    return value


def parse_value(text: str, source: str = "value") -> Any:
    """One value of the command line: a bracketed or quoted text is YAML, anything else a plain scalar."""
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return _parse(text, source)
    return _plain(text, source)


def dump(mapping: Mapping[str, Any]) -> str:
    """YAML text that ``parse_yaml`` reads back unchanged."""
    return yaml.dump(
        dict(mapping), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    )


def show(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    text = str(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


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
            raise ValueError(f"{source}: got several YAML documents, expected one")
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
            raise ValueError(f"{source}:{line}: got {show(key)}, expected a name as key")
        if key in lines:
            raise ValueError(f"{source}:{line}: duplicate key {show(key)} (first at line {lines[key]})")
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
