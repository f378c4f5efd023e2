"""Every logged number of a run as one picture of small curves, grouped by component."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from iris_wm.visualization import drawing

COLUMNS = ("env_steps", "epoch", "name", "value")
_GROUPS = ("tokenizer", "world", "policy", "collection", "evaluation")
_GROUP_COLORS = {
    "collection": drawing.REAL,
    "evaluation": drawing.REWARD,
    "tokenizer": drawing.RECONSTRUCTED,
    "world": drawing.DREAM,
    "policy": (120, 160, 250),
}
_RETURNS = ("collection/return", "evaluation/return")
_RANDOM = "evaluation/random_return"
_PANELS_A_ROW = 5


@dataclass
class Curve:
    """One metric over a run: n points in the order in which they were logged.

    env_steps, epochs: (n,) int64. values: (n,) float64, finite or not.
    """

    env_steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    values: NDArray[np.float64]


def read_metrics(path: str | Path) -> dict[str, Curve]:
    """Curves by metric name from a run's metrics.csv, which has the columns env_steps, epoch, name, value.

    A last line without its line end is left out: a run that is still writing has not finished it.
    Raises ValueError where the file is missing, has other columns, or has a line that does not parse.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"metrics: cannot read {path}: {error.__class__.__name__}") from None
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    header = next(rows, [])
    if tuple(header) != COLUMNS:
        raise ValueError(
            f"metrics: {path}: expected the columns {','.join(COLUMNS)}, got {','.join(header)!r}"
        )
    points: dict[str, list[tuple[int, int, float]]] = {}
    for row in rows:
        try:
            env_steps, epoch, name, value = row
            points.setdefault(name, []).append((int(env_steps), int(epoch), float(value)))
        except ValueError:
            raise ValueError(
                f"metrics: {path}: line {rows.line_num}: expected {','.join(COLUMNS)}, got {','.join(row)!r}"
            ) from None
    return {
        name: Curve(
            np.array([env_steps for env_steps, _, _ in rows_of_name], dtype=np.int64),
            np.array([epoch for _, epoch, _ in rows_of_name], dtype=np.int64),
            np.array([value for _, _, value in rows_of_name], dtype=np.float64),
        )
        for name, rows_of_name in points.items()
    }


def draw_curves(
    curves: Mapping[str, Curve], *, title: str | None = None, random_return: float | None = None
) -> Image.Image:
    """A picture of all curves: returns large at the top, then small panels, one block for each component.

    curves: as `read_metrics` gives them; names are `component/name`.
    random_return: mean return of the random policy, drawn as a line among the returns; None takes the last
      value of the metric `evaluation/random_return`, where there is one.
    The x axis is env_steps. Training that goes on after the last collected step is drawn beyond it, on darker
    ground, an epoch being as wide as it was before.
    """
    if not curves:
        raise ValueError("curves: expected at least one metric, got none")
    if random_return is None and _RANDOM in curves:
        random_return = float(curves[_RANDOM].values[-1])
    rows = _rows(curves)
    timeline = _Timeline(curves)
    margin, head, heading, panel, width = 0.3, (0.62 if title else 0.15), 0.34, 1.62, 15.0
    height = (
        head + len(rows) * panel + sum(heading for row in rows if any(place.heading for place in row)) + 0.1
    )
    cell = (width - 2 * margin) / _PANELS_A_ROW
    figure = Figure(figsize=(width, height), dpi=100, facecolor=_hex(drawing.BACKGROUND))
    canvas = FigureCanvasAgg(figure)
    if title:
        figure.text(
            margin / width,
            1 - 0.3 / height,
            title,
            color=_hex(drawing.TEXT),
            fontsize=15,
            weight="bold",
            va="center",
        )
    y = head
    for row in rows:
        if any(place.heading for place in row):
            y += heading
        for place in row:
            left = margin + place.column * cell
            color = _hex(_GROUP_COLORS.get(place.group, drawing.MUTED))
            if place.heading:
                text = place.group.replace("_", " ")
                figure.text(
                    left / width,
                    1 - (y - 0.13) / height,
                    text,
                    color=color,
                    fontsize=12,
                    weight="bold",
                    va="center",
                )
            box = (
                (left + 0.42) / width,
                1 - (y + panel - 0.33) / height,
                (place.span * cell - 0.6) / width,
                (panel - 0.66) / height,
            )
            _draw_panel(figure.add_axes(box), place.name, curves[place.name], color, timeline, random_return)
        y += panel
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@dataclass
class _Place:
    """Where a metric's panel stands in its row; `heading` is True for the first of its component."""

    name: str
    group: str
    column: int
    span: int
    heading: bool


def _rows(curves: Mapping[str, Curve]) -> list[list[_Place]]:
    """Rows of panels in reading order; a component starts in the row before if it fits there whole."""
    returns = [name for name in _RETURNS if name in curves]
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name in curves:
        if name not in returns and name != _RANDOM:
            groups.setdefault(name.split("/")[0] if "/" in name else "other", []).append(name)
    spans = {1: (_PANELS_A_ROW,), 2: (_PANELS_A_ROW // 2, _PANELS_A_ROW - _PANELS_A_ROW // 2)}.get(
        len(returns), ()
    )
    rows: list[list[_Place]] = [[]]
    column = 0
    for name, span in zip(returns, spans, strict=True):
        rows[0].append(_Place(name, name.split("/")[0], column, span, heading=True))
        column += span
    for group, names in groups.items():
        if column + len(names) > _PANELS_A_ROW and names:
            rows.append([])
            column = 0
        for i, name in enumerate(names):
            if column == _PANELS_A_ROW:
                rows.append([])
                column = 0
            rows[-1].append(_Place(name, group, column, 1, heading=i == 0))
            column += 1
    return [row for row in rows if row]


class _Timeline:
    """The x position of a point: its env_steps, and past the last collected step its epoch, equally wide."""

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        env_steps = np.concatenate([curve.env_steps for curve in curves.values()])
        epochs = np.concatenate([curve.epochs for curve in curves.values()])
        self.last = int(env_steps.max())
        self.last_epoch = int(epochs[env_steps == self.last].min())
        self.by_epoch = int(env_steps.min()) == self.last
        first = int(epochs.min())
        self.width = (self.last - int(env_steps.min())) / max(self.last_epoch - first, 1)
        self.end = float(self(env_steps, epochs).max())

    def __call__(self, env_steps: NDArray[np.int64], epochs: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.by_epoch:
            return epochs.astype(float)
        return np.where(env_steps < self.last, env_steps, self.last + (epochs - self.last_epoch) * self.width)


def _draw_panel(
    axes: Axes, name: str, curve: Curve, color: str, timeline: _Timeline, random_return: float | None
) -> None:
    is_return = name in _RETURNS
    finite = np.isfinite(curve.values)
    x, values = timeline(curve.env_steps, curve.epochs)[finite], curve.values[finite]
    if not is_return and len(values):
        # One point for each place: a metric may be logged many times an epoch.
        x, place, counts = np.unique(x, return_inverse=True, return_counts=True)
        values = np.bincount(place, weights=values) / counts
    axes.set_facecolor(_hex(drawing.blend(drawing.BACKGROUND, (0, 0, 0), 0.25)))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_hex(drawing.PANEL))
    axes.tick_params(colors=_hex(drawing.MUTED), labelsize=8, length=2, width=0.6)
    axes.grid(color=_hex(drawing.PANEL), linewidth=0.6)
    label = name.split("/", 1)[-1]
    if is_return:
        label += " by epoch" if timeline.by_epoch else " by environment step"
    axes.set_title(label.replace("_", " "), loc="left", fontsize=9.5, color=_hex(drawing.TEXT), pad=5)
    ticks = MaxNLocator(8 if is_return else 4, integer=True).tick_values(0, timeline.end)
    axes.set_xticks(
        [tick for tick in ticks if 0 <= tick <= (timeline.end if timeline.by_epoch else timeline.last)]
    )
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlim(-0.01 * timeline.end, 1.01 * timeline.end or 1.0)
    if not timeline.by_epoch and timeline.end > timeline.last:
        axes.axvspan(timeline.last, timeline.end * 1.01, color="black", alpha=0.25, linewidth=0)
    if not len(values):
        axes.text(
            0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=_hex(drawing.DANGER)
        )
        return
    smooth = _smooth(values)
    if len(values) == 1:
        axes.plot(x, values, "o", color=color, markersize=6, clip_on=False)
    elif is_return:
        axes.plot(x, values, ".", color=color, markersize=5, alpha=0.55, markeredgewidth=0)
    else:
        axes.plot(x, values, color=color, linewidth=0.7, alpha=0.35 if smooth is not values else 0)
    axes.plot(x, smooth, color=color, linewidth=1.7, solid_capstyle="round")
    if values.min() > 0 and np.quantile(values, 0.98) / np.quantile(values, 0.02) > 50:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        if values.max() == values.min():
            margin = abs(values[0]) * 0.1 or 1.0
            axes.set_ylim(values[0] - margin, values[0] + margin)
        elif not is_return and len(values) > 20:
            # The first steps after a random start would flatten all that follows.
            low, high = values[len(values) // 20 :].min(), values[len(values) // 20 :].max()
            if values.max() - values.min() > 4 * (high - low) > 0:
                axes.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    axes.set_title(_short(smooth[-1]), loc="right", fontsize=9.5, color=color, pad=5, fontweight="bold")
    if is_return and random_return is not None and math.isfinite(random_return):
        axes.axhline(random_return, color=_hex(drawing.DANGER), linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            f"random policy {_short(random_return)}",
            (0, random_return),
            xycoords=("axes fraction", "data"),
            xytext=(6, 3),
            textcoords="offset points",
            fontsize=8,
            color=_hex(drawing.DANGER),
            bbox={"facecolor": axes.get_facecolor(), "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean over a window around every point, shorter at the ends; few values stay as they are."""
    window = len(values) // 20
    if window < 2:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    center = np.arange(len(values))
    start, stop = np.maximum(center - window, 0), np.minimum(center + window + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def _short(value: float, _position: Any = None) -> str:
    """A number in few characters: 1.2k, 0.034, 3e-05."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e3:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}"


def _hex(color: drawing.Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
