"""One transformer layer on a few new tokens with a static key-value cache, in plain PyTorch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LN_EPS = 1e-5


def ln_linear(
    x: Tensor, ln_weight: Tensor, ln_bias: Tensor, weight: Tensor, bias: Tensor, activation: str
) -> Tensor:
    """See `iris_kernels.ln_linear`."""
    size = (x.shape[-1],)
    if x.shape[0] == 1:
        normed = F.layer_norm(x[0], size, ln_weight[0].to(x.dtype), ln_bias[0].to(x.dtype), LN_EPS)
        out = F.linear(normed.to(weight.dtype), weight[0], bias[0].to(weight.dtype))[None]
    else:
        normed = F.layer_norm(x, size, eps=LN_EPS) * ln_weight[:, None] + ln_bias[:, None]
        out = torch.baddbmm(bias[:, None].to(weight.dtype), normed.to(weight.dtype), weight.transpose(1, 2))
    return F.gelu(out) if activation == "gelu" else out


def linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """See `iris_kernels.linear_residual`."""
    if x.shape[0] == 1:
        product = F.linear(x[0], weight[0], bias[0].to(weight.dtype))[None]
    else:
        product = torch.baddbmm(bias[:, None].to(weight.dtype), x, weight.transpose(1, 2))
    return residual + product


def _length_is_known(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def check_room(new: int, position: Tensor, max_length: int) -> tuple[int, int]:
    """(lowest, highest) of the positions (B,) on a CPU; ValueError unless `new` rows fit a cache at each."""
    lowest, highest = (int(bound) for bound in position.aminmax())
    if lowest < 0 or highest > max_length - new:
        raise ValueError(
            f"decode_attention: {new} rows at position {highest if lowest >= 0 else lowest} do not fit a cache of "
            f"{max_length} rows"
        )
    return lowest, highest


def decode_attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_heads: int,
    num_context: int,
    is_block_causal: bool,
) -> Tensor:
    """See `iris_kernels.decode_attention`. Reads up to the longest row on a CPU, the whole cache elsewhere."""
    groups, batch, new, _ = qkv.shape
    max_length, size = k_cache.shape[3:]
    heads = qkv.view(groups, batch, new, 3, num_heads, size).permute(3, 0, 1, 4, 2, 5)
    q, k, v = heads[0], heads[1], heads[2]
    rows = torch.arange(new, device=qkv.device)
    start = position.to(torch.int64)[:, None]  # (B, 1)
    length, is_even = max_length, False
    if _length_is_known(qkv):
        lowest, highest = check_room(new, position, max_length)
        length, is_even = highest + new, lowest == highest
    if is_even:
        k_cache[:, :, :, highest:length] = k
        v_cache[:, :, :, highest:length] = v
    else:  # on a device nothing may wait for it: write where only it knows, mask the rest
        places = (start + rows)[None, :, None, :, None].expand(k.shape)
        k_cache.scatter_(3, places, k)
        v_cache.scatter_(3, places, v)
    keys, values = k_cache[:, :, :, :length], v_cache[:, :, :, :length]
    columns = torch.arange(length, device=qkv.device)
    if not is_even:  # zero times what an unwritten row holds may be NaN
        is_written = (columns < start + new)[:, None, :, None]
        keys, values = torch.where(is_written, keys, 0), torch.where(is_written, values, 0)
    sees_all = new == 1 or num_context == 0 or (is_block_causal and num_context == new)
    if is_even and new == 1:
        q, keys, values = (each.reshape(-1, *each.shape[3:]) for each in (q, keys, values))
        scores = torch.bmm(q * (1.0 / math.sqrt(size)), keys.transpose(1, 2))
        out = torch.bmm(scores.softmax(dim=-1), values).view(groups, batch, num_heads, new, size)
    elif is_even and sees_all:
        out = F.scaled_dot_product_attention(q, keys, values)
    else:
        own = torch.full_like(rows, num_context) if is_block_causal else rows + 1
        limit = start + torch.where(rows < num_context, own, new)
        visible = (columns < limit[:, :, None])[:, None]  # (B, 1, n, length)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
    return out.transpose(2, 3).reshape(groups, batch, new, -1)
