"""Attention of a training pass in plain PyTorch: causal, block-causal and parallel-prediction masks."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.philox import philox_4x32

DROPOUT_BITS = 24
_ROWS_AT_A_TIME = 256


def num_context_rows(num_rows: int, mask: str, tokens_per_step: int) -> int:
    """How many of the rows are context: all of them, but for the parallel mask.

    There `num_steps * tokens_per_step` context rows come before `num_steps * (tokens_per_step - 1)` queries.
    """
    if mask != "parallel":
        return num_rows
    return num_rows // (2 * tokens_per_step - 1) * tokens_per_step


@functools.lru_cache(maxsize=32)
def visibility(
    num_rows: int, mask: str, tokens_per_step: int, is_block_causal: bool, device: torch.device
) -> Tensor:
    """(num_rows, num_rows) bool: whether row i may see row j. Cached; treat it as read-only."""
    with torch.inference_mode(False):
        row = torch.arange(num_rows, device=device)[:, None]
        column = torch.arange(num_rows, device=device)[None, :]
        if mask == "causal":
            return column <= row
        if mask == "block_causal":
            return column < (row // tokens_per_step + 1) * tokens_per_step
        num_context = num_context_rows(num_rows, mask, tokens_per_step)
        limit = (row // tokens_per_step + 1) * tokens_per_step if is_block_causal else row + 1
        context_sees = (column < limit) & (column < num_context)
        queries_per_step = tokens_per_step - 1
        group = torch.div(row - num_context, queries_per_step, rounding_mode="floor")
        first_query = num_context + group * queries_per_step
        query_sees = (column < (group + 1) * tokens_per_step) & (column < num_context)
        query_sees = query_sees | ((column >= first_query) & (column < first_query + queries_per_step))
        return torch.where(row < num_context, context_sees, query_sees)


def dropout_keeps(num_heads_total: int, num_rows: int, dropout: float, seed: Tensor) -> Tensor:
    """(num_heads_total, num_rows, num_rows) bool: which attention probabilities survive.

    Probability (i, j) of head h takes word j % 4 of the counter (j // 4, i, h, 0), h counting heads through
    the batch. Its upper 24 bits are compared with `dropout`.
    """
    device = seed.device
    columns = torch.arange((num_rows + 3) // 4, device=device)
    rows = torch.arange(num_rows, device=device)[:, None]
    threshold = dropout_threshold(dropout)
    keeps = torch.empty(num_heads_total, num_rows, num_rows, dtype=torch.bool, device=device)
    for head in range(num_heads_total):
        for start in range(0, num_rows, _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            words = philox_4x32(seed, (columns, rows[part], head, 0)).flatten(1)[:, :num_rows]
            keeps[head, part] = (words >> (32 - DROPOUT_BITS)) >= threshold
    return keeps


def dropout_threshold(dropout: float) -> int:
    """The number out of 2**24 below which a probability is dropped."""
    return round(dropout * 2**DROPOUT_BITS)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> Tensor:
    """See `iris_kernels.attention`. Differentiable by PyTorch's own rules.

    Without dropout it is `F.scaled_dot_product_attention`; with it, the probabilities are formed.
    """
    num_rows = q.shape[-2]
    if dropout == 0.0:
        if mask == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        visible = visibility(num_rows, mask, tokens_per_step, is_block_causal, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    p, keep = _probabilities(q, k, mask, tokens_per_step, is_block_causal, dropout, seed)
    return (p * keep).to(v.dtype) @ v


def _probabilities(
    q: Tensor,
    k: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor | float]:
    """Float32 probabilities (B, N, T, T) and what dropout multiplies them with: 0 or 1 / (1 - dropout)."""
    num_rows = q.shape[-2]
    visible = visibility(num_rows, mask, tokens_per_step, is_block_causal, q.device)
    scores = (q @ k.transpose(-2, -1)).float() * (1.0 / math.sqrt(q.shape[-1]))
    p = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    if dropout == 0.0:
        return p, 1.0
    assert seed is not None
    keeps = dropout_keeps(q.shape[0] * q.shape[1], num_rows, dropout, seed).view(p.shape)
    return p, keeps * (1.0 / (1.0 - dropout))


def attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v written out, for use below autograd, where a custom op's kernels run."""
    p, keep = _probabilities(q, k, mask, tokens_per_step, is_block_causal, dropout, seed)
    dv = (p * keep).to(v.dtype).transpose(-2, -1) @ grad_out
    dp = (grad_out @ v.transpose(-2, -1)).float() * keep
    ds = p * (dp - (dp * p).sum(dim=-1, keepdim=True)) * (1.0 / math.sqrt(q.shape[-1]))
    ds = ds.to(q.dtype)
    return ds @ k, ds.transpose(-2, -1) @ q, dv
