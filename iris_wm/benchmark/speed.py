"""`iris-wm benchmark speed`: what a user waits for, as seconds and as the ratio to the eager reference.

All sides run under one allocator setting: that of the process, which the command line makes.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import iris_wm
from iris_wm.benchmark.speed_projection import project
from iris_wm.benchmark.speed_rows import SIZES, Bench, Sizes, nothing
from iris_wm.benchmark.timing import REFERENCE, Clock, Row
from iris_wm.config import build_config, read_yaml
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import current_commit
from iris_wm.world.transformer import kernels_in_use

PARTS = ("tokenizer", "acting", "collection", "roll_outs", "world", "policy", "growth")


def measure(
    config: RunConfig,
    sizes: Sizes,
    clock: Clock,
    on_row: Callable[[Row], None] = nothing,
    on_start: Callable[[str], None] = nothing,
    parts: tuple[str, ...] = PARTS,
) -> dict[str, Any]:
    """The table, or some parts of it, as plain values: machine, rows, growth, projection."""
    bench = Bench(config, sizes, clock, on_row, on_start)
    for part in PARTS[:-1]:
        if part in parts:
            getattr(bench, part)()
    growth = bench.growth() if "growth" in parts else {}
    return {
        "machine": machine(clock),
        "sizes": asdict(sizes),
        "rows": [
            asdict(row) | {"ratios": {side: row.ratio(side) for side in row.seconds}} for row in bench.rows
        ],
        "scaling": growth,
        "projection": project(config, bench.rows, frames=sizes.frames, update_batch=sizes.update_batch),
    }


def machine(clock: Clock) -> dict[str, Any]:
    """Where and with what was measured."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "gpu": torch.cuda.get_device_name(clock.device) if clock.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "clock": clock.kind,
        **kernels_in_use(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iris_wm": iris_wm.__version__,
        "commit": current_commit(),
    }


def line(row: Row) -> str:
    """A row in words, for printing while the rest is still measured."""
    cells = [f"{row.name:<50}"]
    for side, seconds in row.seconds.items():
        ratio = row.ratio(side)
        rate = f"{seconds:.3g} s" if row.unit == "updates" else f"{row.amount / seconds:.3g} {row.unit}/s"
        cells.append(f"{side} {rate}" + (f" ({ratio:.1f}x)" if ratio and side != REFERENCE else ""))
    return "  ".join(cells)


def speed(
    *,
    config: str | Path = "",
    device: str = "auto",
    is_quick: bool = False,
    clock: str = "wall",
    threads: int = 0,
    batch: int = 0,
    parts: str = "",
    output: str | Path | None = None,
) -> int:
    """Measure and print the table, and write it as JSON where output is given; 0.

    config: a YAML file of the networks and the schedule (default: the paper's). device: auto, cpu or cuda.
    clock: wall, or cpu for processor seconds on a busy machine. threads: of torch, 0 for its own choice. batch: of
    roll-outs and of updates, 0 for the usual ones. parts: names from PARTS with commas between, "" for all.
    Raises ValueError for a device that is not there, a negative number or an unknown part.
    """
    console = Console(highlight=False, soft_wrap=True)
    name = _device(device, clock)
    for option, value in (("threads", threads), ("batch", batch)):
        if value < 0:
            raise ValueError(f"--{option}: got {value}, expected 0 (the usual) or more")
    wanted = tuple(filter(None, parts.split(","))) or PARTS
    if unknown := [part for part in wanted if part not in PARTS]:
        raise ValueError(f"--parts: got {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    if "collection" in wanted and "acting" not in wanted:
        raise ValueError("--parts: collection needs acting, too")
    if threads:
        torch.set_num_threads(threads)
    run_config = build_config(RunConfig, read_yaml(Path(config))) if config else RunConfig()
    usual = SIZES["quick" if is_quick else "gpu" if name == "cuda" else "full"]
    sizes = _fitting(usual, run_config, batch)
    with console.status("") as status:
        results = measure(
            run_config,
            sizes,
            Clock(clock, torch.device(name)),
            lambda row: console.print(line(row)),
            status.update,
            wanted,
        )
    for side, times in results["projection"].items():
        console.print(
            f"{side}: a whole epoch {times['epoch_seconds']:,.0f} s, the whole run {times['run_hours']:,.1f} h"
        )
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written to {path}")
    return 0


def _device(asked: str, clock: str) -> str:
    name = asked
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got cuda, but torch finds no GPU; use --device cpu")
    if clock == "cpu" and name == "cuda":
        raise ValueError("--clock: got cpu, expected wall on a GPU")
    return name


def _fitting(sizes: Sizes, config: RunConfig, batch: int) -> Sizes:
    """Sizes that the config's context, horizon and burn-in allow, with another batch where one was asked for."""
    if batch:
        sizes = replace(sizes, rollout_batches=(batch,), update_batch=batch)
    longest = config.world.context_steps
    return replace(
        sizes,
        context=min(sizes.context, longest),
        horizon=min(sizes.horizon, config.imagination.horizon),
        burn_in=min(sizes.burn_in, config.imagination.burn_in),
        scaling_contexts=tuple(length for length in sizes.scaling_contexts if length <= longest),
    )
