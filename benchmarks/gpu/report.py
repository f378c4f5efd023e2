"""Writes tables.md, which docs/speed.md shows, from the results.json files kept in benchmarks/gpu/results/NAME.json.

python benchmarks/gpu/report.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def cases(stages: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    """Those of a stage that are done."""
    return [case for case in stages.get(stage, {}).get("cases", []) if case["status"] == "done"]


def throughput(stages: dict[str, Any]) -> str:
    """A row of the speed table a line, a side a column."""
    found = cases(stages, "throughput")
    sides = list(dict.fromkeys(case["side"] for case in found))
    rows: dict[str, dict[str, str]] = {}
    for case in found:
        key = f"{case['preset']}: {case['row']}"
        rows.setdefault(key, {})[case["side"]] = f"{case['per_second']:.3g} {case['unit']}/s"
    return table(["", *sides], [[key, *(row.get(side, "") for side in sides)] for key, row in rows.items()])


def kernels(stages: dict[str, Any]) -> str:
    """Median microseconds of every rival, what the model expects of a graph, and the least that the ceilings allow."""
    rows = []
    for case in cases(stages, "kernel_times"):
        times = {name: value[0] for name, value in case["us"].items() if not isinstance(value, str)}
        told = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
        figures = [f"{case[key]:.1f}" for key in ("model_us", "least_us")]
        rows.append([case["preset"], case["kernel"], case["shape"], case["rival"], told, *figures])
    return table(["preset", "kernel", "shape", "", "us", "model us", "least us"], rows)


def learned(stages: dict[str, Any]) -> str:
    """What the fast preset came to."""
    rows = [
        [
            case["name"].removeprefix("play "),
            f"{case['env_steps']:,}",
            f"{case['minutes']:.1f}",
            str(case["returns"]),
        ]
        for case in cases(stages, "learn")
        if "returns" in case
    ]
    return table(["game", "env steps", "minutes", "returns"], rows)


def sections(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The whole file."""
    yield "<!-- Written by benchmarks/gpu/report.py: change nothing here. -->"
    if not results:
        yield "**Nothing has been measured on a GPU yet.**"
    for name, result in results.items():
        stages = result["stages"]
        where = next(stage["environment"] for stage in stages.values() if stage["environment"])
        yield f"### {name}\n\n" + ", ".join(f"{key} {value}" for key, value in where.items()) + "."
        yield table(
            ["stage", "", "first error"], [[key, at["status"], at["error"]] for key, at in stages.items()]
        )
        for part in (throughput, kernels, learned):
            if (text := part(stages)).count("\n") > 1:
                yield text


def main() -> None:
    """Read all results there are, write one file."""
    files = sorted((HERE / "results").glob("*.json"))
    found = {file.stem: json.loads(file.read_text()) for file in files}
    (HERE / "tables.md").write_text("\n\n".join(sections(found)) + "\n")


if __name__ == "__main__":
    main()
