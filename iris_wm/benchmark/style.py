"""How a report's pictures look: one colour and marker a method, quiet axes, PNG and SVG of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iris_wm.benchmark.methods import Method

TEXT, SOFT, LINE = "#1b1f29", "#5d6678", "#d5d9e2"
_OWN = ["#d1495b", "#7b2d8b", "#e07a1f"]
_OTHERS = ["#1f77ad", "#2e8b57", "#8a93a5", "#b8860b", "#5b5ea6", "#00a0a0", "#8c564b", "#6b8e23", "#c08497"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p"]
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": TEXT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "svg.hashsalt": "iris_wm",
}


@dataclass(frozen=True)
class Look:
    """A method's colour, marker and drawing order."""

    color: str
    marker: str
    order: int


def looks(methods: Sequence[Method]) -> dict[str, Look]:
    """A look for each method by name; own ones are warm and on top."""
    own = [method.name for method in methods if method.is_own]
    others = [method.name for method in methods if not method.is_own]
    found = {name: Look(_OWN[i % len(_OWN)], _MARKERS[i % len(_MARKERS)], 10) for i, name in enumerate(own)}
    for i, name in enumerate(others, start=len(own)):
        found[name] = Look(_OTHERS[(i - len(own)) % len(_OTHERS)], _MARKERS[i % len(_MARKERS)], 5)
    return found


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure in inches, laid out when it is saved."""
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
    return figure


def grid_of_axes(figure: Figure, num_rows: int, num_columns: int, **options: object) -> list[list[Axes]]:
    """Axes in the report's style, row by row."""
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        axes = figure.subplots(num_rows, num_columns, squeeze=False, **options)  # type: ignore[call-overload]
    for ax in axes.flat:
        ax.grid(color=LINE, linewidth=0.6, alpha=0.7)
        ax.set_axisbelow(True)
    return [list(row) for row in axes]


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write STEM.png (150 dots an inch) and STEM.svg, the same bytes for the same figure."""
    paths = [folder / f"{stem}.png", folder / f"{stem}.svg"]
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
