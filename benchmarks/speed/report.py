"""Writes the tables of docs/speed.md and the plot from the results files of `benchmarks/speed/run.py`.

python benchmarks/speed/report.py                     # benchmarks/speed/*.json -> tables.md, cpu.png
python benchmarks/speed/report.py --results FOLDER --output FOLDER
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLORS = {"exact": "#4477aa", "bf16": "#66ccee", "parallel": "#228833", "parallel bf16": "#aabb44"}
# What was aimed at: how the row's name begins and ends, the sides that count, how many times the reference.
AIMS = [
    ("imagination: 64", "with decoder and policy", ("exact", "bf16", "parallel", "parallel bf16"), 3.0),
    ("imagination: 64", "tokens only", ("exact", "bf16"), 3.0),
    ("imagination: 64", "tokens only", ("parallel", "parallel bf16"), 6.0),
    ("world model: update", "", ("exact", "bf16"), 3.0),
    ("actor-critic: update", "", ("exact", "bf16"), 5.0),
    ("acting", "", ("exact", "bf16"), 1.5),
]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def cell(row: dict[str, Any], side: str) -> str:
    """Seconds of an update or units a second, and the ratio."""
    if side not in row["seconds"]:
        return ""
    seconds, ratio = row["seconds"][side], row["ratios"][side]
    text = f"{seconds:.3g} s" if row["unit"] == "updates" else f"{row['amount'] / seconds:.3g}/s"
    return text + (f" (**{ratio:.1f}x**)" if ratio and side != "reference" else "")


def sides_of(rows: list[dict[str, Any]]) -> list[str]:
    """In the order of the table."""
    names = ["reference", *COLORS]
    return [name for name in names if any(name in row["seconds"] for row in rows)]


def main_table(results: dict[str, Any]) -> str:
    """Every row, every side."""
    sides = sides_of(results["rows"])
    return table(
        ["", *sides], [[row["name"], *(cell(row, side) for side in sides)] for row in results["rows"]]
    )


def aims_table(results: dict[str, Any]) -> str:
    """What was aimed at and what was reached."""
    lines = []
    for start, end, sides, aim in AIMS:
        for row in results["rows"]:
            if row["name"].startswith(start) and row["name"].endswith(end):
                reached = ", ".join(
                    f"{side} {row['ratios'][side]:.1f}x" for side in sides if side in row["ratios"]
                )
                best = max(row["ratios"].get(side, 0.0) for side in sides)
                lines.append([row["name"], f"{aim:g}x", reached, "yes" if best >= aim else "no"])
    return table(["against the reference", "aim", "measured", "reached"], lines)


def memory_table(results: dict[str, Any]) -> str:
    """Peaks in GB."""
    rows = [row for row in results["rows"] if row["peak_mb"]]
    sides = sides_of(rows)
    cells = [
        [
            row["name"],
            *(f"{row['peak_mb'][side] / 1e3:.1f}" if side in row["peak_mb"] else "" for side in sides),
        ]
        for row in rows
    ]
    return table(["", *sides], cells)


def growth_table(results: dict[str, Any]) -> str:
    """Steps a second by batch, horizon and context."""
    points = [
        (name, point["x"], point["steps_per_second"])
        for name in results["scaling"]
        for point in results["scaling"][name]
    ]
    sides = list(points[0][2])
    return table(
        ["", *sides],
        [[f"{name} {x}", *(f"{rates[side]:.3g}" for side in sides)] for name, x, rates in points],
    )


def projection_table(all_results: dict[str, dict[str, Any]]) -> str:
    """An epoch and a run, from the rows."""
    lines = [
        [
            f"{label}, {side}" if label else side,
            f"{times['epoch_seconds']:,.0f}",
            f"{times['run_hours']:,.1f}",
        ]
        for label, results in all_results.items()
        for side, times in results["projection"].items()
    ]
    return table(["", "epoch, s", "run, h"], lines)


def settings_table(usual: dict[str, Any], others: dict[str, dict[str, Any]]) -> str:
    """The rows that were measured in several ways: ratio and rate of each side."""
    lines = []
    for row in usual["rows"]:
        for label, results in others.items():
            for other in results["rows"]:
                if other["name"] == row["name"]:
                    sides = [side for side in ("reference", *COLORS) if side in other["seconds"]]
                    lines.append([row["name"], label, *(cell(other, side) for side in sides)])
    width = max((len(cells) for cells in lines), default=2)
    head = ["", "setting", *["reference", *COLORS][: width - 2]]
    return table(head, [cells + [""] * (width - len(cells)) for cells in lines])


def compile_table(results: dict[str, Any]) -> str:
    """Eager, compiled, and what compiling takes."""
    lines = [
        [
            row["name"],
            f"{row['eager']:.3g}",
            f"{row['compiled']:.3g} (**{row['eager'] / row['compiled']:.2f}x**)",
            f"{row['compiling']:.0f}",
        ]
        for row in results["rows"]
    ]
    return table(["", "eager, s", "compiled, s", "compiling, s"], lines)


def where(results: dict[str, Any]) -> str:
    """A sentence on the machine."""
    machine = results["machine"]
    device = machine["gpu"] or f"{machine['threads']} thread(s) of an {machine['processor']}"
    clock = "wall" if machine["clock"] == "wall" else "processor"
    kernels = "with" if machine.get("has_c_kernels") else "without"
    return (
        f"Measured on {device}, torch {machine['torch']}, {kernels} the C kernels, in {clock} seconds, "
        f"at commit `{machine['commit'][:10]}`; medians."
    )


def sections(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The parts of tables.md for which there are results."""
    yield "<!-- Written by benchmarks/speed/report.py: change nothing here. -->"
    if usual := found.get("cpu"):
        yield where(usual)
        yield main_table(usual)
        yield "### Aims\n\nFor two free cores at batch 64, paper-size networks.\n\n" + aims_table(usual)
        if usual["scaling"]:
            yield (
                "### Growth\n\nSteps a second. Batch and horizon: imagined, tokens only; context: segment steps "
                "of a world-model update.\n\n" + growth_table(usual)
            )
        yield "### Peak memory\n\nGB of the process, with all that the benchmark holds.\n\n" + memory_table(
            usual
        )
    runs = {"": found.get("cpu"), "fast preset": found.get("cpu-fast")}
    projected = {label: results for label, results in runs.items() if results and results["projection"]}
    if projected:
        yield (
            "### A whole epoch, a whole run\n\nFrom the rows above, all phases; the fast preset's from its own.\n\n"
            + projection_table(projected)
        )
    if fast := found.get("cpu-fast"):
        yield "### The fast preset's networks\n\n" + where(fast) + "\n\n" + main_table(fast)
    others = {
        label: found[name]
        for name, label in (
            ("cpu", "as usual"),
            ("cpu-torch", "IRIS_KERNELS_BACKEND=torch"),
            ("cpu-stock", "stock allocator"),
        )
        if name in found
    }
    if "cpu" in found and len(others) > 1:
        yield (
            "### Without the C kernels, and with the stock allocator\n\nBoth sides under the same setting.\n\n"
            + settings_table(found["cpu"], others)
        )
    if compiled := found.get("cpu-compile"):
        yield "### torch.compile\n\nLeast of three, `benchmarks/speed/compile.py`.\n\n" + compile_table(
            compiled
        )


def draw(results: dict[str, Any], path: Path) -> None:
    """One picture: bars of ratios on the left, three curves on the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.6, 1))
    bars = figure.add_subplot(grid[:, 0])
    rows = [row for row in results["rows"] if "reference" in row["seconds"]]
    for i, row in enumerate(rows):
        sides = [side for side in row["ratios"] if side != "reference"]
        height = 0.8 / len(sides)
        for j, side in enumerate(sides):
            ratio = row["ratios"][side]
            place = i - 0.4 + height * (j + 0.5)
            bars.barh(place, ratio, height * 0.9, color=COLORS[side])
            bars.text(ratio, place, f" {ratio:.1f}", va="center", fontsize=7)
    bars.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    bars.invert_yaxis()
    bars.axvline(1, color="black", linewidth=0.8)
    bars.set_xlabel("times as fast as the eager reference")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    bars.legend(handles, list(COLORS), fontsize=8, loc="upper right")
    titles = {"batch": "batch", "horizon": "horizon, steps", "context": "context, steps (training)"}
    for i, (name, label) in enumerate(titles.items()):
        axes = figure.add_subplot(grid[i, 1])
        points = results["scaling"].get(name, [])
        for side in points[0]["steps_per_second"] if points else ():
            values = [point["steps_per_second"][side] for point in points]
            axes.plot([point["x"] for point in points], values, "o-", color=COLORS[side])
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("steps/s", fontsize=8)
        axes.set_ylim(bottom=0)
    machine = results["machine"]
    device = machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    figure.suptitle(f"{device}, torch {machine['torch']}, {machine['clock']} seconds", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Read all results there are, write tables.md and a plot for each that has a reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of the JSON files")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    names = (
        "cpu", "cpu-fast", "cpu-torch", "cpu-stock", "cpu-compile",
    )  # fmt: skip
    found = {
        name: json.loads(path.read_text())
        for name in names
        if (path := options.results / f"{name}.json").exists()
    }
    if not found:
        raise SystemExit(f"{options.results}: no results; run benchmarks/speed/cpu.sh")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "tables.md").write_text("\n\n".join(sections(found)) + "\n")
    if "cpu" in found:
        draw(found["cpu"], options.output / "cpu.png")


if __name__ == "__main__":
    main()
