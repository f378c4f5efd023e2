"""Pictures of final scores: aggregates with intervals, games, performance profiles, score against time and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from iris_wm.evaluation import scores
from iris_wm.evaluation.scores import human_normalized_score
from iris_wm.reports.aggregates import Aggregates, Estimate
from iris_wm.reports.comparison import Comparison, Method
from iris_wm.visualization.plot_style import SOFT, TEXT, grid_of_axes, new_figure, styled

_OWN = ["#d1495b", "#7b2d8b", "#e07a1f"]
_OTHERS = ["#1f77ad", "#2e8b57", "#8a93a5", "#b8860b", "#5b5ea6", "#00a0a0", "#8c564b", "#6b8e23", "#c08497"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p"]


@dataclass(frozen=True)
class Look:
    """A method's colour, marker and drawing order."""

    color: str
    marker: str
    order: int


def looks(methods: Sequence[Method]) -> dict[str, Look]:
    """A look for each method by name; own ones, which come first, are warm and on top."""
    num_own = sum(method.is_own for method in methods)
    found = {}
    for i, method in enumerate(methods):
        color = _OWN[i % len(_OWN)] if method.is_own else _OTHERS[(i - num_own) % len(_OTHERS)]
        found[method.name] = Look(color, _MARKERS[i % len(_MARKERS)], 10 if method.is_own else 5)
    return found


@styled
def plot_aggregates(comparison: Comparison, aggregates: Mapping[str, Aggregates]) -> Figure:
    """IQM over runs, median, mean and optimality gap: a line a method, a band for its interval."""
    methods, look = comparison.methods, looks(comparison.methods)
    panels = [
        ("IQM over runs", "iqm_over_runs"),
        ("Median", "median"),
        ("Mean", "mean"),
        ("Optimality gap (lower is better)", "optimality_gap"),
    ]
    figure = new_figure(13, 1.2 + 0.36 * len(methods))
    for ax, (title, field) in zip(grid_of_axes(figure, 1, 4, sharey=True), panels, strict=True):
        for y, method in enumerate(methods):
            estimate: Estimate | None = getattr(aggregates[method.name], field)
            if estimate is None:
                ax.text(0.02, y, "only game means public", transform=ax.get_yaxis_transform(), color=SOFT,
                        fontsize=8, va="center", style="italic")  # fmt: skip
                continue
            low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
            ax.barh(
                y, high - low, left=low, height=0.62, color=look[method.name].color, alpha=0.45, linewidth=0
            )
            ax.plot([estimate.value] * 2, [y - 0.31, y + 0.31], color=look[method.name].color, linewidth=2.4)
        ax.set_title(title)
        ax.margins(x=0.08)
        ax.grid(axis="y", visible=False)
        ax.set_yticks(range(len(methods)), [method.name for method in methods], color=TEXT)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(methods) - 0.4, -0.6)
        ax.spines["left"].set_visible(False)
    for label, method in zip(figure.axes[0].get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method.is_own else "normal")
    figure.supxlabel("human-normalised score", color=SOFT)
    return figure


@styled
def plot_games(comparison: Comparison) -> Figure:
    """A row a game, best first: a bar and a dot a seed for each own method, a marker for each published one."""
    look = looks(comparison.methods)
    own = comparison.own
    runs = {
        method.name: {game: human_normalized_score(game, method.scores[game]) for game in comparison.games}
        for method in comparison.methods
    }
    games = sorted(comparison.games, key=lambda game: float(runs[own[0].name][game].mean()))
    figure = new_figure(11, 1.8 + max(0.3, 0.2 * len(own) + 0.12) * len(games))
    ax = grid_of_axes(figure, 1, 1)[0]
    height = 0.72 / len(own)
    for y, game in enumerate(games):
        for method in comparison.methods:
            color, values = look[method.name].color, runs[method.name][game]
            if method.is_own:
                at = y + (own.index(method) - (len(own) - 1) / 2) * -height
                ax.barh(at, values.mean(), height=height * 0.9, color=color, alpha=0.5, linewidth=0)
                ax.plot(values, np.full(len(values), at), "|", color=color, markersize=9, markeredgewidth=1.4,
                        zorder=5)  # fmt: skip
            else:
                ax.plot(values.mean(), y, look[method.name].marker, color=color, markersize=5.5, alpha=0.85,
                        markeredgecolor="white", markeredgewidth=0.5, zorder=4)  # fmt: skip
    ax.set_xscale("symlog", linthresh=1.0, linscale=1.6)
    ax.set_xticks([-1, -0.5, 0, 0.25, 0.5, 0.75, 1, 2, 4, 8, 16])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(0.0, color=SOFT, linewidth=0.9)
    ax.axvline(1.0, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    every = np.concatenate([values for by_game in runs.values() for values in by_game.values()])
    ax.set_xlim(min(0.0, every.min()) * 1.1 - 0.06, max(1.0, every.max()) * 1.2)
    ax.set_yticks(range(len(games)), games, color=TEXT)
    ax.set_ylim(-0.7, len(games) - 0.3)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("human-normalised score (linear up to 1, then logarithmic)")
    draw_legend(figure, comparison)
    return figure


@styled
def plot_profiles(comparison: Comparison) -> Figure:
    """Share of runs above each score, with the interval as a band, for methods with scores of single runs."""
    look = looks(comparison.methods)
    thresholds = np.concatenate([np.linspace(0, 2, 81), np.linspace(2.1, 8, 60)])
    figure = new_figure(11, 5.0)
    ax = grid_of_axes(figure, 1, 1)[0]
    for method in (method for method in comparison.methods if method.per_run):
        table, style = method.table(comparison.games), look[method.name]
        profile = scores.performance_profile(table, thresholds)
        ax.plot(
            thresholds,
            profile,
            color=style.color,
            linewidth=2.4 if method.is_own else 1.4,
            zorder=style.order,
        )
        interval = scores.bootstrap_interval(
            table, lambda drawn: scores.performance_profile(drawn, thresholds), num_resamples=500
        )
        if interval:
            ax.fill_between(
                thresholds, interval.low, interval.high, color=style.color, alpha=0.12, linewidth=0
            )
    ax.axvline(1.0, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(
        "human", (1.0, 1.0), xytext=(4, -2), textcoords="offset points", color=SOFT, fontsize=8.5, va="top"
    )
    ax.set_xscale("symlog", linthresh=2.0, linscale=2.2)
    ax.set_xticks([0, 0.25, 0.5, 1, 1.5, 2, 4, 8])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0, 8)
    ax.set_ylim(0, 1.0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    ax.set_xlabel("human-normalised score")
    ax.set_ylabel("runs above it")
    draw_legend(figure, comparison, [method for method in comparison.methods if method.per_run], lines=True)
    return figure


@styled
def plot_cost(
    comparison: Comparison,
    aggregates: Mapping[str, Aggregates],
    gpu_prices: Mapping[str, float] | None = None,
) -> Figure | None:
    """IQM over runs and mean against device-hours of one run, or its dollars if prices are given.

    None where neither an own nor two published methods have known hours (and prices).
    """
    spent: dict[str, float] = {}
    for method in comparison.methods:
        price = 1.0 if gpu_prices is None else gpu_prices.get(method.gpu_model or "")
        if method.gpu_hours and price:
            spent[method.name] = method.gpu_hours * price
    if len(spent) < 2:
        return None
    look = looks(comparison.methods)
    figure = new_figure(11, 4.6)
    for ax, field, title in zip(
        grid_of_axes(figure, 1, 2), ("iqm_over_runs", "mean"), ("IQM over runs", "Mean"), strict=True
    ):
        points = []
        for method in comparison.methods:
            estimate: Estimate | None = getattr(aggregates[method.name], field)
            if method.name not in spent or estimate is None:
                continue
            style, x = look[method.name], spent[method.name]
            if estimate.low is not None and estimate.high is not None:
                ax.plot([x, x], [estimate.low, estimate.high], color=style.color, linewidth=1.4, alpha=0.6)
            ax.plot(x, estimate.value, style.marker, color=style.color, markersize=9 if method.is_own else 7,
                    zorder=style.order)  # fmt: skip
            points.append((x, estimate.value, method))
        ax.set_xscale("log")
        _name_points(ax, points)
        ax.set_title(title)
        ax.margins(x=0.2, y=0.14)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'$' if gpu_prices else ''}{value:g}"))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        ax.set_xlabel(
            "cost of one run" if gpu_prices else "device-hours of one run (devices differ, see the table)"
        )
    figure.axes[0].set_ylabel("human-normalised score")
    return figure


def _name_points(ax: Axes, points: list[tuple[float, float, Method]]) -> None:
    """Write each point's name to its right, moved up or down where it would cover a point or another name."""
    places = [(float(np.log10(x)), value) for x, value, _ in points]
    columns, values = (list(coordinates) for coordinates in zip(*places, strict=True))
    width = 1.3 * ((max(columns) - min(columns)) or 1.0) / 75  # of a letter, in decades
    height = 0.05 * ((max(values) - min(values)) or 1.0)
    taken = [(x - 2 * width, x + 2 * width, y) for x, y in places]
    for x, y, method in sorted(points, key=lambda point: point[0]):
        name = method.name if method.gpu_model is None else f"{method.name}  ·  {method.gpu_model}"
        left = float(np.log10(x)) + 2.2 * width
        right = left + len(name) * width
        for step in (0, 1, -1, 2, -2, 3, -3, 4, -4):
            at = y + step * height
            if not any(
                left < end and start < right and abs(at - other) < height for start, end, other in taken
            ):
                break
        taken.append((left, right, at))
        ax.annotate(
            name,
            (x, at),
            xytext=(9, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            color=TEXT,
            fontweight="bold" if method.is_own else "normal",
        )


def draw_legend(
    figure: Figure, comparison: Comparison, methods: list[Method] | None = None, lines: bool = False
) -> None:
    """Names of all methods, or some, above the panels: by lines where they are drawn so, else by bars and markers."""
    look = looks(comparison.methods)
    methods = comparison.methods if methods is None else methods
    handles = [
        Line2D([], [], color=look[m.name].color, linestyle="-" if lines or m.is_own else "",
               linewidth=2.4 if lines and not m.is_own else 5.0 if m.is_own else 0,
               marker="" if lines or m.is_own else look[m.name].marker, label=m.name)
        for m in methods
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=6)
