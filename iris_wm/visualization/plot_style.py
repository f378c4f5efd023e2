"""How plots look: one style file for all of them, and figures that need no pyplot and no display."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TEXT, SOFT, DANGER = "#1b1f29", "#5d6678", "#c83c3c"
COLORS = ("#a44bb4", "#1f77ad", "#23804a", "#c8641e", "#8a93a5")
"""Of the style's cycle: agent or dream, real, gain, tokenizer, random."""

styled = matplotlib.rc_context(fname=str(Path(__file__).with_name("iris.mplstyle")))
"""Decorator of a function that draws, whatever the reader's own settings are."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def grid_of_axes(figure: Figure, num_rows: int, num_columns: int, **options: object) -> list[Axes]:
    """Axes row by row."""
    return list(figure.subplots(num_rows, num_columns, squeeze=False, **options).flat)  # type: ignore[call-overload]


@styled
def save(figure: Figure, *paths: Path) -> None:
    """Write the figure as each path's ending says, the same bytes for the same figure."""
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
