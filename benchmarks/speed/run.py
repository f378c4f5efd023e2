"""What a user waits for, as seconds and as the ratio to the eager reference.

python benchmarks/speed/run.py                     # the paper's networks, minutes on two cores
python benchmarks/speed/run.py --config configs/atari100k/fast.yaml --output speed.json
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from clock import REFERENCE, Clock, Row, machine
from projection import project
from rich.console import Console
from rows import SIZES, Bench, Sizes, nothing

from iris_wm.config import build_config
from iris_wm.runs.config import RunConfig
from iris_wm.runs.operating_system import keep_freed_memory
from iris_wm.strict_yaml import read_yaml

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


def line(row: Row) -> str:
    """A row in words, for printing while the rest is still measured."""
    cells = [f"{row.name:<50}"]
    for side, seconds in row.seconds.items():
        ratio = row.ratio(side)
        rate = f"{seconds:.3g} s" if row.unit == "updates" else f"{row.amount / seconds:.3g} {row.unit}/s"
        cells.append(f"{side} {rate}" + (f" ({ratio:.1f}x)" if ratio and side != REFERENCE else ""))
    return "  ".join(cells)


def speed(options: argparse.Namespace) -> None:
    """Measure and print the table, and write it as JSON where the options say so.

    Raises ValueError for a device that is not there, a negative number or an unknown part.
    """
    console = Console(highlight=False, soft_wrap=True)
    name = _device(options.device, options.clock)
    for option, value in (("threads", options.threads), ("batch", options.batch)):
        if value < 0:
            raise ValueError(f"--{option}: got {value}, expected 0 (the usual) or more")
    wanted = tuple(filter(None, options.parts.split(","))) or PARTS
    if unknown := [part for part in wanted if part not in PARTS]:
        raise ValueError(f"--parts: got {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    if "collection" in wanted and "acting" not in wanted:
        raise ValueError("--parts: collection needs acting, too")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = build_config(RunConfig, read_yaml(Path(options.config))) if options.config else RunConfig()
    usual = SIZES["quick" if options.quick else "gpu" if name == "cuda" else "full"]
    sizes = fitting(usual, config, options.batch)
    with console.status("") as status:
        results = measure(
            config,
            sizes,
            Clock(options.clock, torch.device(name)),
            lambda row: console.print(line(row)),
            status.update,
            wanted,
        )
    for side, times in results["projection"].items():
        console.print(
            f"{side}: a whole epoch {times['epoch_seconds']:,.0f} s, the whole run {times['run_hours']:,.1f} h"
        )
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written to {options.output}")


def _device(asked: str, clock: str) -> str:
    name = asked
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got cuda, but torch finds no GPU; use --device cpu")
    if clock == "cpu" and name == "cuda":
        raise ValueError("--clock: got cpu, expected wall on a GPU")
    return name


def fitting(sizes: Sizes, config: RunConfig, batch: int) -> Sizes:
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


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="", metavar="FILE", help="networks (default: the paper's)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="small batches, about two minutes on two cores")
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "cpu"), help="cpu: processor seconds, for a busy machine"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of torch (default: its choice)")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="of roll-outs and updates")
    parser.add_argument(
        "--parts", default="", metavar="A,B", help=f"some of {','.join(PARTS)} (default: all)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON of everything measured")
    parser.add_argument(
        "--stock-allocator", action="store_true", help="the system's settings in place of the command line's"
    )
    options = parser.parse_args(arguments)
    if not options.stock_allocator:
        keep_freed_memory()
    try:
        speed(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
