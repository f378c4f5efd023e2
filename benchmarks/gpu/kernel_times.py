"""The scripts of kernels/benchmarks, case by case: what is not compiled by torch.compile, which takes minutes."""

import importlib
from typing import Any

import torch
from stage import Stage
from timing import CEILING_BYTES, CEILING_FLOPS, Case, microseconds

KERNELS = ("decode_chain", "attention", "head_sample", "group_norm_silu")


def run(stage: Stage) -> None:
    """bfloat16 of all kernels first, then float32."""
    for dtype in ("float32",) if stage.is_small else ("bfloat16", "float32"):
        for kernel in KERNELS:
            with stage.guard(f"{kernel}: inputs"):
                for case in importlib.import_module(kernel).cases(stage.device, stage.is_small):
                    if dtype in case.shape and "compiled" not in case.rival:
                        stage.case(f"{kernel}: {case.shape}: {case.rival}", _measure, stage, case)
            torch.set_grad_enabled(True)  # the scripts of kernels without gradients switch them off


def _measure(stage: Stage, case: Case) -> dict[str, Any]:
    """Microseconds cold and from a graph, and the least that a GPU with the known ceilings needs for the work."""
    times = microseconds(case.run, stage.device)
    if all(isinstance(value, str) for value in times.values()):
        raise RuntimeError("; ".join(f"{name}: {value}" for name, value in times.items()))
    return {
        "shape": case.shape,
        "rival": case.rival,
        "us": times,
        "roofline_us": 1e6 * max(case.flops / CEILING_FLOPS, case.bytes / CEILING_BYTES),
    }
