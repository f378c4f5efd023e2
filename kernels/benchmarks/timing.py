"""Times rivals on one device and writes dated JSON that says on which GPU, driver, versions and commit."""

import argparse
import datetime
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results"
# Ceilings of one H200, measured: dense bfloat16 matrix products and reads from memory.
CEILING_FLOPS = 790e12
CEILING_BYTES = 4.3e12
QUANTILES = (0.5, 0.2, 0.8)


class Case(NamedTuple):
    """One thing to time: a rival at one shape."""

    shape: str
    rival: str
    run: Callable[[], object]
    flops: float = 0.0
    bytes: float = 0.0


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def environment(device: torch.device) -> dict[str, str]:
    """GPU (or processor), driver, clock, versions, commit and date."""
    is_cuda = device.type == "cuda"
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "not installed"
    query = ("nvidia-smi", "--format=csv,noheader")
    folder = str(Path(__file__).parent)
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "cpu",
        "driver": _output_of(*query, "--query-gpu=driver_version") if is_cuda else "none",
        "sm_clock": _output_of(*query, "--query-gpu=clocks.sm") if is_cuda else "none",
        "torch": torch.__version__,
        "triton": triton_version,
        "commit": _output_of("git", "-C", folder, "rev-parse", "HEAD"),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _time_on_cpu(run: Callable[[], object], repeats: int = 5) -> list[float]:
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e6)
    times.sort()
    return [times[len(times) // 2], times[0], times[-1]]


def microseconds(run: Callable[[], object], device: torch.device) -> dict[str, list[float] | str]:
    """Median, 20% and 80% quantiles: "cold" flushes the L2 cache, "graph" replays a CUDA graph warm."""
    if device.type == "cpu":
        return {"cpu": _time_on_cpu(run)}
    from triton.testing import do_bench, do_bench_cudagraph

    found: dict[str, list[float] | str] = {}
    for name, bench in (("cold", do_bench), ("graph", do_bench_cudagraph)):
        try:
            found[name] = [1e3 * value for value in bench(run, quantiles=list(QUANTILES))]
        except Exception as error:  # a rival that cannot be captured or does not take the shape
            torch.cuda.synchronize()
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return found


def measure(cases: Iterator[Case], device: torch.device) -> list[dict[str, Any]]:
    """Times every case; adds achieved rates and what share of the ceilings they are."""
    rows = []
    for case in cases:
        times = microseconds(case.run, device)
        row: dict[str, Any] = {"shape": case.shape, "rival": case.rival, "us": times}
        best = [value[0] for value in times.values() if not isinstance(value, str)]
        if best and device.type == "cuda":
            seconds = min(best) * 1e-6
            row["flops_per_s"], row["bytes_per_s"] = case.flops / seconds, case.bytes / seconds
            row["share_of_flops"] = case.flops / seconds / CEILING_FLOPS
            row["share_of_bytes"] = case.bytes / seconds / CEILING_BYTES
        rows.append(row)
        shown = "  ".join(
            f"{name} {value if isinstance(value, str) else f'{value[0]:.1f} us'}"
            for name, value in times.items()
        )
        print(f"{case.shape:44} {case.rival:28} {shown}", flush=True)
    return rows


def main(kernel: str, make_cases: Callable[[torch.device, bool], Iterator[Case]]) -> None:
    """Command line of a benchmark: `--device cuda|cpu`, `--out FILE`. On a CPU the shapes are small."""
    parser = argparse.ArgumentParser(description=f"Times {kernel} against its rivals.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, help="JSON file; default results/DEVICE/DATE/KERNEL.json, none on a CPU"
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {args.device}: there is no CUDA device here; use --device cpu")
    report: dict[str, Any] = {"kernel": kernel, "environment": environment(device)}
    report["rows"] = measure(make_cases(device, device.type == "cpu"), device)
    out = args.out
    if out is None and device.type == "cuda":
        folder = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device"].lower()).strip("-")
        out = RESULTS / folder / report["environment"]["date"][:10] / f"{kernel}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {out}")
