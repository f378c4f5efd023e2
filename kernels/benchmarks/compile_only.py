"""Compiles what the launch functions launch for a given GPU without having one, and reads its resources."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.jit import JITFunction

SHARED_LIMITS = {80: 166912, 86: 101376, 89: 101376, 90: 232448}  # bytes a thread block
REGISTERS_PER_SM = 65536
SHARED_PER_SM = {80: 167936, 86: 102400, 89: 102400, 90: 233472}
THREADS_PER_SM = {80: 2048, 86: 1536, 89: 1536, 90: 2048}
SHARED_RESERVED = 1024  # bytes the driver takes for each block
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Resources(NamedTuple):
    """What one compiled kernel takes on one target."""

    kernel: str
    registers: int  # a thread
    spills: int  # instructions that store a register to the stack
    shared: int  # bytes a block
    num_warps: int
    blocks_per_sm: int
    instructions: str  # matrix and asynchronous-copy instructions found


class _NoGpu(DriverBase):
    """Stands in for the CUDA driver; nothing is ever loaded or run."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return int(self.target.arch)  # a kernel cache for each target

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        return lambda *_, **__: [0.0, 0.0, 0.0]

    def map_python_to_cpp_type(self, name: str) -> str:
        return name


@contextlib.contextmanager
def compile_only(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Inside, a launch with CPU tensors compiles for the target, is recorded, and does not run."""
    seen: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_and_record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = run(self, *args, grid=grid, warmup=True, **options)
        seen.append((self.__name__, compiled))
        return compiled

    triton.runtime.driver.set_active(_NoGpu(capability))
    JITFunction.run = compile_and_record
    try:
        yield seen
    finally:
        JITFunction.run = run
        triton.runtime.driver._active = None


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], check=True, capture_output=True, text=True).stdout


def resources(name: str, compiled: Any, capability: int) -> Resources:
    """Reads registers and spills from the machine code, instructions from the PTX."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        assert found is not None, usage
        # A call also takes stack, so only the instructions tell whether registers were spilled.
        has_stack = int(found[2]) > 0
        spills = len(re.findall(r"\bSTL\b", _run("nvdisasm", "-c", file.name))) if has_stack else 0
    registers = int(found[1])
    num_warps, shared = compiled.metadata.num_warps, compiled.metadata.shared
    by_registers = REGISTERS_PER_SM // (max(8, (registers + 7) // 8 * 8) * 32 * num_warps)
    by_shared = SHARED_PER_SM[capability] // (shared + SHARED_RESERVED)
    by_threads = THREADS_PER_SM[capability] // (32 * num_warps)
    ptx = compiled.asm["ptx"]
    wanted = {"wgmma": "wgmma.mma_async", "mma": "mma.sync", "cp.async": "cp.async"}
    instructions = "+".join(short for short, long in wanted.items() if long in ptx) or "-"
    return Resources(
        name, registers, spills, shared, num_warps, min(by_registers, by_shared, by_threads, 32), instructions
    )
