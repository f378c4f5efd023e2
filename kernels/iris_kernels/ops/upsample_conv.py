"""A 3x3 convolution of maps doubled by nearest neighbour."""

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.backend import use_c
from iris_kernels.cpu_kernels import upsample_conv as cpu_kernel


def upsample_conv(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv2d(interpolate(maps, scale_factor=2), weight, bias, padding=1)`.

    Args:
        maps: (B, C, H, W). weight: (C_out, C, 3, 3). bias: (C_out,). All differentiable.

    Returns:
        (B, C_out, 2 H, 2 W).
    """
    if use_c(maps.device) and not torch.is_grad_enabled():
        return cpu_kernel.upsample_conv(maps, *cpu_kernel.merged_weights(weight, bias, maps.dtype))
    return F.conv2d(F.interpolate(maps, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
