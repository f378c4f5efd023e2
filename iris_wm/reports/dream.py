"""The report on dream quality: numbers as JSON, a picture of each, and one self-contained page."""

import html
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iris_wm.evaluation.dream_metrics import Curve, EventQuality
from iris_wm.evaluation.dream_quality import EVENTS, DreamQuality
from iris_wm.visualization.film_strip import film_strip
from iris_wm.visualization.page import Picture, card, figure, page

_COLORS = ("#a44bb4", "#1f77ad", "#23804a", "#c8641e", "#8a93a5")
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_LEAST_FRAMES = 5
"""Curves end where they would be of fewer frames."""
_PANELS = (
    # curve, title, what else is drawn: (curve, label)
    ("token_accuracy", "Token accuracy", None),
    ("frame_l1", "Frame error (L1)", ("reconstruction_l1", "tokenizer alone")),
    ("psnr", "PSNR (dB)", ("reconstruction_psnr", "tokenizer alone")),
    ("ssim", "SSIM", ("reconstruction_ssim", "tokenizer alone")),
    ("objects", "Moving objects at their place", ("reconstruction_objects", "tokenizer alone")),
    ("token_entropy", "Token entropy (nats)", None),
    ("reward_brier", "Reward: Brier score", None),
    ("termination_brier", "Termination: Brier score", None),
)


def write_dream_report(qualities: Sequence[DreamQuality], folder: str | Path) -> Path:
    """Write NAME.json of each, the pictures and index.html to a folder; the page's path.

    qualities: of one agent, or several to compare, each under a name of its own, measured on the same episodes.
    """
    names = [quality.name for quality in qualities]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"dream report: expected agents of different names, got {names}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, quality in enumerate(qualities):
        quality.save(folder / ("quality.json" if len(names) == 1 else f"quality-{i}.json"))
    pictures = [_curves(qualities, folder), _events(qualities, folder), _entropy(qualities, folder)]
    for i, quality in enumerate(qualities):
        pictures += _strips(quality, folder, i)
    path = folder / "index.html"
    path.write_text(_page(qualities, pictures), encoding="utf-8")
    return path


def describe(quality: DreamQuality) -> str:
    """The main numbers in a line."""
    ten = min(10, quality.horizon)
    parts = [f"{quality.name}: after {ten} dreamed steps"]
    for name, words in (("token_accuracy", "tokens right"), ("objects", "moving objects at their place")):
        parts.append(f"{_percent(_at(quality.curves[name], ten))} {words}")
    error, still = (_at(quality.curves[name], ten) for name in ("frame_l1", "still_l1"))
    parts.append(f"frame error {_number(error)} (unmoved start {_number(still)})")
    ends = quality.events["termination"]["all"]
    if ends is not None and ends.auc is not None:
        parts.append(f"AUC of ends {ends.auc:.2f}")
    return ", ".join(parts)


def _new_figure(width: float, height: float) -> Figure:
    made = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    return made


def _axes(made: Figure, rows: int, columns: int) -> list[Axes]:
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        each.grid(color="#d5d9e2", linewidth=0.6)
        each.set_axisbelow(True)
    return axes


def _save(made: Figure, path: Path) -> Path:
    made.savefig(path, dpi=130)
    return path


def _draw(axes: Axes, curve: Curve, color: str, label: str, line: str = "-") -> None:
    """A curve with its interval, as far as it is of enough frames."""
    shown = [i for i, count in enumerate(curve.count) if count >= _LEAST_FRAMES and curve.mean[i] is not None]
    x = np.array(shown) + 1
    mean, low, high = (
        np.array([values[i] for i in shown], dtype=float) for values in (curve.mean, curve.low, curve.high)
    )
    marker = "o" if len(shown) < 3 else None
    axes.plot(x, mean, line, color=color, label=label, linewidth=1.8 if line == "-" else 1.3, marker=marker)
    if line == "-":
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def _curves(qualities: Sequence[DreamQuality], folder: Path) -> Picture:
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        made = _new_figure(12.6, 6.2)
        for axes, (name, title, beside) in zip(_axes(made, 2, 4), _PANELS, strict=True):
            axes.set_title(title, loc="left")
            for i, quality in enumerate(qualities):
                color = _COLORS[i % len(_COLORS)]
                _draw(axes, quality.curves[name], color, quality.name)
                if beside:
                    label = beside[1] + (f" ({quality.name})" if len(qualities) > 1 else "")
                    _draw(axes, quality.curves[beside[0]], color, label, ":")
            if name == "token_accuracy":
                for i, quality in enumerate(qualities):
                    axes.axhline(
                        quality.one_step_token_accuracy,
                        color=_COLORS[i % len(_COLORS)],
                        linestyle=(0, (5, 3)),
                        linewidth=1,
                        label="one step ahead of real frames",
                    )
            if name == "frame_l1":
                _draw(axes, qualities[0].curves["still_l1"], "#8a93a5", "the start, unmoved", "--")
            axes.set_xlabel("dreamed steps")
            if name in ("token_accuracy", "ssim", "objects"):
                axes.set_ylim(-0.02, 1.02)
            elif name != "psnr":
                axes.set_ylim(bottom=0)
            if name in ("token_accuracy", "frame_l1", "objects"):
                axes.legend(frameon=False, fontsize=8)
        path = _save(made, folder / "curves.png")
    return Picture(
        path,
        "How errors compound",
        "Each dream starts at a real step that training never saw and is given the real actions; every curve "
        "compares it with what really happened, by the number of dreamed steps. Bands: 95% intervals over "
        "resampled episodes. Dotted: the tokenizer's own error on the same real frames, the best a dream can do. "
        "A good dream stays far below the error of the unmoved start. Where the game itself is random (what falls "
        "next, and where), even a perfect dream departs from what happened.",
    )


def _events(qualities: Sequence[DreamQuality], folder: Path) -> Picture:
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        made = _new_figure(12.6, 6.2)
        axes = _axes(made, 2, 3)
        for column, event in enumerate(EVENTS):
            above, below = axes[column], axes[3 + column]
            above.set_title(f"{event}: foretold and observed", loc="left")
            above.plot([0, 1], [0, 1], "--", color="#8a93a5", linewidth=1)
            for i, quality in enumerate(qualities):
                measured = quality.events[event]["all"]
                if measured is not None:
                    _draw_bins(above, measured, _COLORS[i % len(_COLORS)], quality.name)
            above.set(
                xlim=(-0.03, 1.03),
                ylim=(-0.03, 1.03),
                xlabel="predicted probability",
                ylabel="observed share",
            )
            above.legend(frameon=False, fontsize=8, loc="upper left")
            ranges = list(qualities[0].events[event])
            width = 0.8 / len(qualities)
            for i, quality in enumerate(qualities):
                for j, key in enumerate(ranges):
                    measured = quality.events[event].get(key)
                    x = j + (i - (len(qualities) - 1) / 2) * width
                    if measured is None or measured.auc is None:
                        below.text(x, 0.03, "no event", ha="center", rotation=90, fontsize=8, color="#5d6678")
                        continue
                    below.bar(x, measured.auc, width * 0.92, color=_COLORS[i % len(_COLORS)])
                    if measured.auc_low is not None and measured.auc_high is not None:
                        below.plot(
                            [x, x], [measured.auc_low, measured.auc_high], color="#1b1f29", linewidth=1.2
                        )
                    is_tall = measured.auc > 0.4
                    below.text(
                        x,
                        0.03 if is_tall else max(measured.auc, measured.auc_high or 0) + 0.03,
                        _events_in_words(measured.num_events),
                        ha="center",
                        rotation=90,
                        fontsize=8,
                        color="white" if is_tall else "#5d6678",
                    )
            below.axhline(0.5, color="#8a93a5", linestyle="--", linewidth=1)
            below.set_xticks(range(len(ranges)), ranges)
            below.set(xlim=(-0.6, len(ranges) - 0.4), ylim=(0, 1.02), xlabel="dreamed steps")
            below.set_title(f"{event}: AUC", loc="left")
        path = _save(made, folder / "events.png")
    return Picture(
        path,
        "Rewards and ends",
        "Above: of all steps to which the world model gave a probability, how often the event came; on the diagonal "
        "its probabilities are right. Larger dots are of more steps. Below: the probability that a step with the "
        "event was given more than one without (AUC; 0.5 is guessing), with 95% intervals. A handful of events "
        "says little.",
    )


def _events_in_words(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _draw_bins(axes: Axes, measured: EventQuality, color: str, name: str) -> None:
    predicted, observed, counts = (np.array(column) for column in zip(*measured.bins, strict=True))
    sizes = 14 + 30 * np.log10(counts)
    label = f"{name}: Brier {measured.brier:.3f}, ECE {measured.ece:.3f}"
    axes.plot(predicted, observed, color=color, linewidth=1.2, alpha=0.7)
    axes.scatter(predicted, observed, s=sizes, color=color, label=label, zorder=3)


def _entropy(qualities: Sequence[DreamQuality], folder: Path) -> Picture:
    longest = max(len(quality.entropy_by_token) for quality in qualities)
    horizons = [h for h in (1, 2, 5, 10, 20, 35, 50) if h <= longest]
    top = max(np.max(quality.entropy_by_token) for quality in qualities)
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        made = _new_figure(2.1 * len(horizons) + 1.2, 2.3 * len(qualities) + 0.3)
        grid = made.subplots(len(qualities), len(horizons), squeeze=False)
        for row, quality in zip(grid, qualities, strict=True):
            for axes, h in zip(row, horizons, strict=True):
                axes.set_xticks([])
                axes.set_yticks([])
                if h > len(quality.entropy_by_token):
                    axes.set_axis_off()
                    continue
                values = np.array(quality.entropy_by_token[h - 1])
                side = int(len(values) ** 0.5)
                shown = values.reshape(side, -1)
                image = axes.imshow(shown, cmap="inferno", vmin=0, vmax=top)
                axes.set_title(f"step {h}", fontsize=9)
                if side <= 8:
                    for (y, x), value in np.ndenumerate(shown):
                        color = "white" if value < 0.6 * top else "black"
                        axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
            row[0].set_ylabel(quality.name)
        made.colorbar(image, ax=grid, shrink=0.8, label="nats")
        path = _save(made, folder / "entropy.png")
    return Picture(
        path,
        "Where the world model is unsure",
        "Mean entropy of each token of the frame, at its place in the picture, by dreamed steps. The most a token can "
        f"have is {np.log(qualities[0].codebook_size):.1f} nats (any code, equally likely).",
    )


def _strips(quality: DreamQuality, folder: Path, number: int) -> list[Picture]:
    pictures = []
    for i, rows in enumerate(quality.examples):
        path = folder / f"dream-{number}-{i}.png"
        film_strip(rows, num_frames=12, scale=2, difference=("real", "dreamed"), dream_starts_at=1).save(path)
        caption = "Step 0 is the real start; from then on the dream is given nothing but the actions."
        pictures.append(Picture(path, f"{quality.name}: dream {i + 1} beside what happened", caption))
    return pictures


def _page(qualities: Sequence[DreamQuality], pictures: Sequence[Picture]) -> str:
    first = qualities[0]
    facts = [
        first.game,
        f"{first.num_episodes} held-out episodes, {first.num_steps:,} steps",
        f"{first.num_starts} dreams of up to {first.horizon} steps",
        f"{first.context_steps} real steps before each",
        f"temperature {first.temperature:g}",
        f"seed {first.seed}",
    ]
    title = f"Dream quality: {', '.join(quality.name for quality in qualities)}"
    spans = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts if fact)
    header = f'<header><h1>{html.escape(title)}</h1><p class="facts">{spans}</p></header>'
    sections = [header, *(_cards(quality) for quality in qualities), _table(qualities)]
    return page(title, [*sections, *(figure(picture) for picture in pictures)])


def _cards(quality: DreamQuality) -> str:
    ten = min(10, quality.horizon)
    accuracy, error, still, objects = (
        _at(quality.curves[name], ten) for name in ("token_accuracy", "frame_l1", "still_l1", "objects")
    )
    ends = quality.events["termination"]["all"]
    is_worse = error is not None and still is not None and error >= still
    cards = [
        card(f"{quality.name}: tokens right", _percent(accuracy), f"after {ten} dreamed steps", "agent"),
        card(
            "Frame error",
            "–" if error is None else f"{error:.4f}",
            "–"
            if still is None
            else f"after {ten} steps; {'worse than' if is_worse else 'against'} the {still:.4f} "
            "of the unmoved start",
            "random" if is_worse else "gain",
        ),
        card("Moving objects kept", _percent(objects), f"at their place after {ten} steps", "human"),
        card(
            "Ends foretold",
            "–" if ends is None or ends.auc is None else f"{ends.auc:.3f}",
            "AUC over all horizons" + (f", {_events_in_words(ends.num_events)}" if ends else ""),
            "random",
        ),
    ]
    return f'<section class="cards">{"".join(cards)}</section>'


def _table(qualities: Sequence[DreamQuality]) -> str:
    """Numbers at some horizons."""
    horizons = [h for h in (1, 5, 10, 20, 30, 50) if h <= qualities[0].horizon]
    rows = ["<tr><td>dreamed steps</td>" + "".join(f"<td>{h}</td>" for h in horizons) + "</tr>"]
    for quality in qualities:
        for name, title, _ in _PANELS:
            cells = "".join(f"<td>{_number(_at(quality.curves[name], h))}</td>" for h in horizons)
            prefix = f"{quality.name}: " if len(qualities) > 1 else ""
            rows.append(f"<tr><td>{html.escape(prefix + title)}</td>{cells}</tr>")
        counts = "".join(f"<td>{quality.curves['frame_l1'].count[h - 1]}</td>" for h in horizons)
        rows.append(f"<tr><td>frames compared</td>{counts}</tr>")
    return f"<section><h2>Numbers</h2><table>{''.join(rows)}</table></section>"


def _at(curve: Curve, h: int) -> float | None:
    return curve.mean[h - 1]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
