"""What several kernels share: Philox words for a tile, the precision of a dot, and shape arithmetic."""

from typing import Any

import torch
import triton
import triton.language as tl

IS_INTERPRETED = triton.knobs.runtime.interpret
# Said explicitly: Triton warns without it, and the default is about to change.
COMPILER_OPTIONS: dict[str, Any] = {} if IS_INTERPRETED else {"enable_fp_fusion": True}


@triton.jit
def interleave(a, b, c, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Four (ROWS, COLUMNS / 4) blocks as one (ROWS, COLUMNS) block: column j is column j // 4 of block j % 4."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, COLUMNS))


def gpu_family() -> str:
    """Which block table serves the current GPU: "sm_90" from Hopper on, but for small-memory Blackwell."""
    if IS_INTERPRETED:
        return "sm_80"
    capability = triton.runtime.driver.active.get_current_target().arch
    return "sm_90" if 90 <= capability < 120 else "sm_80"


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number` and not below 16, a dot's smallest side."""
    return max(16, triton.next_power_of_2(number))


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32: as PyTorch would under `torch.set_float32_matmul_precision`."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        return "ieee"
    return "tf32"


def must_upcast(dtype: torch.dtype) -> bool:
    """Whether operands of a dot must become float32 first: Triton's interpreter has no bfloat16 arithmetic."""
    return IS_INTERPRETED and dtype == torch.bfloat16


def with_unit_stride(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself where its last dimension is dense, else a copy for which that holds."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
