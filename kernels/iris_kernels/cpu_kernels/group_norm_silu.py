"""Launches group_norm_silu.c, forward and backward."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iris_kernels.cpu_kernels.library import load


def is_available(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int) -> bool:
    """Whether there is a kernel for these tensors, compiling it if need be."""
    channels = x.shape[1]
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == bias.dtype == torch.float32
        and channels % 16 == 0
        and x.numel() > 0
        and (library := _library(x.dtype)) is not None
        and ctypes.c_int.in_dll(library, "lanes").value % (channels // num_groups) == 0
    )


class GroupNormSiLU(torch.autograd.Function):
    """(x, weight, bias, num_groups, eps) -> channels-last; keeps x and two numbers a channel for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
        x, weight, bias = (
            x.contiguous(memory_format=torch.channels_last),
            weight.contiguous(),
            bias.contiguous(),
        )
        batch, channels, height, width = x.shape
        out = torch.empty_like(x)
        statistics = x.new_empty(batch, 2, channels, dtype=torch.float32)
        _library(x.dtype).group_norm_silu(
            *(tensor.data_ptr() for tensor in (x, weight, bias, out, statistics)),
            batch, height * width, channels, channels // num_groups, eps, torch.get_num_threads(),
        )  # fmt: skip
        ctx.num_groups = num_groups
        ctx.save_for_backward(x, weight, bias, statistics)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        batch, channels, height, width = x.shape
        grad_out = grad_out.to(x.dtype).contiguous(memory_format=torch.channels_last)
        grad_x, sums = torch.empty_like(x), torch.empty_like(statistics)
        _library(x.dtype).group_norm_silu_backward(
            *(tensor.data_ptr() for tensor in (grad_out, x, weight, bias, statistics, grad_x, sums)),
            batch, height * width, channels, channels // ctx.num_groups, torch.get_num_threads(),
        )  # fmt: skip
        grad_weight, grad_bias = sums.sum(0)
        return grad_x, grad_weight, grad_bias, None, None


@functools.cache
def _library(dtype: torch.dtype) -> Any:
    library = load("group_norm_silu", ELEMENT_IS_BFLOAT16=int(dtype == torch.bfloat16))
    if library is not None:
        library.group_norm_silu.argtypes = [
            *[ctypes.c_void_p] * 5, *[ctypes.c_int] * 4, ctypes.c_float, ctypes.c_int,
        ]  # fmt: skip
        library.group_norm_silu_backward.argtypes = [*[ctypes.c_void_p] * 7, *[ctypes.c_int] * 5]
        library.group_norm_silu.restype = library.group_norm_silu_backward.restype = None
    return library
