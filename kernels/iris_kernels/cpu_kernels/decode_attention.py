"""Launches decode_attention.c."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from iris_kernels.cpu_kernels.library import load

MAXIMUM_HEAD_SIZE = 128
MAXIMUM_LENGTH = 8192


def is_available(head_size: int, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for this head size and dtype, compiling it if need be."""
    return (
        dtype in (torch.float32, torch.bfloat16)
        and head_size % 16 == 0
        and head_size <= MAXIMUM_HEAD_SIZE
        and _function(head_size, dtype) is not None
    )


def launch(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_heads: int,
    num_context: int,
    is_block_causal: bool,
) -> Tensor:
    """See `iris_kernels.decode_attention`; qkv is contiguous and every row fits the caches."""
    groups, batch, new, width = qkv.shape
    max_length, size = k_cache.shape[-2:]
    out = qkv.new_empty(groups, batch, new, width // 3)
    position = position.contiguous()
    _function(size, qkv.dtype)(
        *(tensor.data_ptr() for tensor in (qkv, k_cache, v_cache, out, position)),
        groups, batch, new, num_heads, max_length, num_context, is_block_causal, torch.get_num_threads(),
    )  # fmt: skip
    return out


@functools.cache
def _function(head_size: int, dtype: torch.dtype) -> Any:
    library = load("decode_attention", HEAD_SIZE=head_size, ELEMENT_IS_BFLOAT16=int(dtype == torch.bfloat16))
    if library is None:
        return None
    function = library.decode_attention
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int] * 8
    function.restype = None
    return function
