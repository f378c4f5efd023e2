"""Launches sample_tokens.c."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from iris_kernels.cpu_kernels.library import load


def is_available(logits: Tensor, temperature: float, top_k: int, top_p: float) -> bool:
    """Whether there is a kernel for these arguments, compiling it if need be."""
    return (
        temperature > 0
        and top_k == 0
        and top_p == 1.0
        and logits.dtype == torch.float32
        and logits.numel() > 0
        and _library() is not None
    )


def launch(logits: Tensor, seed: Tensor, step: Tensor, temperature: float, stream: int) -> Tensor:
    """Tokens (M,) int64 of logits (M, V) float32; see `iris_kernels.sample_tokens`."""
    logits = logits.contiguous()
    tokens = torch.empty(logits.shape[0], dtype=torch.int64)
    _library().sample_tokens(
        logits.data_ptr(), tokens.data_ptr(), *logits.shape, 1.0 / temperature,
        int(seed) & (2**64 - 1), int(step) & (2**64 - 1), stream, torch.get_num_threads(),
    )  # fmt: skip
    return tokens


@functools.cache
def _library() -> Any:
    library = load("sample_tokens")
    if library is not None:
        library.sample_tokens.argtypes = [
            *[ctypes.c_void_p] * 2, ctypes.c_long, ctypes.c_int, ctypes.c_float,
            *[ctypes.c_uint64] * 2, *[ctypes.c_int] * 2,
        ]  # fmt: skip
        library.sample_tokens.restype = None
    return library
