"""Compiles every kernel and block-table entry for sm_80 and sm_90 and writes what each takes; needs no GPU.

python kernels/benchmarks/resources.py            # print the table
python kernels/benchmarks/resources.py --write    # put it into kernels/README.md
python kernels/benchmarks/resources.py --json PATH
"""

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
import triton
from compile_only import SHARED_LIMITS, Resources, compile_only, resources
from iris_kernels.arguments import Draws, HeadWeights
from iris_kernels.reference.decode_layers import Rows
from iris_kernels.triton_kernels import attention, decode_layers, group_norm_silu, head_sample

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- resources: begin -->", "<!-- resources: end -->"
TARGETS = (80, 90)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Case = tuple[str, Callable[[], object]]


def _attention_cases(dtype: torch.dtype, name: str) -> Iterator[Case]:
    seed = torch.zeros(1, dtype=torch.int64)
    plain, full = ("causal", 0, 0.0), ("parallel", 17, 0.1)
    entries = [(16, plain), (32, full), (64, full), (128, full)]
    if dtype != torch.float32:
        entries.append((64, plain))
    for size, (mask, step, dropout) in entries:
        q = torch.empty(2, 330, 4, size, dtype=dtype).transpose(1, 2)
        statistics = torch.empty(2, 4, 330)
        options = (mask, step, False, dropout, seed if dropout else None)
        label = f"{name} D={size} {mask}{' dropout' if dropout else ''}"

        yield label, partial(attention.launch_forward, q, q, q, *options, q, statistics)
        yield label, partial(attention.launch_backward, q, q, q, q, q, statistics, *options, (q, q, q))


def _decode_cases(dtype: torch.dtype, name: str) -> Iterator[Case]:
    for width, rows in ((256, 64), (256, 1024), (512, 64)):
        turns = torch.empty(rows, 64)
        for kind, outputs in (("", 3 * width), (" rotary", 3 * width), (" gelu", 4 * width)):
            x, norm = torch.empty(rows, width), torch.empty(width)
            weight, bias = torch.empty(outputs, width, dtype=dtype), torch.empty(outputs)
            options = "gelu" if kind == " gelu" else "none", turns if kind == " rotary" else None
            yield (
                f"{name} M={rows} {width}->{outputs}{kind}",
                partial(decode_layers.launch_ln_linear, x, norm, norm, weight, bias, *options),
            )
        for inputs in (width, 4 * width):
            x = torch.empty(rows, inputs, dtype=dtype)
            weight, bias = torch.empty(width, inputs, dtype=dtype), torch.empty(width)
            residual = torch.empty(rows, width)
            yield (
                f"{name} M={rows} {inputs}->{width}",
                partial(decode_layers.launch_linear_residual, x, weight, bias, residual),
            )
    position = torch.zeros(3, dtype=torch.int32)
    for size, new in itertools.product((16, 32, 64, 128), (1, 33)):
        qkv = torch.empty(3, new, 3 * 4 * size, dtype=dtype)
        cache = torch.empty(3, 4, 340, size, dtype=dtype)
        yield (
            f"{name} D={size} n={new}",
            partial(
                decode_layers.launch_decode_attention, qkv, cache, cache, position, Rows(new, new, False)
            ),
        )


def _head_cases(dtype: torch.dtype, name: str) -> Iterator[Case]:
    number = torch.zeros(64, dtype=torch.int64)
    plain, cut_off = (1.0, 0, 1.0), (0.9, 50, 0.9)
    shapes = ((256, 256, plain), (256, 512, plain), (512, 512, cut_off), (512, 1024, plain))
    for width, codes, cut in shapes:
        if codes > 512 and dtype == torch.float32:
            continue
        vector, square = torch.empty(width, dtype=dtype), torch.empty(width, width, dtype=dtype)
        table, bias = torch.empty(codes, width, dtype=dtype), torch.empty(codes, dtype=dtype)
        weights = HeadWeights(vector, vector, square, vector, table, bias, table, table)
        x, position = torch.empty(64, width), torch.zeros(64, dtype=torch.int32)
        outputs = torch.empty(64, dtype=torch.int64), x, torch.empty(64, codes)
        draws = Draws(number, number, 0, 0, *cut)
        yield (
            f"{name} C={width} V={codes}{' top-k top-p' if cut[1] else ''}",
            partial(head_sample.launch_head_sample, x, weights, position, draws, *outputs),
        )
    for codes, cut in ((512, plain), (512, cut_off), (8192, cut_off)):
        logits, tokens = torch.empty(64, codes, dtype=dtype), torch.empty(64, dtype=torch.int64)
        yield (
            f"{name} V={codes}{' top-k top-p' if cut[1] else ''}",
            partial(head_sample.launch_sample_tokens, logits, Draws(number, number, 0, 0, *cut), tokens),
        )


def _group_norm_cases(dtype: torch.dtype, name: str) -> Iterator[Case]:
    for channels in (64, 512):
        x = torch.empty(2, channels, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        weight, statistics = torch.empty(channels), torch.empty(2, 32)
        label = f"{name} C={channels}"
        yield label, partial(group_norm_silu.launch_forward, x, weight, weight, 32, 1e-6, x)
        inputs = (x, x, weight, weight, statistics, statistics)
        yield label, partial(group_norm_silu.launch_backward, *inputs, 32, x)


def cases() -> Iterator[Case]:
    """Every kernel at every entry of its block table, as (label, launch)."""
    for name, dtype in DTYPES.items():
        for make in (_attention_cases, _decode_cases, _head_cases, _group_norm_cases):
            yield from make(dtype, name)


def measure(capability: int) -> dict[tuple[str, str], Resources]:
    """By (kernel, label), for one target."""
    found = {}
    for label, launch in cases():
        with compile_only(capability) as seen:
            launch()
        for kernel, compiled in seen:
            found[kernel, label] = resources(kernel, compiled, capability)
    return found


def markdown(by_target: dict[int, dict[tuple[str, str], Resources]]) -> str:
    """The table: registers a thread, spills, shared KB, thread blocks that fit on an SM, instructions."""
    lines = [
        f"Compiled by triton {triton.__version__}. For each target: registers a thread / spilling instructions / "
        "shared KB a block / blocks on an SM / instructions.",
        "",
        "| kernel | shape | warps | " + " | ".join(f"sm_{target}" for target in TARGETS) + " |",
        "|---|---|---|" + "---|" * len(TARGETS),
    ]
    for key in sorted(by_target[TARGETS[0]]):
        entries = [by_target[target][key] for target in TARGETS]
        cells = [
            f"{e.registers} / {e.spills} / {e.shared / 1024:.1f} / {e.blocks_per_sm} / {e.instructions}"
            for e in entries
        ]
        lines.append(f"| {key[0]} | {key[1]} | {entries[0].num_warps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the table in kernels/README.md")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    # Fresh processes: torch's threads do not survive a fork.
    with ProcessPoolExecutor(len(TARGETS), mp_context=multiprocessing.get_context("spawn")) as pool:
        by_target = dict(zip(TARGETS, pool.map(measure, TARGETS), strict=True))
    table = markdown(by_target)
    print(table)
    if args.json:
        flat = [
            {"target": target, "label": label, **entry._asdict(), "shared_limit": SHARED_LIMITS[target]}
            for target, entries in by_target.items()
            for (_, label), entry in entries.items()
        ]
        args.json.write_text(json.dumps(flat, indent=1) + "\n")
    if args.write:
        text = README.read_text()
        before, rest = text.split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
