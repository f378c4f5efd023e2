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
from torch.utils._python_dispatch import TorchDispatchMode

RESULTS = Path(__file__).resolve().parent / "results"
# Ceilings of one H200: dense bfloat16 products and reads from memory as measured, float32 as its data sheet says.
CEILING_FLOPS = 790e12
CEILING_FLOPS_FLOAT32 = 67e12
CEILING_BYTES = 4.3e12
# Microseconds of one launch in a CUDA graph: between launches, and of a kernel that has next to nothing to do.
GAP_US, LAUNCH_US = 1.5, 1.2
NO_LAUNCH = ("aten::empty", "aten::_unsafe_view", "aten::_reshape_alias")
QUANTILES = (0.5, 0.2, 0.8)


class Shape(NamedTuple):
    """What a world model and its tokenizer ask of the kernels: by default, IRIS's."""

    num_layers: int = 10
    width: int = 256
    num_heads: int = 4
    num_codes: int = 512
    tokens_per_frame: int = 16
    num_steps: int = 20  # of the context
    is_parallel: bool = False  # a frame in one pass
    masks: tuple[str, ...] = ("causal", "block_causal", "parallel")
    positions: tuple[int, ...] = (16, 178, 339)  # in the context, where a pass begins
    batch: int = 64  # segments of a training step
    games: int = 64  # of a roll-out
    frames: int = 256  # of a step of the tokenizer
    maps: tuple[tuple[int, int], ...] = (
        (64, 64),
        (64, 32),
        (64, 16),
        (64, 8),
    )  # channels and side of normed maps

    @property
    def tokens_per_step(self) -> int:
        """A frame's and the action."""
        return self.tokens_per_frame + 1

    @property
    def length(self) -> int:
        """Rows of the cache."""
        return self.num_steps * self.tokens_per_step + self.is_parallel * self.tokens_per_frame


IRIS = Shape()
SMALL = Shape(
    num_layers=2, width=32, num_heads=2, num_codes=64, num_steps=2, positions=(16,), batch=1, games=2, frames=2,
    maps=((64, 8),),
)  # fmt: skip


class Case(NamedTuple):
    """One thing to time: a rival at one shape. launches: of our kernels; 0: those of PyTorch's operations."""

    shape: str
    rival: str
    run: Callable[[], object]
    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0


class _Launches(TorchDispatchMode):
    """Counts operations that start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += not function.is_view and not function.name().startswith(NO_LAUNCH)
        return function(*arguments, **(keywords or {}))


def least_us(case: Case) -> float:
    """Microseconds that an H200's ceilings allow."""
    peak = CEILING_FLOPS_FLOAT32 if "float32" in case.shape else CEILING_FLOPS
    return 1e6 * max(case.flops / peak, case.bytes / CEILING_BYTES)


def model_us(case: Case) -> float:
    """Microseconds that a CUDA graph of it should take on an H200: gaps, and the launches or all they must do."""
    launches = case.launches
    if not launches:
        with _Launches() as counted:
            case.run()
        launches = counted.count
    return launches * GAP_US + max(launches * LAUNCH_US, least_us(case))


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
    """Times every case, beside what the model expects of a graph and the least there can be."""
    rows = []
    for case in cases:
        times = microseconds(case.run, device)
        row: dict[str, Any] = {"shape": case.shape, "rival": case.rival, "us": times}
        row |= {"model_us": model_us(case), "least_us": least_us(case)}
        rows.append(row)
        shown = "  ".join(
            f"{name} {value if isinstance(value, str) else f'{value[0]:.1f} us'}"
            for name, value in times.items()
        )
        print(f"{case.shape:44} {case.rival:28} {shown}", flush=True)
    return rows


MakeCases = Callable[[torch.device, torch.dtype, Shape, bool], Iterator[Case]]


def all_cases(make_cases: MakeCases, device: torch.device, games: tuple[int, ...]) -> Iterator[Case]:
    """IRIS's shapes with so many games at a time, in both dtypes; a small one on a CPU."""
    if device.type == "cpu":
        yield from make_cases(device, torch.float32, SMALL, True)
        return
    for dtype in (torch.bfloat16, torch.float32):
        for number in games:
            yield from make_cases(device, dtype, IRIS._replace(games=number), False)


def main(kernel: str, make_cases: MakeCases, games: tuple[int, ...] = (64,)) -> None:
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
    report["rows"] = measure(all_cases(make_cases, device, games), device)
    out = args.out
    if out is None and device.type == "cuda":
        folder = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device"].lower()).strip("-")
        out = RESULTS / folder / report["environment"]["date"][:10] / f"{kernel}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {out}")
