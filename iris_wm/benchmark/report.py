"""Write a report: tables, pictures, raw scores and the page, for own runs beside published methods."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from iris_wm.benchmark.aggregates import Aggregates, aggregate, improvements, sample_efficiency
from iris_wm.benchmark.curves import plot_game_curves, plot_sample_efficiency
from iris_wm.benchmark.methods import Comparison, compare
from iris_wm.benchmark.page import Headline, Section, render_page
from iris_wm.benchmark.plots import plot_aggregates, plot_cost, plot_games, plot_profiles
from iris_wm.benchmark.style import save
from iris_wm.benchmark.tables import (
    Table,
    aggregate_table,
    cost_table,
    game_table,
    improvement_table,
    protocol_table,
    readme_table,
)

PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written, and the notes that stand at its top."""

    folder: Path
    page: Path
    files: list[Path]
    notes: list[str]
    comparison: Comparison
    aggregates: dict[str, Aggregates]


def write_report(
    outputs: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    methods: Sequence[str] = (),
    folder: str | Path | None = None,
    gpu_prices: Mapping[str, float] | None = None,
) -> Report:
    """Write report.html, TABLE.{md,csv,tex}, PLOT.{png,svg}, readme.md, aggregates.json, scores.json, runs.json.

    outputs, names, methods: see `methods.compare`, which also says what it raises. gpu_prices: dollars an hour
    by GPU model. folder: where to write (default: `report` in the first of `outputs`). The same runs give the
    same figures.
    """
    comparison = compare(outputs, names, methods)
    folder = Path(outputs[0]) / "report" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aggregates = {method.name: aggregate(method, comparison.games) for method in comparison.methods}
    chances = improvements(comparison)
    tables = {
        "aggregates": aggregate_table(comparison, aggregates),
        "games": game_table(comparison),
        "cost": cost_table(comparison, gpu_prices or {}),
        "protocol": protocol_table(comparison),
    }
    if chances:
        tables["improvement"] = improvement_table(chances)
    figures = _figures(comparison, aggregates, gpu_prices)
    files = []
    for stem, table in tables.items():
        for suffix, text in ((".md", table.markdown()), (".csv", table.csv()), (".tex", table.latex())):
            files.append(_write(folder / f"{stem}{suffix}", text))
    for stem, figure in figures.items():
        files += save(figure, folder, stem)
    raw = {method.name: method.scores for method in comparison.methods}
    runs = {method.name: [asdict(result) for result in method.results] for method in comparison.own}
    numbers = {name: asdict(figures_of) for name, figures_of in aggregates.items()}
    for stem, value in (("scores", raw), ("runs", runs), ("aggregates", numbers)):
        files.append(_write(folder / f"{stem}.json", json.dumps(value, indent=1) + "\n"))
    files.append(_write(folder / "readme.md", readme_table(comparison, aggregates)))
    page = _page(comparison, aggregates, tables, {stem: folder / f"{stem}.svg" for stem in figures})
    files.append(_write(folder / PAGE_FILE, page))
    return Report(folder, folder / PAGE_FILE, files, comparison.notes, comparison, aggregates)


def _figures(
    comparison: Comparison, aggregates: dict[str, Aggregates], gpu_prices: Mapping[str, float] | None
) -> dict[str, Figure]:
    efficiencies = {
        method.name: efficiency
        for method in comparison.own
        if (efficiency := sample_efficiency(method, comparison.games)) is not None
    }
    figures = {
        "plot_aggregates": plot_aggregates(comparison, aggregates),
        "plot_games": plot_games(comparison),
        "plot_profiles": plot_profiles(comparison),
        "plot_sample_efficiency": plot_sample_efficiency(comparison, aggregates, efficiencies),
        "plot_game_curves": plot_game_curves(comparison),
        "plot_hours": plot_cost(comparison, aggregates),
        "plot_cost": plot_cost(comparison, aggregates, gpu_prices) if gpu_prices else None,
    }
    return {stem: figure for stem, figure in figures.items() if figure is not None}


def _page(
    comparison: Comparison,
    aggregates: dict[str, Aggregates],
    tables: dict[str, Table],
    pictures: dict[str, Path],
) -> str:
    own = comparison.own[0]
    figures = aggregates[own.name]
    iqm = figures.iqm_over_runs
    assert iqm is not None  # own methods have scores of single runs
    interval = (
        "no interval from single runs" if iqm.low is None else f"95% interval {iqm.low:.3f} to {iqm.high:.3f}"
    )
    headlines = [
        Headline(f"{own.name}: IQM over runs", f"{iqm.value:.3f}", interval),
        Headline("Median", f"{figures.median.value:.3f}", "of the games' means, human is 1"),
        Headline("Mean", f"{figures.mean.value:.3f}", "of the games' means, human is 1"),
        Headline("Human or better", f"{figures.num_games_above_human}", f"of {len(comparison.games)} games"),
    ]
    sections = [
        Section(
            "Aggregates",
            tables["aggregates"].caption + " Bands are the intervals, lines the figures.",
            pictures["plot_aggregates"],
            tables["aggregates"],
        ),
        Section(
            "Games",
            "Bars and ticks: own means and seeds. Markers: means of published methods. Dashed: the human reference.",
            pictures["plot_games"],
        ),
        Section(
            "Returns by game",
            tables["games"].caption + " Coloured: the best of a row.",
            None,
            tables["games"],
        ),
    ]
    optional = [
        ("plot_sample_efficiency", "Sample efficiency", "Evaluations during training, which have fewer episodes than "
         "the final one, with 95% intervals. Dashed lines: final scores of published methods."),
        ("plot_game_curves", "Sample efficiency by game", "Thin lines: seeds; thick: their mean; shaded: their range. "
         "Dotted: random; dashed: human, where in reach."),
        ("plot_profiles", "Performance profiles", "How many runs score above the value on the axis, with 95% "
         "intervals."),
        ("plot_hours", "Score against time", "Published hours where the sources state them; devices differ in speed."),
        ("plot_cost", "Score against cost", "Device-hours at the prices given for this report."),
    ]  # fmt: skip
    sections += [
        Section(title, text, pictures[stem], tables["cost"] if stem == "plot_hours" else None)
        for stem, title, text in optional
        if stem in pictures
    ]
    if "improvement" in tables:
        table = tables["improvement"]
        sections.append(Section(table.title, table.caption + " Above 0.5 the first is better.", None, table))
    sections.append(
        Section("Protocol and sources", tables["protocol"].caption, None, tables["protocol"], folded=True)
    )
    facts = [
        f"{len(comparison.games)} games",
        *(f"{method.name}: {len(method.results)} runs, {method.gpu_model}" for method in comparison.own),
    ]
    return render_page("Atari 100k", facts, comparison.notes, headlines, sections)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
