"""GroupNorm followed by SiLU in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    """See `iris_kernels.group_norm_silu`. Differentiable by PyTorch's own rules."""
    if is_small_bfloat16(x):
        return F.silu(F.group_norm(x.float(), num_groups, weight.float(), bias.float(), eps)).to(x.dtype)
    return F.silu(F.group_norm(x, num_groups, weight.to(x.dtype), bias.to(x.dtype), eps))


def is_small_bfloat16(x: Tensor) -> bool:
    """Whether PyTorch's group norm is faster in float32: bfloat16 of at most 16 x 16 on a CPU (4 times, measured)."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[-1] <= 16


def group_norm_silu_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, for use below autograd, where a custom op's kernels run."""
    batch, channels, height, width = x.shape
    layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
    x, grad_out = x.contiguous(memory_format=layout), grad_out.contiguous(memory_format=layout)
    sizes = (batch, channels, height * width, num_groups)
    scale = weight.to(x.dtype)
    normed, mean, rstd = torch.native_group_norm(x, scale, bias.to(x.dtype), *sizes, eps)
    slope = torch.ops.aten.silu_backward(grad_out, normed)
    dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
        slope, x, mean, rstd, scale, *sizes, [True, True, True]
    )
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype)
