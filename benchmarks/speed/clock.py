"""A row of the speed table, and the clocks that fill it."""

import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import iris_kernels
import torch

import iris_wm
from iris_wm.runs.open import current_commit

REFERENCE = "reference"


@dataclass
class Row:
    """One line of the table: seconds by side, how many units of work each did, and peak memory where known."""

    name: str
    unit: str
    amount: float
    seconds: dict[str, float]
    peak_mb: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def ratio(self, side: str) -> float | None:
        """Times faster than the reference; None without one."""
        reference = self.seconds.get(REFERENCE)
        return None if reference is None else reference / self.seconds[side]


@dataclass(frozen=True)
class Clock:
    """wall: what a user waits. cpu: processor seconds of the process, for a machine that others use, too."""

    kind: str = "wall"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call."""
        read = time.process_time if self.kind == "cpu" else time.perf_counter
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = read()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return read() - start

    def forget_peak(self) -> None:
        """Start a new peak of memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def peak_mb(self) -> float:
        """Of the device on CUDA since forget_peak; of the process elsewhere.

        A process whose allocator keeps freed memory shows the most that anything has needed so far.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


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
        "kernels": iris_kernels.requested_backend(),
        "has_c_kernels": iris_kernels.has_c_attention(64, torch.float32),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iris_wm": iris_wm.__version__,
        "commit": current_commit(),
    }
