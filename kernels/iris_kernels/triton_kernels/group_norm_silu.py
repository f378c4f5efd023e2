"""GroupNorm followed by SiLU on channels-last pictures, forward and backward, in Triton.

Two passes each way: one reduces parts of a picture to a few numbers a channel, the next combines them and
writes. Means and squared deviations are combined by the rule of Chan, Golub and LeVeque (1979), so that a
large mean costs no digits; nothing is added atomically.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from iris_kernels.triton_kernels.shared import COMPILER_OPTIONS

NUMBERS_IN_A_TILE = 4096
PLACES_IN_A_PART = 512
MAXIMUM_PARTS = 16
NUM_WARPS = 4


@triton.jit(do_not_specialize=["num_places", "part_size"])
def group_norm_statistics(
    x, means, deviations, num_places, part_size, C: tl.constexpr, PLACES: tl.constexpr
):  # fmt: skip
    """One program: mean and summed squared deviation of every channel in one part of one picture."""
    part = tl.program_id(1)
    picture = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    x += picture * num_places * C
    end = tl.minimum((part + 1) * part_size, num_places)
    mean = tl.zeros([C], tl.float32)
    deviation = tl.zeros([C], tl.float32)
    for start in range(part * part_size, end, PLACES):
        places = start + tl.arange(0, PLACES)
        inside = places[:, None] < end
        values = tl.load(x + places[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        count = (tl.minimum(end - start, PLACES)).to(tl.float32)
        seen = (start - part * part_size).to(tl.float32)
        tile_mean = tl.sum(values, 0) / count
        centred = tl.where(inside, values - tile_mean[None, :], 0.0)
        change = tile_mean - mean
        mean += change * (count / (seen + count))
        deviation += tl.sum(centred * centred, 0) + change * change * (seen * count / (seen + count))
    at = (picture * tl.num_programs(1) + part) * C + c
    tl.store(means + at, mean)
    tl.store(deviations + at, deviation)


@triton.jit
def _sum_groups(values, C: tl.constexpr, GROUPS: tl.constexpr):
    """(C,) sums of each channel's group, given for every channel."""
    sums = tl.sum(tl.reshape(values, (GROUPS, C // GROUPS)), 1)
    return tl.reshape(sums[:, None] + tl.zeros([GROUPS, C // GROUPS], tl.float32), (C,))


@triton.jit
def _load_parts(pointer, picture, num_parts, C: tl.constexpr, PARTS: tl.constexpr):
    parts = tl.arange(0, PARTS)
    c = tl.arange(0, C)
    at = (picture * num_parts + parts[:, None]) * C + c[None, :]
    return tl.load(pointer + at, mask=parts[:, None] < num_parts, other=0.0)


@triton.jit(do_not_specialize=["num_places", "part_size", "num_parts"])
def group_norm_silu_apply(
    x, weight, bias, means, deviations, out, group_mean, group_rstd,
    num_places, part_size, num_parts, eps,
    C: tl.constexpr, GROUPS: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One program: one part of one picture, after combining the statistics of all its parts."""
    part = tl.program_id(1)
    picture = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    parts = tl.arange(0, PARTS)
    size = tl.minimum((parts + 1) * part_size, num_places) - parts * part_size
    size = tl.where(parts < num_parts, size, 0).to(tl.float32)
    part_means = _load_parts(means, picture, num_parts, C, PARTS)
    part_deviations = _load_parts(deviations, picture, num_parts, C, PARTS)
    in_group = num_places.to(tl.float32) * (C // GROUPS)
    mean = _sum_groups(tl.sum(part_means * size[:, None], 0), C, GROUPS) / in_group
    off = part_means - mean[None, :]
    deviation = tl.sum(part_deviations + off * off * size[:, None], 0)
    rstd = tl.rsqrt(_sum_groups(deviation, C, GROUPS) / in_group + eps)
    if part == 0:
        first_of_group = c % (C // GROUPS) == 0
        at = picture * GROUPS + c // (C // GROUPS)
        tl.store(group_mean + at, mean, mask=first_of_group)
        tl.store(group_rstd + at, rstd, mask=first_of_group)
    scale = tl.load(weight + c).to(tl.float32) * rstd
    shift = tl.load(bias + c).to(tl.float32)
    x += picture * num_places * C
    out += picture * num_places * C
    end = tl.minimum((part + 1) * part_size, num_places)
    for start in range(part * part_size, end, PLACES):
        places = start + tl.arange(0, PLACES)
        at = places[:, None] * C + c[None, :]
        inside = places[:, None] < end
        values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        z = (values - mean[None, :]) * scale[None, :] + shift[None, :]
        tl.store(out + at, (z * tl.sigmoid(z)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normed_and_slope(x, grad_out, at, inside, mean, rstd, weight, bias):
    """A tile of the normalised input and of the gradient with respect to the input of SiLU."""
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_out + at, mask=inside, other=0.0).to(tl.float32)
    normed = (values - mean[None, :]) * rstd[None, :]
    z = normed * weight[None, :] + bias[None, :]
    gate = tl.sigmoid(z)
    return normed, grad * gate * (1.0 + z * (1.0 - gate))


@triton.jit
def _load_statistics(weight, bias, group_mean, group_rstd, picture, C: tl.constexpr, GROUPS: tl.constexpr):
    c = tl.arange(0, C)
    at = picture * GROUPS + c // (C // GROUPS)
    w = tl.load(weight + c).to(tl.float32)
    b = tl.load(bias + c).to(tl.float32)
    return w, b, tl.load(group_mean + at), tl.load(group_rstd + at)


@triton.jit(do_not_specialize=["num_places", "part_size"])
def group_norm_silu_backward_sums(
    x, grad_out, weight, bias, group_mean, group_rstd, bias_sums, weight_sums, num_places, part_size,
    C: tl.constexpr, GROUPS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One program: a part's contribution to the gradients of weight and bias, for every channel."""
    part = tl.program_id(1)
    picture = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    w, b, mean, rstd = _load_statistics(weight, bias, group_mean, group_rstd, picture, C, GROUPS)
    x += picture * num_places * C
    grad_out += picture * num_places * C
    end = tl.minimum((part + 1) * part_size, num_places)
    for_bias = tl.zeros([C], tl.float32)
    for_weight = tl.zeros([C], tl.float32)
    for start in range(part * part_size, end, PLACES):
        places = start + tl.arange(0, PLACES)
        at = places[:, None] * C + c[None, :]
        normed, slope = _normed_and_slope(x, grad_out, at, places[:, None] < end, mean, rstd, w, b)
        for_bias += tl.sum(slope, 0)
        for_weight += tl.sum(slope * normed, 0)
    at = (picture * tl.num_programs(1) + part) * C + c
    tl.store(bias_sums + at, for_bias)
    tl.store(weight_sums + at, for_weight)


@triton.jit(do_not_specialize=["num_places", "part_size", "num_parts"])
def group_norm_silu_backward_apply(
    x, grad_out, weight, bias, group_mean, group_rstd, bias_sums, weight_sums, dx,
    num_places, part_size, num_parts,
    C: tl.constexpr, GROUPS: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of x in one part of one picture."""
    part = tl.program_id(1)
    picture = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    w, b, mean, rstd = _load_statistics(weight, bias, group_mean, group_rstd, picture, C, GROUPS)
    in_group = num_places.to(tl.float32) * (C // GROUPS)
    sums = tl.sum(_load_parts(bias_sums, picture, num_parts, C, PARTS), 0)
    mean_slope = _sum_groups(sums * w, C, GROUPS) / in_group
    sums = tl.sum(_load_parts(weight_sums, picture, num_parts, C, PARTS), 0)
    mean_product = _sum_groups(sums * w, C, GROUPS) / in_group
    x += picture * num_places * C
    grad_out += picture * num_places * C
    dx += picture * num_places * C
    end = tl.minimum((part + 1) * part_size, num_places)
    for start in range(part * part_size, end, PLACES):
        places = start + tl.arange(0, PLACES)
        at = places[:, None] * C + c[None, :]
        inside = places[:, None] < end
        normed, slope = _normed_and_slope(x, grad_out, at, inside, mean, rstd, w, b)
        grad = slope * w[None, :] - mean_slope[None, :] - normed * mean_product[None, :]
        tl.store(dx + at, (grad * rstd[None, :]).to(dx.dtype.element_ty), mask=inside)


def _parts(num_places: int) -> tuple[int, int]:
    """(number of parts of a picture, places in each)."""
    num_parts = max(1, min(MAXIMUM_PARTS, triton.cdiv(num_places, PLACES_IN_A_PART)))
    part_size = triton.cdiv(num_places, num_parts)
    return triton.cdiv(num_places, part_size), part_size


def _sizes(x: Tensor, num_groups: int) -> tuple[dict[str, int], dict[str, int]]:
    channels = x.shape[1]
    places = max(1, min(NUMBERS_IN_A_TILE // channels, PLACES_IN_A_PART))
    common = {"C": channels, "PLACES": places, "num_warps": NUM_WARPS, **COMPILER_OPTIONS}
    return common, {**common, "GROUPS": num_groups}


def launch_forward(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the channels-last `out` and returns it with mean and reciprocal deviation, (B, groups) float32."""
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    num_places = height * width
    num_parts, part_size = _parts(num_places)
    means = x.new_empty(batch, num_parts, channels, dtype=torch.float32)
    deviations = torch.empty_like(means)
    group_mean = x.new_empty(batch, num_groups, dtype=torch.float32)
    group_rstd = torch.empty_like(group_mean)
    common, with_groups = _sizes(x, num_groups)
    grid = (batch, num_parts)
    group_norm_statistics[grid](x, means, deviations, num_places, part_size, **common)
    group_norm_silu_apply[grid](
        x, weight, bias, means, deviations, out, group_mean, group_rstd,
        num_places, part_size, num_parts, eps, PARTS=triton.next_power_of_2(num_parts), **with_groups,
    )  # fmt: skip
    return out, group_mean, group_rstd


def launch_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    group_mean: Tensor,
    group_rstd: Tensor,
    num_groups: int,
    dx: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the channels-last `dx` and returns it with the gradients of weight and bias."""
    x = x.contiguous(memory_format=torch.channels_last)
    grad_out = grad_out.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    num_places = height * width
    num_parts, part_size = _parts(num_places)
    bias_sums = x.new_empty(batch, num_parts, channels, dtype=torch.float32)
    weight_sums = torch.empty_like(bias_sums)
    _, with_groups = _sizes(x, num_groups)
    grid = (batch, num_parts)
    inputs = (x, grad_out, weight, bias, group_mean, group_rstd, bias_sums, weight_sums)
    group_norm_silu_backward_sums[grid](*inputs, num_places, part_size, **with_groups)
    group_norm_silu_backward_apply[grid](
        *inputs, dx, num_places, part_size, num_parts,
        PARTS=triton.next_power_of_2(num_parts), **with_groups,
    )  # fmt: skip
    return dx, weight_sums.sum((0, 1)).to(weight.dtype), bias_sums.sum((0, 1)).to(bias.dtype)
