"""The report on dream quality: numbers as JSON, a picture of each, and one self-contained page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from iris_wm.evaluation.dream_metrics import Curve, EventQuality
from iris_wm.evaluation.dream_quality import EVENTS, DreamQuality
from iris_wm.reports.page import Card, Section, render_page
from iris_wm.reports.table import NOTHING, Table
from iris_wm.visualization.film_strip import film_strip
from iris_wm.visualization.plot_style import COLORS, SOFT, TEXT, grid_of_axes, new_figure, save, styled

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
    sections = [
        Section("Numbers", table=_table(qualities)),
        _curves(qualities, folder / "curves.png"),
        _events(qualities, folder / "events.png"),
        _entropy(qualities, folder / "entropy.png"),
    ]
    for i, quality in enumerate(qualities):
        sections += _strips(quality, folder, i)
    first = qualities[0]
    facts = [
        first.game,
        f"{first.num_episodes} held-out episodes, {first.num_steps:,} steps",
        f"{first.num_starts} dreams of up to {first.horizon} steps",
        f"{first.burn_in} real steps before each",
        f"temperature {first.temperature:g}",
        f"seed {first.seed}",
    ]
    cards = [card for quality in qualities for card in _cards(quality)]
    path = folder / "index.html"
    page = render_page(
        f"Dream quality: {', '.join(names)}", list(filter(None, facts)), cards, sections=sections
    )
    path.write_text(page, encoding="utf-8")
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


@styled
def _curves(qualities: Sequence[DreamQuality], path: Path) -> Section:
    figure = new_figure(12.6, 6.2)
    for axes, (name, title, beside) in zip(grid_of_axes(figure, 2, 4), _PANELS, strict=True):
        axes.set(title=title, xlabel="dreamed steps")
        for quality, color in zip(qualities, _colors(qualities), strict=True):
            _draw(axes, quality.curves[name], color, quality.name)
            if beside:
                label = beside[1] + (f" ({quality.name})" if len(qualities) > 1 else "")
                _draw(axes, quality.curves[beside[0]], color, label, ":")
        if name == "token_accuracy":
            for quality, color in zip(qualities, _colors(qualities), strict=True):
                level = quality.one_step_token_accuracy
                axes.axhline(
                    level,
                    color=color,
                    linestyle=(0, (5, 3)),
                    linewidth=1,
                    label="one step ahead of real frames",
                )
        if name == "frame_l1":
            _draw(axes, qualities[0].curves["still_l1"], COLORS[4], "the start, unmoved", "--")
        if name in ("token_accuracy", "ssim", "objects"):
            axes.set_ylim(-0.02, 1.02)
        elif name != "psnr":
            axes.set_ylim(bottom=0)
        if name in ("token_accuracy", "frame_l1", "objects"):
            axes.legend(fontsize=8)
    save(figure, path)
    return Section(
        "How errors compound",
        "Each dream starts at a real step that training never saw and is given the real actions; every curve "
        "compares it with what really happened, by the number of dreamed steps. Bands: 95% intervals over "
        "resampled episodes. Dotted: the tokenizer's own error on the same real frames, the best a dream can do. "
        "A good dream stays far below the error of the unmoved start. Where the game itself is random (what falls "
        "next, and where), even a perfect dream departs from what happened.",
        path,
    )


@styled
def _events(qualities: Sequence[DreamQuality], path: Path) -> Section:
    figure = new_figure(12.6, 6.2)
    axes = grid_of_axes(figure, 2, 3)
    for above, below, event in zip(axes[:3], axes[3:], EVENTS, strict=True):
        above.plot([0, 1], [0, 1], "--", color=COLORS[4], linewidth=1)
        for quality, color in zip(qualities, _colors(qualities), strict=True):
            measured = quality.events[event]["all"]
            if measured is not None:
                _draw_bins(above, measured, color, quality.name)
        above.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=f"{event}: foretold and observed")
        above.set(xlabel="predicted probability", ylabel="observed share")
        above.legend(fontsize=8, loc="upper left")
        ranges = list(qualities[0].events[event])
        width = 0.8 / len(qualities)
        for i, (quality, color) in enumerate(zip(qualities, _colors(qualities), strict=True)):
            for j, key in enumerate(ranges):
                x = j + (i - (len(qualities) - 1) / 2) * width
                _draw_auc(below, x, width, quality.events[event].get(key), color)
        below.axhline(0.5, color=COLORS[4], linestyle="--", linewidth=1)
        below.set_xticks(range(len(ranges)), ranges)
        below.set(
            xlim=(-0.6, len(ranges) - 0.4), ylim=(0, 1.02), title=f"{event}: AUC", xlabel="dreamed steps"
        )
    save(figure, path)
    return Section(
        "Rewards and ends",
        "Above: of all steps to which the world model gave a probability, how often the event came; on the diagonal "
        "its probabilities are right. Larger dots are of more steps. Below: the probability that a step with the "
        "event was given more than one without (AUC; 0.5 is guessing), with 95% intervals. A handful of events "
        "says little.",
        path,
    )


def _draw_auc(axes: Axes, x: float, width: float, measured: EventQuality | None, color: str) -> None:
    """A bar with its interval, and of how many events it is."""
    if measured is None or measured.auc is None:
        axes.text(x, 0.03, "no event", ha="center", rotation=90, fontsize=8, color=SOFT)
        return
    axes.bar(x, measured.auc, width * 0.92, color=color)
    if measured.auc_low is not None and measured.auc_high is not None:
        axes.plot([x, x], [measured.auc_low, measured.auc_high], color=TEXT, linewidth=1.2)
    is_tall = measured.auc > 0.4
    y, text_color = (0.03, "white") if is_tall else (max(measured.auc, measured.auc_high or 0) + 0.03, SOFT)
    words = _events_in_words(measured.num_events)
    axes.text(x, y, words, ha="center", rotation=90, fontsize=8, color=text_color)


def _colors(qualities: Sequence[DreamQuality]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(qualities))]


def _events_in_words(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _draw_bins(axes: Axes, measured: EventQuality, color: str, name: str) -> None:
    predicted, observed, counts = (np.array(column) for column in zip(*measured.bins, strict=True))
    sizes = 14 + 30 * np.log10(counts)
    label = f"{name}: Brier {measured.brier:.3f}, ECE {measured.ece:.3f}"
    axes.plot(predicted, observed, color=color, linewidth=1.2, alpha=0.7)
    axes.scatter(predicted, observed, s=sizes, color=color, label=label, zorder=3)


@styled
def _entropy(qualities: Sequence[DreamQuality], path: Path) -> Section:
    longest = max(len(quality.entropy_by_token) for quality in qualities)
    horizons = [h for h in (1, 2, 5, 10, 20, 35, 50) if h <= longest]
    top = max(np.max(quality.entropy_by_token) for quality in qualities)
    figure = new_figure(2.1 * len(horizons) + 1.2, 2.3 * len(qualities) + 0.3)
    panels = grid_of_axes(figure, len(qualities), len(horizons))
    for i, quality in enumerate(qualities):
        row = panels[i * len(horizons) : (i + 1) * len(horizons)]
        row[0].set_ylabel(quality.name)
        for axes, h in zip(row, horizons, strict=True):
            axes.grid(visible=False)
            axes.set(xticks=[], yticks=[])
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
    figure.colorbar(image, ax=panels, shrink=0.8, label="nats")
    save(figure, path)
    return Section(
        "Where the world model is unsure",
        "Mean entropy of each token of the frame, at its place in the picture, by dreamed steps. The most a token can "
        f"have is {np.log(qualities[0].codebook_size):.1f} nats (any code, equally likely).",
        path,
    )


def _strips(quality: DreamQuality, folder: Path, number: int) -> list[Section]:
    sections = []
    for i, rows in enumerate(quality.examples):
        path = folder / f"dream-{number}-{i}.png"
        film_strip(rows, num_frames=12, difference=("real", "dreamed"), dream_starts_at=1).save(path)
        text = "Step 0 is the real start; from then on the dream is given nothing but the actions."
        sections.append(Section(f"{quality.name}: dream {i + 1} beside what happened", text, path))
    return sections


def _cards(quality: DreamQuality) -> list[Card]:
    ten = min(10, quality.horizon)
    accuracy, error, still, objects = (
        _at(quality.curves[name], ten) for name in ("token_accuracy", "frame_l1", "still_l1", "objects")
    )
    ends = quality.events["termination"]["all"]
    is_worse = error is not None and still is not None and error >= still
    comparison = (
        f"after {ten} steps; {'worse than' if is_worse else 'against'} the unmoved start's {_number(still)}"
    )
    return [
        Card(f"{quality.name}: tokens right", _percent(accuracy), f"after {ten} dreamed steps", "agent"),
        Card("Frame error", _number(error), comparison, "random" if is_worse else "gain"),
        Card("Moving objects kept", _percent(objects), f"at their place after {ten} steps", "human"),
        Card(
            "Ends foretold",
            _number(ends.auc if ends else None),
            "AUC over all horizons" + (f", {_events_in_words(ends.num_events)}" if ends else ""),
            "random",
        ),
    ]


def _table(qualities: Sequence[DreamQuality]) -> Table:
    """Numbers at some horizons."""
    horizons = [h for h in (1, 5, 10, 20, 30, 50) if h <= qualities[0].horizon]
    rows = []
    for quality in qualities:
        prefix = f"{quality.name}: " if len(qualities) > 1 else ""
        for name, title, _ in _PANELS:
            rows.append([prefix + title, *(_number(_at(quality.curves[name], h)) for h in horizons)])
        rows.append(["frames compared", *(str(quality.curves["frame_l1"].count[h - 1]) for h in horizons)])
    return Table("Numbers", "", ["dreamed steps", *map(str, horizons)], rows)


def _at(curve: Curve, h: int) -> float | None:
    return curve.mean[h - 1]


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"
