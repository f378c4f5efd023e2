"""A 3x3 convolution after nearest-neighbour doubling as one 2x2 convolution before it, for calls without gradients.

Doubled pixels come in pairs, so of the 3 taps in a direction two fall on the same pixel and are one tap, their
sum: four 2x2 kernels, one for each parity of row and column, and 4/9 of the multiplications.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Of each weight by dtype: what merge_taps made of it, and copies of the weight and bias that it was made of.
_merged = WeakTensorKeyDictionary()


def merged_weights(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """merge_taps, kept until the weights change, which their version does not tell: fused optimizers do not count
    it up."""
    by_dtype = _merged.setdefault(weight, {})
    kept = by_dtype.get(dtype)
    if kept is None or not (torch.equal(kept[2], weight) and torch.equal(kept[3], bias)):
        weight, bias = weight.detach(), bias.detach()
        by_dtype[dtype] = kept = (*merge_taps(weight, bias, dtype), weight.clone(), bias.clone())
    return kept[0], kept[1]


def merge_taps(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights for upsample_conv, summed in the weights' own dtype.

    weight (C_out, C, 3, 3), bias (C_out,) -> (4 C_out, C, 2, 2), (4 C_out,) of dtype.
    """
    rows = [_merge_taps(weight, 2, parity) for parity in (0, 1)]
    kernels = torch.cat([_merge_taps(row, 3, parity) for row in rows for parity in (0, 1)])
    return kernels.to(dtype).contiguous(memory_format=torch.channels_last), bias.to(dtype).repeat(4)


def _merge_taps(weight: Tensor, dim: int, parity: int) -> Tensor:
    """Three taps to the two that a row (or column) of this parity has."""
    before, middle, after = weight.unbind(dim)
    return torch.stack([before, middle + after] if parity == 0 else [before + middle, after], dim)


def upsample_conv(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """maps (B, C, H, W) -> (B, C_out, 2 H, 2 W), channels-last; weight and bias of merge_taps."""
    batch_size, _, height, width = maps.shape
    channels = len(weight) // 4
    parts = F.conv2d(maps, weight, bias, padding=1).contiguous(memory_format=torch.channels_last)
    # (B, 4 C_out, H + 1, W + 1). The part for odd rows starts one row further down, that for odd columns one column
    # further right: with strides, all four are one view, copied once.
    per_picture, _, per_row, per_column = parts.stride()
    doubled = parts.as_strided(
        (batch_size, height, 2, width, 2, channels),
        (per_picture, per_row, per_row + 2 * channels, per_column, per_column + channels, 1),
    )
    doubled = doubled.reshape(batch_size, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    return doubled.contiguous(memory_format=torch.channels_last)
