"""GroupNorm followed by SiLU that keeps channels-last, forward and backward."""

from typing import Any

import torch
from torch import Tensor

from iris_kernels.backend import runs_directly, shape_error, use_c, use_triton
from iris_kernels.cpu_kernels import group_norm_silu as c_kernel
from iris_kernels.reference import group_norm_silu as reference

MAXIMUM_CHANNELS = 1024


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float = 1e-6) -> Tensor:
    """`silu(group_norm(x) * weight + bias)`, statistics in float32.

    Wu and He, "Group Normalization" (2018); Elfwing et al., "Sigmoid-weighted linear units" (2017).

    Args:
        x: (B, C, H, W) of a floating dtype. Differentiable. The kernel takes and gives channels-last.
        weight, bias: (C,). Differentiable.
        num_groups: divides C.
        eps: added to the variance.

    Returns:
        (B, C, H, W) in x's dtype; channels-last where the kernel ran or x is channels-last.

    Raises:
        ValueError: a shape or dtype outside the above.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise shape_error("group_norm_silu", "x", x, "(B, C, H, W) of a floating dtype")
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups != 0:
        raise shape_error("group_norm_silu", "x", x, f"C divisible by num_groups={num_groups}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.shape != (channels,) or not tensor.is_floating_point():
            raise shape_error("group_norm_silu", name, tensor, f"({channels},) of a floating dtype")
    if runs_directly("group_norm_silu", x, _problem(x, num_groups), has_gradient=True):
        if use_c(x.device) and c_kernel.is_available(x, weight, bias, num_groups):
            return c_kernel.GroupNormSiLU.apply(x, weight, bias, num_groups, eps)
        return reference.group_norm_silu(x, weight, bias, num_groups, eps)
    out, _, _ = group_norm_silu_forward(x, weight, bias, num_groups, eps)
    return out


def _problem(x: Tensor, num_groups: int) -> str | None:
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"group_norm_silu takes float32, float16 or bfloat16, got {x.dtype}"
    channels = x.shape[1]
    if channels > MAXIMUM_CHANNELS or channels & (channels - 1) or num_groups & (num_groups - 1):
        return (
            f"group_norm_silu takes powers of two, up to {MAXIMUM_CHANNELS} channels, "
            f"got C={channels}, num_groups={num_groups}"
        )
    return None


@torch.library.custom_op("iris_kernels::group_norm_silu_forward", mutates_args=())
def group_norm_silu_forward(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, mean, reciprocal deviation): the latter (B, num_groups) float32, empty from the reference."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    if use_triton("group_norm_silu", x.device, _problem(x, num_groups)):
        from iris_kernels.triton_kernels import group_norm_silu as kernels

        return kernels.launch_forward(x, weight, bias, num_groups, eps, out)
    out.copy_(reference.group_norm_silu(x, weight, bias, num_groups, eps))
    return out, x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)


@group_norm_silu_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    with_kernel = use_triton("group_norm_silu", x.device, _problem(x, num_groups))
    shape = (x.shape[0], num_groups) if with_kernel else (0,)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    return out, x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("iris_kernels::group_norm_silu_backward", mutates_args=())
def group_norm_silu_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    num_groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (channels-last), weight and bias; the reference repeats its forward pass."""
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    if use_triton("group_norm_silu", x.device, _problem(x, num_groups)):
        from iris_kernels.triton_kernels import group_norm_silu as kernels

        return kernels.launch_backward(grad_out, x, weight, bias, mean, rstd, num_groups, dx)
    grads = reference.group_norm_silu_backward(grad_out, x, weight, bias, num_groups, eps)
    return dx.copy_(grads[0]), grads[1].contiguous(), grads[2].contiguous()


@group_norm_silu_backward.register_fake
def _(grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    return dx, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Any, ...]:
    grads = group_norm_silu_backward(grad_out, *ctx.saved_tensors, *ctx.options)
    return *grads, None, None


group_norm_silu_forward.register_autograd(_backward, setup_context=_setup_context)
