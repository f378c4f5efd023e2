"""The tables of a comparison: aggregates, games, chances of improvement, cost, protocol."""

from collections.abc import Mapping, Sequence

import numpy as np

from iris_wm.evaluation.published import REFERENCES, published
from iris_wm.reports.aggregates import Aggregates, Estimate
from iris_wm.reports.comparison import Comparison, Method
from iris_wm.reports.table import NOTHING, Table


def aggregate_table(comparison: Comparison, aggregates: Mapping[str, Aggregates]) -> Table:
    """One row a method: runs, both IQMs, median, mean, optimality gap, games above human."""
    rows = []
    for method in comparison.methods:
        figures = aggregates[method.name]
        rows.append(
            [
                method.name,
                method.num_runs(comparison.games),
                str(figures.iqm_over_runs or NOTHING),
                str(figures.iqm_over_game_means),
                str(figures.median),
                str(figures.mean),
                str(figures.optimality_gap or NOTHING),
                str(figures.num_games_above_human),
            ]
        )
    return Table(
        "Human-normalised aggregates",
        f"Human-normalised scores over {len(comparison.games)} games, with 95% stratified bootstrap intervals. "
        "An IQM over runs and one over game means are different figures and not to be compared.",
        ["method", "runs", "IQM (runs)", "IQM (game means)", "median", "mean", "optimality gap", "≥ human"],
        rows,
        _best(rows, {2: max, 3: max, 4: max, 5: max, 6: min, 7: max}),
    )


def game_table(comparison: Comparison) -> Table:
    """One row a game: random, human, and each method's mean return (own ones with their standard deviation)."""
    references = [published()[name] for name in REFERENCES]
    rows = []
    for game in comparison.games:
        row = [game, *(f"{reference.scores[game][0]:,.1f}" for reference in references)]
        rows.append(row + [_spread(method, game) for method in comparison.methods])
    first = 1 + len(references)
    best = set()
    for i, game in enumerate(comparison.games):
        means = [float(np.mean(method.scores[game])) for method in comparison.methods]
        best |= {(i, first + j) for j, value in enumerate(means) if value == max(means)}
    return Table(
        "Returns by game",
        "Mean return over runs; own methods with the standard deviation over seeds.",
        ["game", *REFERENCES, *(method.name for method in comparison.methods)],
        rows,
        frozenset(best),
    )


def improvement_table(chances: Mapping[tuple[str, str], Estimate]) -> Table:
    """One row a pair: the chance that a run of the first method beats a run of the second."""
    return Table(
        "Probability of improvement",
        "Chance that a run of the first method beats a run of the second in a game drawn at random.",
        ["methods", "probability"],
        [[f"{own} > {other}", str(chance)] for (own, other), chance in chances.items()],
    )


def protocol_table(comparison: Comparison) -> Table:
    """One row a method: what methods do differently, and where the figures are from."""
    keys = list(comparison.methods[0].settings)
    return Table(
        "Protocol and sources",
        "What the methods do differently, as far as their sources say.",
        ["method", *keys, "source"],
        [
            [method.name, *(method.settings[key] for key in keys), method.source]
            for method in comparison.methods
        ],
        is_prose=True,
    )


def cost_table(comparison: Comparison, gpu_prices: Mapping[str, float]) -> Table:
    """One row a method: device and device-hours of one run, and dollars where the GPU's price is given."""
    rows = []
    for method in comparison.methods:
        hours, price = method.gpu_hours, gpu_prices.get(method.gpu_model or "")
        rows.append(
            [
                method.name,
                method.gpu_model or NOTHING,
                NOTHING if hours is None else f"{hours:,.1f}" if hours >= 0.1 else f"{hours:.2g}",
                NOTHING if hours is None or price is None else f"${hours * price:,.2f}",
            ]
        )
    return Table(
        "Time and cost of one run",
        "Device-hours of training one game and seed; runs that share a GPU count with their share. "
        "Devices differ in speed.",
        ["method", "device", "device-hours", "cost"],
        rows,
    )


def readme_table(comparison: Comparison, aggregates: Mapping[str, Aggregates]) -> str:
    """The short Markdown table of a README: runs, IQM over runs, median, mean, games above human."""
    table = aggregate_table(comparison, aggregates)
    columns = [0, 1, 2, 4, 5, 7]
    return Table(
        table.title,
        table.caption,
        [table.header[j] for j in columns],
        [[row[j] for j in columns] for row in table.rows],
        frozenset((i, columns.index(j)) for i, j in table.best if j in columns),
    ).markdown()


def _spread(method: Method, game: str) -> str:
    runs = method.scores[game]
    mean = f"{np.mean(runs):,.1f}"
    return f"{mean} ± {np.std(runs, ddof=1):,.1f}" if method.is_own and len(runs) > 1 else mean


def _best(rows: Sequence[Sequence[str]], columns: Mapping[int, object]) -> frozenset[tuple[int, int]]:
    """Cells that hold their column's best first number, as it is shown."""
    best = set()
    for column, choose in columns.items():
        values = {i: float(row[column].split()[0]) for i, row in enumerate(rows) if row[column] != NOTHING}
        best |= {(i, column) for i, value in values.items() if value == choose(values.values())}  # type: ignore[operator]
    return frozenset(best)
