"""Attention of a training pass on a CPU, a few rows at a time: what the mask hides is never computed.

With dropout a CPU has to form the probabilities. Doing so for blocks of rows, each against the columns that some
row of it sees, leaves out nearly half of a causal square and seven tenths of the square of parallel prediction.
"""

import functools
import math

import torch
from iris_kernels.reference.attention import num_context_rows, visibility
from torch import Tensor

ROWS = 64


def blockwise_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: str, tokens_per_step: int, is_block_causal: bool, dropout: float
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each probability dropped with PyTorch's own generator.

    Equal to iris_kernels.attention without dropout; with it, equal in distribution.

    Args:
        q, k, v: (B, N, S, D) on a CPU. Differentiable.
        mask, tokens_per_step, is_block_causal: as in iris_kernels.attention.
        dropout: probability in [0, 1).

    Returns:
        (B, N, S, D) in q's dtype.
    """
    batch_size, num_heads, num_rows, size = q.shape
    q, k, v = (rows.reshape(batch_size * num_heads, num_rows, size) for rows in (q, k, v))
    scale = 1.0 / math.sqrt(size)
    mixed = []
    for start, stop, num_seen, own, bias in _plan(num_rows, mask, tokens_per_step, is_block_causal):
        keys, values = k[:, :num_seen], v[:, :num_seen]
        if own:
            keys = torch.cat([keys, k[:, start:stop]], dim=1)
            values = torch.cat([values, v[:, start:stop]], dim=1)
        scores = torch.baddbmm(bias.to(q.dtype), q[:, start:stop], keys.transpose(1, 2), alpha=scale)
        probabilities = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        mixed.append(torch.nn.functional.dropout(probabilities, dropout) @ values)
    return torch.cat(mixed, dim=1).unflatten(0, (batch_size, num_heads))


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _plan(
    num_rows: int, mask: str, tokens_per_step: int, is_block_causal: bool
) -> tuple[tuple[int, int, int, bool, Tensor], ...]:
    """(first row, row after the last, columns seen from 0 on, whether also the block's own, 0 or -inf) of blocks."""
    visible = visibility(num_rows, mask, tokens_per_step, is_block_causal, torch.device("cpu"))
    num_context = num_context_rows(num_rows, mask, tokens_per_step)
    steps_per_block = max(1, ROWS // max(1, tokens_per_step))
    plan = []
    context_block = steps_per_block * tokens_per_step or ROWS
    for start in range(0, num_context, context_block):
        stop = min(start + context_block, num_context)
        plan.append((start, stop, stop, False, _bias(visible[start:stop, :stop])))
    query_block = steps_per_block * max(1, tokens_per_step - 1)
    for i, start in enumerate(range(num_context, num_rows, query_block)):
        stop = min(start + query_block, num_rows)
        num_seen = min((i + 1) * steps_per_block * tokens_per_step, num_context)
        seen = torch.cat([visible[start:stop, :num_seen], visible[start:stop, start:stop]], dim=1)
        plan.append((start, stop, num_seen, True, _bias(seen)))
    return tuple(plan)


def _bias(visible: Tensor) -> Tensor:
    """What to add to scores."""
    return torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))
