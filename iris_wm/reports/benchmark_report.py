"""The report of a benchmark: tables, pictures, raw scores and a page, own runs beside published methods."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from iris_wm.reports.aggregates import Aggregates, aggregate, improvements, sample_efficiency
from iris_wm.reports.comparison import Comparison, compare
from iris_wm.reports.comparison_tables import (
    aggregate_table,
    cost_table,
    game_table,
    improvement_table,
    protocol_table,
    readme_table,
)
from iris_wm.reports.learning_plots import plot_game_curves, plot_sample_efficiency
from iris_wm.reports.page import Card, Section, render_page
from iris_wm.reports.score_plots import plot_aggregates, plot_cost, plot_games, plot_profiles
from iris_wm.reports.table import Table
from iris_wm.visualization.plot_style import save

PAGE_FILE = "report.html"
DEFAULT_METHODS = ("SimPLe", "IRIS", "delta-IRIS", "TWM", "DIAMOND", "REM", "Simulus")


@dataclass(frozen=True)
class BenchmarkReport:
    """What was written, and the notes that stand at its top."""

    folder: Path
    page: Path
    files: list[Path]
    notes: list[str]


def write_benchmark_report(
    outputs: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    folder: str | Path | None = None,
    gpu_prices: Mapping[str, float] | None = None,
) -> BenchmarkReport:
    """Write report.html, TABLE.{md,csv,tex}, PLOT.{png,svg}, readme.md, aggregates.json, scores.json, runs.json.

    outputs, names, methods: see `comparison.compare`, which also says what it raises. gpu_prices: dollars an hour
    by GPU model, such as {"A100": 1.5}; with them scores are also shown against cost. folder: where to write
    (default: `report` in the first of `outputs`). The same runs give the same figures.
    """
    comparison = compare(outputs, names, methods)
    folder = Path(outputs[0]) / "report" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aggregates = {method.name: aggregate(method, comparison.games) for method in comparison.methods}
    tables = {
        "aggregates": aggregate_table(comparison, aggregates),
        "games": game_table(comparison),
        "cost": cost_table(comparison, gpu_prices or {}),
        "improvement": improvement_table(improvements(comparison)),
        "protocol": protocol_table(comparison),
    }
    efficiencies = {method.name: sample_efficiency(method, comparison.games) for method in comparison.own}
    figures = {
        "plot_aggregates": plot_aggregates(comparison, aggregates),
        "plot_games": plot_games(comparison),
        "plot_profiles": plot_profiles(comparison),
        "plot_sample_efficiency": plot_sample_efficiency(comparison, aggregates, efficiencies),
        "plot_game_curves": plot_game_curves(comparison),
        "plot_hours": plot_cost(comparison, aggregates),
        "plot_cost": plot_cost(comparison, aggregates, gpu_prices) if gpu_prices else None,
    }
    texts = {"readme.md": readme_table(comparison, aggregates)}
    for name, value in (
        ("scores", {method.name: method.scores for method in comparison.methods}),
        ("runs", {method.name: [result.as_dict() for result in method.results] for method in comparison.own}),
        ("aggregates", {name: asdict(of_method) for name, of_method in aggregates.items()}),
    ):
        texts[f"{name}.json"] = json.dumps(value, indent=1) + "\n"
    files, pictures = [], {}
    for name, table in tables.items():
        if table.rows:
            texts |= {
                f"{name}.md": table.markdown(),
                f"{name}.csv": table.csv(),
                f"{name}.tex": table.latex(),
            }
    for name, figure in figures.items():
        if figure is not None:
            paths = [folder / f"{name}.png", folder / f"{name}.svg"]
            save(figure, *paths)
            files += paths
            pictures[name] = paths[1]
    texts[PAGE_FILE] = _page(comparison, aggregates[comparison.own[0].name], tables, pictures)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return BenchmarkReport(folder, folder / PAGE_FILE, files, comparison.notes)


_PARTS = (
    # plot, table, title, text
    ("plot_aggregates", "aggregates", "Aggregates", "{caption} Bands are the intervals, lines the figures."),
    ("plot_games", None, "Games", "Bars and ticks: own means and seeds. Markers: means of published methods. "
     "Dashed: the human reference."),
    (None, "games", "Returns by game", "{caption} Coloured: the best of a row."),
    ("plot_sample_efficiency", None, "Sample efficiency", "Evaluations during training, which have fewer "
     "episodes than the final one, with 95% intervals. Dashed lines: final scores of published methods."),
    ("plot_game_curves", None, "Sample efficiency by game", "Thin lines: seeds; thick: their mean; shaded: "
     "their range. Dotted: random; dashed: human, where in reach."),
    ("plot_profiles", None, "Performance profiles", "How many runs score above the value on the axis, with "
     "95% intervals."),
    ("plot_hours", "cost", "Score against time", "Published hours where the sources state them; devices "
     "differ in speed."),
    ("plot_cost", None, "Score against cost", "Device-hours at the prices given for this report."),
    (None, "improvement", "Probability of improvement", "{caption} Above 0.5 the first is better."),
    (None, "protocol", "Protocol and sources", "{caption}"),
)  # fmt: skip


def _page(
    comparison: Comparison, own: Aggregates, tables: dict[str, Table], pictures: dict[str, Path]
) -> str:
    iqm = own.iqm_over_runs
    assert iqm is not None  # own methods have scores of single runs
    interval = (
        "no interval from single runs" if iqm.low is None else f"95% interval {iqm.low:.3f} to {iqm.high:.3f}"
    )
    cards = [
        Card(f"{comparison.own[0].name}: IQM over runs", f"{iqm.value:.3f}", interval),
        Card("Median", f"{own.median.value:.3f}", "of the games' means, human is 1"),
        Card("Mean", f"{own.mean.value:.3f}", "of the games' means, human is 1"),
        Card("Human or better", f"{own.num_games_above_human}", f"of {len(comparison.games)} games"),
    ]
    sections = []
    for plot, name, title, text in _PARTS:
        table = tables[name] if name else None
        if (plot and plot not in pictures) or (table and not table.rows):
            continue
        text = text.format(caption=table.caption if table else "")
        sections.append(Section(title, text, pictures.get(plot or ""), table, is_folded=name == "protocol"))
    facts = [
        f"{len(comparison.games)} games",
        *(f"{method.name}: {len(method.results)} runs, {method.gpu_model}" for method in comparison.own),
    ]
    return render_page("Atari 100k", facts, cards, comparison.notes, sections)
