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


def check_room(new: int, position: int, max_length: int) -> None:
    """ValueError unless `new` rows fit a cache at this position."""
    if not 0 <= position <= max_length - new:
        raise ValueError(
            f"decode_attention: {new} rows at position {position} do not fit a cache of {max_length} rows"
        )


def decode_attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_heads: int,
    num_context: int,
    is_block_causal: bool,
) -> Tensor:
    """See `iris_kernels.decode_attention`. Reads the exact length on a CPU, the whole cache elsewhere."""
    groups, batch, new, _ = qkv.shape
    max_length, size = k_cache.shape[3:]
    heads = qkv.view(groups, batch, new, 3, num_heads, size).permute(3, 0, 1, 4, 2, 5)
    q, k, v = heads[0], heads[1], heads[2]
    rows = torch.arange(new, device=qkv.device)
    is_known = _length_is_known(qkv)
    start: int | Tensor
    if is_known:
        start = int(position.item())
        length = start + new
        check_room(new, start, max_length)
        k_cache[:, :, :, start:length] = k
        v_cache[:, :, :, start:length] = v
    else:
        # Nothing may wait for the device here: write at a position only the device knows, mask the rest.
        start = position.to(torch.int64)
        length = max_length
        k_cache.index_copy_(3, start + rows, k)
        v_cache.index_copy_(3, start + rows, v)
    keys = k_cache[:, :, :, :length].flatten(0, 2)
    values = v_cache[:, :, :, :length].flatten(0, 2)
    if not is_known:  # zero times what an unwritten row holds may be NaN
        is_written = (torch.arange(length, device=qkv.device) < start + new)[:, None]
        keys, values = torch.where(is_written, keys, 0), torch.where(is_written, values, 0)
    q = q.reshape(-1, new, size)
    sees_all = new == 1 or num_context == 0 or (is_block_causal and num_context == new)
    if sees_all and is_known:
        visible = None
    else:
        own = torch.full_like(rows, num_context) if is_block_causal else rows + 1
        limit = start + torch.where(rows < num_context, own, new)
        visible = torch.arange(length, device=qkv.device) < limit[:, None]
    if visible is None and new == 1:
        scores = torch.bmm(q * (1.0 / math.sqrt(size)), keys.transpose(1, 2))
        out = torch.bmm(scores.softmax(dim=-1), values)
    else:
        out = F.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=visible)[0]
    return out.view(groups, batch, num_heads, new, size).transpose(2, 3).reshape(groups, batch, new, -1)
