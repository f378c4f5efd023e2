"""The sampler of head_sample.c."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from iris_kernels.arguments import Draws
from iris_kernels.cpu_kernels.library import load


def is_available(logits: Tensor, draws: Draws) -> bool:
    """Whether there is a kernel for these arguments, compiling it if need be."""
    return (
        draws.temperature > 0
        and draws.top_k == 0
        and draws.top_p == 1.0
        and logits.dtype == torch.float32
        and logits.numel() > 0
        and _library() is not None
    )


def sample_tokens(logits: Tensor, draws: Draws) -> Tensor:
    """See `iris_kernels.sample_tokens`."""
    logits, seed, step = (tensor.contiguous() for tensor in (logits, draws.seed, draws.step))
    rows, codes = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64)
    _library().sample_tokens(
        *(tensor.data_ptr() for tensor in (logits, seed, step, tokens)),
        len(seed), rows // len(seed), codes, draws.stream, draws.place, 1.0 / draws.temperature,
        torch.get_num_threads(),
    )  # fmt: skip
    return tokens


@functools.cache
def _library() -> Any:
    library = load("head_sample")
    if library is not None:
        library.sample_tokens.argtypes = [
            *[ctypes.c_void_p] * 4, *[ctypes.c_long] * 2, *[ctypes.c_int] * 3, ctypes.c_float, ctypes.c_int,
        ]  # fmt: skip
        library.sample_tokens.restype = None
    return library
