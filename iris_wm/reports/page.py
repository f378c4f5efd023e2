"""One self-contained HTML page: its pictures are inside it, nothing is fetched, no script runs, all text is escaped."""

import base64
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from iris_wm.reports.table import Table
from iris_wm.visualization.numbers import duration

_PICTURES = (".png", ".gif", ".svg")


@dataclass(frozen=True)
class Card:
    """A number at the page's top; tint: accent, agent, random, gain or human."""

    name: str
    value: str
    note: str
    tint: str = "accent"


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, a sentence, then a picture file, a table, or both; `is_folded` until clicked."""

    title: str
    text: str = ""
    picture: Path | None = None
    table: Table | None = None
    is_folded: bool = False


def render_page(
    title: str,
    facts: Sequence[str],
    cards: Sequence[Card] = (),
    notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
    template: str = "page.html.jinja",
    **more: Any,
) -> str:
    """The page as HTML text; `more` is for templates of one kind of page.

    Raises ValueError for a picture that is missing or of another format.
    """
    values = {"title": title, "facts": facts, "cards": cards, "notes": notes, "sections": sections}
    return _TEMPLATES.get_template(template).render(values | more)


def _data_uri(picture: Path) -> str:
    if picture.suffix.lower() not in _PICTURES:
        raise ValueError(
            f"pictures: {picture}: got {picture.suffix or 'no ending'}, expected one of {', '.join(_PICTURES)}"
        )
    try:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
    except OSError as error:
        raise ValueError(f"pictures: cannot read {picture}: {error.__class__.__name__}") from None
    return f"data:{mimetypes.guess_type(picture)[0]};base64,{data}"


def _split_spread(cell: str) -> tuple[str, str]:
    """An interval or a standard deviation behind a figure goes below it, smaller."""
    found = re.fullmatch(r"(.*\d) (\(-?\d[^)]* to [^)]*\)|± .*)", cell)
    return (found[1], found[2]) if found else (cell, "")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("iris_wm.reports"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"data_uri": _data_uri, "duration": duration, "split_spread": _split_spread}
