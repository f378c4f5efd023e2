"""Every logged number of a run as one picture of small curves, grouped by component."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from iris_wm.visualization.numbers import short
from iris_wm.visualization.plot_style import COLORS, DANGER, SOFT, new_figure, styled

COLUMNS = ("env_steps", "epoch", "name", "value")
_GROUPS = {
    "tokenizer": COLORS[3],
    "world": COLORS[0],
    "policy": "#4a63c8",
    "collection": COLORS[1],
    "evaluation": COLORS[2],
}
"""Colours of the components, in the order in which they are drawn."""
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
        name: Curve(*(np.array(column) for column in zip(*points_of_name, strict=True)))
        for name, points_of_name in points.items()
    }


@styled
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
    places = _places(curves)
    timeline = _Timeline(curves)
    num_rows = 1 + max(row for row, _, _ in places.values())
    figure = new_figure(15, 1.9 * num_rows + (0.7 if title else 0.2))
    if title:
        figure.suptitle(title, x=0.005, ha="left", fontsize=15, weight="bold")
    grid = figure.add_gridspec(num_rows, _PANELS_A_ROW)
    before = None
    for name, (row, column, span) in places.items():
        group = _group(name)
        color = _GROUPS.get(group, SOFT)
        axes = figure.add_subplot(grid[row, column : column + span])
        _draw_panel(axes, name, curves[name], color, timeline, random_return)
        if group != before:
            axes.annotate(group, (0, 1), xytext=(0, 20), xycoords="axes fraction", textcoords="offset points",
                          fontsize=12, weight="bold", color=color)  # fmt: skip
        before = group
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def _group(name: str) -> str:
    return name.split("/")[0] if "/" in name else "other"


def _places(curves: Mapping[str, Curve]) -> dict[str, tuple[int, int, int]]:
    """Row, column and width of each metric's panel, in reading order; a component stays in a row if it fits there."""
    returns = [name for name in _RETURNS if name in curves]
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name in curves:
        if name not in returns and name != _RANDOM:
            groups.setdefault(_group(name), []).append(name)
    places: dict[str, tuple[int, int, int]] = {}
    row = column = 0
    for i, name in enumerate(returns):
        width = (_PANELS_A_ROW + i) // len(returns)
        places[name] = (0, column, width)
        column += width
    for names in groups.values():
        if column + len(names) > _PANELS_A_ROW and column:
            row, column = row + 1, 0
        for name in names:
            if column == _PANELS_A_ROW:
                row, column = row + 1, 0
            places[name] = (row, column, 1)
            column += 1
    return places


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
    axes.tick_params(labelsize=8, length=2, width=0.6)
    label = name.split("/", 1)[-1]
    if is_return:
        label += " by epoch" if timeline.by_epoch else " by environment step"
    axes.set_title(label.replace("_", " "), fontsize=9.5, pad=5, fontweight="normal")
    ticks = MaxNLocator(8 if is_return else 4, integer=True).tick_values(0, timeline.end)
    axes.set_xticks(
        [tick for tick in ticks if 0 <= tick <= (timeline.end if timeline.by_epoch else timeline.last)]
    )
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.set_xlim(-0.01 * timeline.end, 1.01 * timeline.end or 1.0)
    if not timeline.by_epoch and timeline.end > timeline.last:
        axes.axvspan(timeline.last, timeline.end * 1.01, color="black", alpha=0.08, linewidth=0)
    if not len(values):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=DANGER)
        return
    smooth = _smooth(values)
    if len(values) == 1:
        axes.plot(x, values, "o", color=color, markersize=6, clip_on=False)
    elif is_return:
        axes.plot(x, values, ".", color=color, markersize=5, alpha=0.55, markeredgewidth=0)
    else:
        axes.plot(x, values, color=color, linewidth=0.7, alpha=0.35 if smooth is not values else 0)
    axes.plot(x, smooth, color=color, linewidth=1.7)
    if values.min() > 0 and np.quantile(values, 0.98) / np.quantile(values, 0.02) > 50:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        if values.max() == values.min():
            margin = abs(values[0]) * 0.1 or 1.0
            axes.set_ylim(values[0] - margin, values[0] + margin)
        elif not is_return and len(values) > 20:
            # The first steps after a random start would flatten all that follows.
            low, high = values[len(values) // 20 :].min(), values[len(values) // 20 :].max()
            if values.max() - values.min() > 4 * (high - low) > 0:
                axes.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    axes.set_title(short(smooth[-1]), loc="right", fontsize=9.5, color=color, pad=5)
    if is_return and random_return is not None and math.isfinite(random_return):
        axes.axhline(random_return, color=DANGER, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            f"random policy {short(random_return)}",
            (0, random_return),
            xycoords=("axes fraction", "data"),
            xytext=(6, 3),
            textcoords="offset points",
            fontsize=8,
            color=DANGER,
            bbox={"facecolor": axes.get_facecolor(), "alpha": 0.8, "edgecolor": "none", "pad": 1},
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
