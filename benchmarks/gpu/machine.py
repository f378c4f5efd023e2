"""What the machine is, and the two ceilings that every other figure is held against."""

import subprocess
from typing import Any

import torch
from stage import Stage
from timing import microseconds


def run(stage: Stage) -> None:
    """Versions and memory, a large copy, a large product."""
    stage.case("device", _describe, stage)
    stage.case("copy", _copy, stage)
    for dtype in (torch.bfloat16, torch.float32):
        stage.case(f"product {str(dtype)[6:]}", _product, stage, dtype)


def _describe(stage: Stage) -> dict[str, Any]:
    if stage.is_small:
        return {"threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(stage.device)
    query = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    try:
        told = subprocess.run(
            ("nvidia-smi", "--format=csv,noheader", f"--query-gpu={query}"),
            capture_output=True, text=True, check=True, timeout=15,
        )  # fmt: skip
        values = dict(zip(query.split(","), told.stdout.strip().splitlines()[0].split(", "), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        values = {"nvidia-smi": str(error)}
    return values | {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": properties.total_memory / 1e9,
        "cudnn": torch.backends.cudnn.version(),
        "has_bf16": torch.cuda.is_bf16_supported(),
    }


def _copy(stage: Stage) -> dict[str, Any]:
    """Bytes read and written a second."""
    source = torch.zeros(2**22 if stage.is_small else 2**30, dtype=torch.uint8, device=stage.device)
    target = torch.empty_like(source)
    seconds = _seconds(stage, lambda: target.copy_(source))
    return {"bytes_per_s": 2 * source.numel() / seconds}


def _product(stage: Stage, dtype: torch.dtype) -> dict[str, Any]:
    size = 256 if stage.is_small else 8192
    first, second = (torch.randn(size, size, device=stage.device).to(dtype) for _ in range(2))
    return {"flops_per_s": 2 * size**3 / _seconds(stage, lambda: first @ second)}


def _seconds(stage: Stage, work: Any) -> float:
    times = [value[0] for value in microseconds(work, stage.device).values() if not isinstance(value, str)]
    return min(times) * 1e-6
