"""The steps of one transformer layer on a few new tokens with a static key-value cache, in plain PyTorch."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.arguments import LN_EPS


class Rows(NamedTuple):
    """What the new rows are; see `iris_kernels.decode_layers`."""

    num_context: int
    num_wanted: int
    is_block_causal: bool
    turns: Tensor | None = None


class Parts(NamedTuple):
    """One implementation of each step of a layer."""

    ln_linear: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, str, Tensor | None], Tensor]
    decode_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Rows], Tensor]
    linear_residual: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ln_linear(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    turns: Tensor | None = None,
) -> Tensor:
    """`activation(layer_norm(x) weight^T + bias)`: (M, C) float32 -> (M, O) in the weight's dtype.

    ln_weight, ln_bias: (C,). weight: (O, C). bias: (O,). activation: none or gelu, the exact one. turns: (M, D), by
    which the first two thirds of the outputs, queries and keys, are turned head by head (see `rotate`).
    """
    normed = F.layer_norm(x, x.shape[-1:], ln_weight.to(x.dtype), ln_bias.to(x.dtype), LN_EPS)
    out = F.linear(normed.to(weight.dtype), weight, bias.to(weight.dtype))
    return turned(F.gelu(out) if activation == "gelu" else out, turns)


def turned(qkv: Tensor, turns: Tensor | None) -> Tensor:
    """(M, 3C) packed q | k | v, q and k turned in place by turns (M, D)."""
    if turns is not None:
        heads = qkv.unflatten(1, (3, -1, turns.shape[1]))[:, :2]
        heads.copy_(rotate(heads, turns[:, None, None]))
    return qkv


def linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """`residual + x weight^T + bias`: (M, I) in the weight's dtype -> (M, O) float32.

    weight: (O, I). bias: (O,). residual: (M, O) float32.
    """
    return residual + F.linear(x, weight, bias.to(weight.dtype))


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions: each pair of neighbours, taken as a complex number, times another of length one.

    Args:
        x: (..., D) of a floating dtype, the last dimension dense. Differentiable.
        turns: (..., D) float32 to broadcast with x: cosine and sine, side by side, of each pair's angle.

    Returns:
        x's shape and dtype, computed in float32 at least.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs, by = (torch.view_as_complex(each.unflatten(-1, (-1, 2))) for each in (exact, turns))
    return torch.view_as_real(pairs * by).flatten(-2).to(x.dtype)


def _length_is_known(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def no_room(new: int, position: int, max_length: int) -> ValueError:
    """What to raise where new rows do not fit a cache."""
    return ValueError(
        f"decode_layers: {new} rows at position {position} do not fit a cache of {max_length} rows"
    )


def decode_attention(
    qkv: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor, new_rows: Rows
) -> Tensor:
    """Appends keys and values to the caches and attends: see `iris_kernels.decode_layers`.

    Reads up to the longest row on a CPU, the whole cache elsewhere.

    Args:
        qkv: (B, n, 3C) packed q | k | v, each N * D, in the caches' dtype.
        k_cache, v_cache: (B, N, Tmax, D), written in place.
        position: (B,) int32.

    Returns:
        (B, n, C) in qkv's dtype.
    """
    batch, new, _ = qkv.shape
    _, num_heads, max_length, size = k_cache.shape
    num_context = new_rows.num_context
    q, k, v = qkv.view(batch, new, 3, num_heads, size).permute(2, 0, 3, 1, 4)
    rows = torch.arange(new, device=qkv.device)
    start = position.to(torch.int64)[:, None]  # (B, 1)
    length, is_even = max_length, False
    if _length_is_known(qkv):
        lowest, highest = (int(bound) for bound in position.aminmax())
        if lowest < 0 or highest > max_length - new:
            raise no_room(new, highest if lowest >= 0 else lowest, max_length)
        length, is_even = highest + new, lowest == highest
    if is_even:
        k_cache[:, :, highest:length] = k
        v_cache[:, :, highest:length] = v
    else:  # on a device nothing may wait for it: write where only it knows, mask the rest
        places = (start + rows)[:, None, :, None].expand(k.shape)
        k_cache.scatter_(2, places, k)
        v_cache.scatter_(2, places, v)
    keys, values = k_cache[:, :, :length], v_cache[:, :, :length]
    columns = torch.arange(length, device=qkv.device)
    if not is_even:  # zero times what an unwritten row holds may be NaN
        is_written = (columns < start + new)[:, None, :, None]
        keys, values = torch.where(is_written, keys, 0), torch.where(is_written, values, 0)
    sees_all = num_context == 0 or (new_rows.is_block_causal and num_context == new)
    if is_even and new == 1:
        scores = torch.matmul(q * (1.0 / math.sqrt(size)), keys.transpose(2, 3))
        out = torch.matmul(scores.softmax(dim=-1), values)
    elif is_even and sees_all:
        out = F.scaled_dot_product_attention(q, keys, values)
    else:
        own = torch.full_like(rows, num_context) if new_rows.is_block_causal else rows + 1
        limit = start + torch.where(rows < num_context, own, new)
        visible = (columns < limit[:, :, None])[:, None]  # (B, 1, n, length)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
    return out.transpose(1, 2).reshape(batch, new, -1)


PARTS = Parts(ln_linear, decode_attention, linear_residual)
