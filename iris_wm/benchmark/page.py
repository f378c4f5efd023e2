"""The report as one HTML page that carries its pictures and fetches nothing."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris_wm.benchmark.tables import NOTHING, Table

# An interval or a standard deviation behind a figure goes below it, smaller.
_SPREAD = re.compile(r"(?<=\d) (\(-?\d[^)]* to [^)]*\)|± .*)$")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, a sentence, then a picture (an SVG file), a table, or both."""

    title: str
    text: str
    picture: Path | None = None
    table: Table | None = None
    folded: bool = False


@dataclass(frozen=True)
class Headline:
    """A figure in a card at the top."""

    name: str
    value: str
    note: str


def render_page(
    title: str,
    facts: Sequence[str],
    notes: Sequence[str],
    headlines: Sequence[Headline],
    sections: Sequence[Section],
) -> str:
    """The page as HTML text."""
    cards = "".join(
        f'<div class="card"><h2>{_text(card.name)}</h2><p class="value">{_text(card.value)}</p>'
        f"<p>{_text(card.note)}</p></div>"
        for card in headlines
    )
    facts_line = "".join(f"<span>{_text(fact)}</span>" for fact in facts)
    warning = "".join(f"<li>{_text(note)}</li>" for note in notes)
    parts = [
        f'<header><h1>{_text(title)}</h1><p class="facts">{facts_line}</p></header>',
        f'<div class="cards">{cards}</div>' if cards else "",
        f'<section class="notes"><h2>Read this first</h2><ul>{warning}</ul></section>' if notes else "",
        *(_section(section) for section in sections),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    inner = f"<p>{_text(section.text)}</p>" if section.text else ""
    if section.picture is not None:
        data = base64.b64encode(section.picture.read_bytes()).decode("ascii")
        inner += f'<figure><img alt="{_text(section.title)}" src="data:image/svg+xml;base64,{data}"></figure>'
    if section.table is not None:
        inner += _table(section.table)
    if section.folded:
        return f"<section><details><summary>{_text(section.title)}</summary>{inner}</details></section>"
    return f"<section><h2>{_text(section.title)}</h2>{inner}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, cell in enumerate(row):
            label = "best" if (i, j) in table.best else "none" if cell == NOTHING else "cell"
            text = _SPREAD.sub(r"<small>\1</small>", _text(cell))
            cells.append(f'<td class="{label}">{text}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    kind = "words" if table.header[-1] == "source" else "narrow" if len(table.header) < 5 else "wide"
    contents = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{contents}</table></div>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_STYLE = """
:root { --ground:#f5f6f9; --card:#ffffff; --line:#e1e4eb; --text:#1b1f29; --soft:#5d6678; --accent:#d1495b;
  --warn:#fff7e6; --warnline:#efd9a7 }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--text);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif }
main { max-width:1240px; margin:0 auto; padding:40px 20px 64px }
h1 { font-size:2rem; line-height:1.2; margin:0 0 12px; letter-spacing:-.02em }
h2 { font-size:1.1rem; margin:0 0 8px }
.facts { margin:0 0 24px; color:var(--soft); display:flex; flex-wrap:wrap; gap:8px }
.facts span { border:1px solid var(--line); background:var(--card); border-radius:99px; padding:2px 12px;
  font-size:.88rem }
section { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:20px 22px;
  margin:0 0 20px }
section > p, details > p { margin:0 0 14px; color:var(--soft); font-size:.93rem; max-width:90ch }
.notes { background:var(--warn); border-color:var(--warnline) }
.notes ul { margin:0; padding-left:20px } .notes li { margin:4px 0; font-size:.93rem }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(190px,1fr)); gap:16px; margin:0 0 20px }
.card { background:var(--card); border:1px solid var(--line); border-top:4px solid var(--accent);
  border-radius:14px; padding:16px 18px }
.card h2 { font-size:.85rem; font-weight:600; color:var(--soft); margin:0 }
.card p { margin:0; color:var(--soft); font-size:.85rem }
.card .value { font-size:2rem; line-height:1.3; font-weight:700; color:var(--text);
  font-variant-numeric:tabular-nums }
figure { margin:0 0 6px } img { display:block; width:100%; height:auto }
figure + .scroll { margin-top:16px }
.scroll { overflow-x:auto }
table { border-collapse:collapse; font-size:.86rem; font-variant-numeric:tabular-nums; width:100% }
th, td { padding:4px 9px; vertical-align:top; text-align:right; white-space:nowrap;
  border-bottom:1px solid var(--line) }
th { color:var(--soft); font-weight:600; border-bottom:2px solid var(--line); vertical-align:bottom }
th:first-child, td:first-child { text-align:left; position:sticky; left:0; background:var(--card) }
td:first-child { font-weight:600 }
.narrow { width:auto; min-width:50% }
.words th, .words td { text-align:left; white-space:normal; vertical-align:top }
tbody tr:hover td { background:#f5f6f9 }
small { display:block; font-size:.92em; font-weight:400; color:var(--soft) }
.best { font-weight:700; color:var(--accent) } .none { color:var(--soft) }
summary { cursor:pointer; font-weight:600; font-size:1.05rem } details > p { margin-top:12px }
@media print { body { background:#fff } section { break-inside:avoid } }
"""
