"""Pictures of learning: score against env steps, game by game and over all games."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from iris_wm.evaluation.published import published
from iris_wm.reports.aggregates import Aggregates, Estimate, SampleEfficiency, curve_of
from iris_wm.reports.comparison import Comparison
from iris_wm.reports.score_plots import draw_legend, looks
from iris_wm.visualization.numbers import short
from iris_wm.visualization.plot_style import SOFT, grid_of_axes, new_figure, styled

_COLUMNS = 6


@styled
def plot_game_curves(comparison: Comparison) -> Figure | None:
    """Return against env steps, a panel a game: a thin line a seed, a thick one for their mean, a range behind.

    Dashed: the random and the human reference where they are in reach. None without any curve.
    """
    look = looks(comparison.methods)
    if not any(result.curve for method in comparison.own for result in method.results):
        return None
    columns = min(_COLUMNS, len(comparison.games))
    rows = math.ceil(len(comparison.games) / columns)
    figure = new_figure(14, 0.8 + (1.75 if columns == _COLUMNS else 2.6) * rows)
    panels = grid_of_axes(figure, rows, columns)
    for ax in panels[len(comparison.games) :]:
        ax.set_visible(False)
    for ax, game in zip(panels, comparison.games, strict=False):
        reached: list[float] = []
        for method in comparison.own:
            style = look[method.name]
            curves = [curve_of(result) for result in method.results if result.game == game and result.curve]
            for curve in curves:
                reached += curve.values()
                ax.plot(list(curve), list(curve.values()), color=style.color, linewidth=0.8, alpha=0.45)
            shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
            if shared:
                values = np.array([[curve[step] for step in shared] for curve in curves])
                ax.plot(shared, values.mean(axis=0), color=style.color, linewidth=2.0)
                ax.fill_between(
                    shared, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.14, linewidth=0
                )
        ax.set_title(game, fontsize=9.5, pad=4)
        spread = (max(reached) - min(reached)) or 1.0 if reached else 1.0
        for name, dashes in (("Random", (1, 2)), ("Human", (4, 3))):
            value = published()[name].scores[game][0]
            if reached and min(reached) - 0.6 * spread <= value <= max(reached) + 0.6 * spread:
                ax.axhline(value, color=SOFT, linewidth=0.9, linestyle=(0, dashes))
        ax.xaxis.set_major_formatter(FuncFormatter(short))
        ax.yaxis.set_major_formatter(FuncFormatter(short))
        ax.locator_params(nbins=4)
        ax.tick_params(labelsize=8, length=2)
    draw_legend(figure, comparison, comparison.own, lines=True)
    figure.supxlabel("env steps", color=SOFT)
    figure.supylabel("mean return", color=SOFT)
    return figure


@styled
def plot_sample_efficiency(
    comparison: Comparison,
    aggregates: Mapping[str, Aggregates],
    efficiencies: Mapping[str, SampleEfficiency | None],
) -> Figure | None:
    """IQM over runs and mean against env steps with intervals; published final scores stand at the right.

    efficiencies: by name of own methods, None of those without curves. None without any.
    """
    if not any(efficiencies.values()):
        return None
    look = looks(comparison.methods)
    figure = new_figure(12, 4.4)
    panels = [("IQM over runs", "iqm_over_runs"), ("Mean", "mean")]
    for ax, (title, field) in zip(grid_of_axes(figure, 1, 2), panels, strict=True):
        for name, efficiency in efficiencies.items():
            if efficiency is None:
                continue
            value, low, high = getattr(efficiency, field).T
            ax.plot(efficiency.env_steps, value, color=look[name].color, linewidth=2.4, marker="o",
                    markersize=3)  # fmt: skip
            ax.fill_between(efficiency.env_steps, low, high, color=look[name].color, alpha=0.18, linewidth=0)
        others: list[tuple[float, str]] = []
        for method in comparison.methods:
            estimate: Estimate | None = getattr(aggregates[method.name], field)
            if not method.is_own and estimate is not None:
                ax.axhline(
                    estimate.value,
                    color=look[method.name].color,
                    linewidth=1.0,
                    linestyle=(0, (4, 3)),
                    alpha=0.8,
                )
                others.append((estimate.value, method.name))
        low_end, high_end = ax.get_ylim()
        gap, previous = 0.05 * (high_end - low_end), -math.inf
        for value, name in sorted(others):
            previous = max(value, previous + gap)
            ax.annotate(name, (1.0, previous), xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                        textcoords="offset points", fontsize=8.5, color=look[name].color,
                        annotation_clip=False)  # fmt: skip
        ax.set(title=title, xlabel="env steps")
        ax.xaxis.set_major_formatter(FuncFormatter(short))
    figure.axes[0].set_ylabel("human-normalised score")
    draw_legend(figure, comparison, comparison.own, lines=True)
    return figure
