"""Draws a results file of `iris-wm benchmark speed`: ratios, and growth with batch, horizon and context.

python benchmarks/speed/plot.py benchmarks/speed/cpu.json benchmarks/speed/cpu.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"exact": "#4477aa", "bf16": "#66ccee", "parallel": "#228833", "parallel bf16": "#aabb44"}


def draw(results: dict, path: Path) -> None:
    """One picture: bars of ratios on the left, three curves on the right."""
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
    bars.legend(handles, list(COLORS), fontsize=8, loc="lower right")
    titles = {"batch": "batch", "horizon": "horizon, steps", "context": "context, steps (training)"}
    for i, (name, label) in enumerate(titles.items()):
        axes = figure.add_subplot(grid[i, 1])
        points = results["scaling"][name]
        for side in points[0]["steps_per_second"] if points else ():
            values = [point["steps_per_second"][side] for point in points]
            axes.plot([point["x"] for point in points], values, "o-", color=COLORS[side])
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("steps/s", fontsize=8)
        axes.set_ylim(bottom=0)
    machine = results["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    figure.suptitle(f"{where}, torch {machine['torch']}, {machine['clock']} seconds", fontsize=10)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
