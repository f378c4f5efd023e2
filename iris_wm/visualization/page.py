"""One self-contained HTML page that shows a run: its score, its pictures, its curves, and what to do next."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".webp": "image/webp"}


@dataclass
class ReturnSummary:
    """Returns of the episodes of one policy in the real game.

    mean, std: of the episodes' returns. low, high: ends of an interval for the mean at level `confidence`.
    """

    mean: float
    num_episodes: int
    std: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95


@dataclass
class Picture:
    """A PNG, GIF, JPEG or WebP file to show, under a heading and over an explanation."""

    path: Path
    title: str
    caption: str = ""


@dataclass
class RunSummary:
    """What the page of a run shows; None and empty fields are left out.

    title, game: headings. env_steps, epochs, seed: how far the run went, and from which seed.
    agent, random_policy: evaluated returns, both measured in this run.
    human_return: published human return; human_normalized_score: (agent - random) / (human - random) by
      published scores, 1.0 is human. seconds: phase -> seconds it took, in the order to show.
    num_parameters: component -> count. hardware: a line. config: the run's configuration as YAML text.
    pictures: in the order to show. commands: (what for, command line) pairs for the reader to go on with.
    notes: paragraphs of plain text.
    """

    title: str
    game: str
    env_steps: int
    epochs: int
    seed: int | None = None
    agent: ReturnSummary | None = None
    random_policy: ReturnSummary | None = None
    human_return: float | None = None
    human_normalized_score: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    num_parameters: Mapping[str, int] = field(default_factory=dict)
    hardware: str = ""
    config: str = ""
    pictures: Sequence[Picture] = ()
    commands: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def run_page(summary: RunSummary) -> str:
    """The page as HTML text: images are inside it, nothing is fetched from elsewhere, no script runs.

    Raises ValueError for a picture that is missing or of another format.
    """
    facts = [f"{summary.game}", f"{summary.env_steps:,} environment steps", f"{summary.epochs:,} epochs"]
    if summary.seed is not None:
        facts.append(f"seed {summary.seed}")
    if summary.hardware:
        facts.append(summary.hardware)
    notes = "".join(f"<p>{_text(note)}</p>" for note in summary.notes)
    sections = [
        "<header><h1>" + _text(summary.title) + "</h1>",
        '<p class="facts">' + "".join(f"<span>{_text(fact)}</span>" for fact in facts) + "</p></header>",
        _scores(summary),
        f"<section>{notes}</section>" if notes else "",
        "".join(figure(picture) for picture in summary.pictures),
        _durations(summary.seconds),
        _table("Parameters", [(name, f"{count:,}") for name, count in summary.num_parameters.items()]),
        _commands(summary.commands),
        f"<section><details><summary>Configuration</summary><pre>{_text(summary.config)}</pre></details></section>"
        if summary.config
        else "",
    ]
    return page(summary.title, sections)


def page(title: str, sections: Sequence[str]) -> str:
    """A whole self-contained page in our style: sections of HTML (empty ones are left out) under a title."""
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def write_page(summary: RunSummary, path: str | Path) -> Path:
    """Writes `run_page` as UTF-8 and returns the path."""
    path = Path(path)
    path.write_text(run_page(summary), encoding="utf-8")
    return path


def _scores(summary: RunSummary) -> str:
    """The headline numbers, and a scale on which agent, random policy and human stand."""
    cards = []
    if summary.agent is not None:
        cards.append(_return_card("Agent", "agent", summary.agent))
    if summary.random_policy is not None:
        cards.append(_return_card("Random policy", "random", summary.random_policy))
    if summary.agent is not None and summary.random_policy is not None:
        gain = summary.agent.mean - summary.random_policy.mean
        cards.append(card("Above random", f"{gain:+.4g}", "return, measured in this run", "gain"))
    if summary.human_normalized_score is not None:
        note = "0 % random, 100 % human"
        if summary.human_return is not None:
            note += f" ({summary.human_return:g})"
        cards.append(card("Human-normalised", f"{100 * summary.human_normalized_score:.1f} %", note, "human"))
    if not cards:
        return ""
    return f'<section class="cards">{"".join(cards)}</section>{_scale(summary)}'


def _scale(summary: RunSummary) -> str:
    """A bar for each policy, its interval a thinner line, all on one axis from 0 or the lowest."""
    rows = [("agent", "Agent", summary.agent), ("random", "Random policy", summary.random_policy)]
    shown = [(kind, name, result) for kind, name, result in rows if result is not None]
    if len(shown) < 2:
        return ""
    ends = [end for _, _, r in shown for end in (r.mean, r.low, r.high) if end is not None] + [0.0]
    low, high = min(ends), max(ends)
    spread = (high - low) or 1.0

    def percent(value: float) -> float:
        return 100 * (value - low) / spread

    bars = []
    for kind, name, result in shown:
        left, right = sorted((percent(0.0), percent(result.mean)))
        interval = ""
        if result.low is not None and result.high is not None:
            start, width = percent(result.low), percent(result.high) - percent(result.low)
            interval = f'<i style="left:{start:.2f}%;width:{width:.2f}%"></i>'
        bars.append(
            f'<div class="bar {kind}"><span>{name}</span><div>'
            f'<b style="left:{left:.2f}%;width:{right - left:.2f}%"></b>{interval}</div>'
            f"<em>{result.mean:.4g}</em></div>"
        )
    return f'<section class="scale" aria-label="returns compared">{"".join(bars)}</section>'


def _return_card(name: str, kind: str, result: ReturnSummary) -> str:
    notes = []
    if result.low is not None and result.high is not None:
        notes.append(f"{100 * result.confidence:g} % interval {result.low:.4g} to {result.high:.4g}")
    elif result.std is not None:
        notes.append(f"standard deviation {result.std:.4g}")
    notes.append(f"{result.num_episodes:,} episode{'' if result.num_episodes == 1 else 's'}")
    return card(f"{name}: mean return", f"{result.mean:.4g}", " · ".join(notes), kind)


def card(name: str, value: str, note: str, kind: str) -> str:
    """A number to stand among others in a section of class "cards"; kind: agent, random, gain or human."""
    return (
        f'<div class="card {kind}"><h2>{_text(name)}</h2><p class="value">{_text(value)}</p>'
        f"<p>{_text(note)}</p></div>"
    )


def figure(picture: Picture) -> str:
    """A section with a picture; ValueError where it is missing or of another format."""
    path = Path(picture.path)
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        expected = ", ".join(_MEDIA_TYPES)
        raise ValueError(f"pictures: {path}: expected a file of {expected}, got {path.suffix or 'none'}")
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ValueError(f"pictures: cannot read {path}: {error.__class__.__name__}") from None
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    source = f"data:{media_type};base64,{data}"
    image = f'<img alt="{_text(picture.title)}" src="{source}">'
    return f"<section><h2>{_text(picture.title)}</h2><figure><div>{image}</div>{caption}</figure></section>"


def _durations(seconds: Mapping[str, float]) -> str:
    """One bar of all phases in their shares, and a line for each."""
    total = sum(seconds.values())
    if not total > 0:
        return ""
    parts, lines = [], []
    for i, (name, spent) in enumerate(seconds.items()):
        parts.append(f'<i class="p{i % 6}" style="width:{100 * spent / total:.2f}%"></i>')
        lines.append(
            f'<tr><td><i class="p{i % 6}"></i>{_text(name.replace("_", " "))}</td>'
            f"<td>{_duration(spent)}</td><td>{100 * spent / total:.0f} %</td></tr>"
        )
    return (
        f"<section><h2>Time: {_duration(total)}</h2>"
        f'<div class="time">{"".join(parts)}</div><table>{"".join(lines)}</table></section>'
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td>{_text(name.replace('_', ' '))}</td><td>{_text(value)}</td></tr>" for name, value in rows
    )
    return f"<section><h2>{_text(title)}</h2><table>{lines}</table></section>"


def _commands(commands: Sequence[tuple[str, str]]) -> str:
    if not commands:
        return ""
    lines = "".join(
        f"<dt>{_text(what)}</dt><dd><code>{_text(command)}</code></dd>" for what, command in commands
    )
    return f"<section><h2>Go on from here</h2><dl>{lines}</dl></section>"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)


_STYLE = """
:root { --ground:#f5f6f9; --card:#ffffff; --line:#e1e4eb; --text:#1b1f29; --soft:#5d6678;
  --agent:#a44bb4; --random:#8a93a5; --gain:#23804a; --human:#1f77ad; }
@media (prefers-color-scheme: dark) { :root { --ground:#16181e; --card:#21252f; --line:#333947;
  --text:#e8ebf1; --soft:#a0a8b8; --agent:#d67ae0; --random:#8a93a5; --gain:#68d391; --human:#56b4e9; } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--text);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif }
main { max-width:1120px; margin:0 auto; padding:40px 20px 64px }
h1 { font-size:2rem; line-height:1.2; margin:0 0 12px; letter-spacing:-.02em }
h2 { font-size:1.08rem; margin:0 0 12px }
.facts { margin:0 0 28px; color:var(--soft); display:flex; flex-wrap:wrap; gap:8px }
.facts span { border:1px solid var(--line); background:var(--card); border-radius:99px; padding:2px 12px;
  font-size:.88rem }
section { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:20px;
  margin:0 0 20px }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(220px,1fr)); gap:16px; padding:0;
  background:none; border:0 }
.card { background:var(--card); border:1px solid var(--line); border-top:4px solid var(--tint,var(--line));
  border-radius:14px; padding:16px 18px }
.card h2 { font-size:.85rem; font-weight:600; color:var(--soft); margin:0 }
.card p { margin:0; color:var(--soft); font-size:.85rem }
.card .value { font-size:2.1rem; line-height:1.3; font-weight:700; color:var(--tint,var(--text));
  font-variant-numeric:tabular-nums }
.agent { --tint:var(--agent) } .random { --tint:var(--random) }
.gain { --tint:var(--gain) } .human { --tint:var(--human) }
.bar { display:grid; grid-template-columns:120px 1fr 70px; gap:12px; align-items:center; margin:6px 0;
  font-size:.9rem }
.bar > div { position:relative; height:18px; background:var(--ground); border-radius:5px }
.bar b { position:absolute; top:0; bottom:0; background:var(--tint); border-radius:5px; opacity:.85 }
.bar i { position:absolute; top:8px; height:2px; background:var(--text) }
.bar em { font-style:normal; font-weight:600; font-variant-numeric:tabular-nums }
section > p { margin:0 } section > p + p { margin-top:10px }
figure { margin:0 }
figure div { overflow-x:auto; border-radius:8px; background:#21252f; text-align:center }
img { display:block; margin:0 auto; max-width:100%; height:auto }
figcaption { margin-top:10px; color:var(--soft); font-size:.9rem }
table { border-collapse:collapse; font-size:.93rem; font-variant-numeric:tabular-nums }
td { padding:4px 28px 4px 0 } td + td { text-align:right }
.time { display:flex; height:16px; border-radius:5px; overflow:hidden; margin-bottom:12px }
.time i { display:block; height:100% }
td i { display:inline-block; width:11px; height:11px; border-radius:3px; margin-right:10px }
.p0 { background:#56b4e9 } .p1 { background:#e6b037 } .p2 { background:#d67ae0 }
.p3 { background:#789fe6 } .p4 { background:#68d391 } .p5 { background:#f07060 }
dl { margin:0 } dt { margin-top:12px; color:var(--soft); font-size:.9rem } dd { margin:4px 0 0 }
code, pre { font:.88rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace }
dd code { display:block; background:var(--ground); border:1px solid var(--line); border-radius:8px;
  padding:8px 12px; overflow-x:auto; white-space:pre }
summary { cursor:pointer; font-weight:600 } pre { overflow-x:auto; margin:12px 0 0 }
@media (max-width:560px) { .bar { grid-template-columns:90px 1fr 54px } main { padding-top:24px } }
"""
