"""Attention of a training pass a few rows at a time: what the mask hides is never computed.

With dropout a CPU has to form the probabilities. Doing so for blocks of rows, each against the columns that some
row of it sees, leaves out nearly half of a causal square and seven tenths of the square of parallel prediction.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iris_kernels.cpu_kernels.dropout import keeps
from iris_kernels.reference.attention import num_context_rows, visibility

ROWS = 64

# (first row, row after the last, columns seen from 0 on, whether also the block's own, what to add to scores).
Block = tuple[int, int, int, bool, Tensor]


def is_available(q: Tensor, mask: str, dropout: float, seed: Tensor | None) -> bool:
    """Whether this is the way to go: probabilities are float32, and PyTorch itself is good at a causal square."""
    return q.dtype != torch.float64 and (seed is None if dropout else mask != "causal")


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: str, tokens_per_step: int, is_block_causal: bool, dropout: float
) -> Tensor:
    """See `iris_kernels.attention`; differentiable, once; dropped with PyTorch's own generator."""
    batch_size, num_heads, num_rows, _ = q.shape
    plan = _plan(num_rows, mask, tokens_per_step, is_block_causal)
    mixed = _Blockwise.apply(*(rows.flatten(0, 1) for rows in (q, k, v)), plan, dropout)
    return mixed.unflatten(0, (batch_size, num_heads))


class _Blockwise(torch.autograd.Function):
    """(B N, S, D) each. Gradients of keys and values are added up in place, block after block."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: tuple[Block, ...], dropout: float) -> Tensor:
        scale, grow = 1.0 / math.sqrt(q.shape[2]), 1.0 / (1.0 - dropout)
        mixed = torch.empty_like(q)
        kept = []
        for block in plan:
            start, stop, *_, bias = block
            keys = _seen(k, block)
            scores = torch.baddbmm(bias.to(q.dtype), q[:, start:stop], keys.transpose(1, 2), alpha=scale)
            probabilities = scores.softmax(-1, dtype=torch.float32)
            stays = keeps(probabilities.shape, dropout) if dropout else None
            weights = _dropped(probabilities, stays).to(q.dtype)
            torch.mul(torch.bmm(weights, _seen(v, block)), grow, out=mixed[:, start:stop])
            kept += [probabilities, stays]
        ctx.plan, ctx.scale, ctx.grow = plan, scale, grow
        ctx.save_for_backward(q, k, v, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, probabilities, stays in zip(ctx.plan, kept[::2], kept[1::2], strict=True):
            rows = slice(*block[:2])
            slope = grad[:, rows] * ctx.grow
            weights = _dropped(probabilities, stays).to(q.dtype)
            _add_product(grad_v, block, weights, slope, 1.0)
            of_weights = _dropped(torch.bmm(slope, _seen(v, block).transpose(1, 2)).float(), stays)
            of_scores = torch._softmax_backward_data(of_weights, probabilities, -1, torch.float32).to(q.dtype)
            torch.mul(torch.bmm(of_scores, _seen(k, block)), ctx.scale, out=grad_q[:, rows])
            _add_product(grad_k, block, of_scores, q[:, rows], ctx.scale)
        return grad_q, grad_k, grad_v, None, None


def _seen(rows: Tensor, block: Block) -> Tensor:
    """The keys or values (B N, S, D) that a block looks at."""
    start, stop, num_seen, own, _ = block
    return torch.cat([rows[:, :num_seen], rows[:, start:stop]], dim=1) if own else rows[:, :num_seen]


def _add_product(total: Tensor, block: Block, weights: Tensor, rows: Tensor, scale: float) -> None:
    """Adds scale weights^T rows where the block looked."""
    start, stop, num_seen, own, _ = block
    total[:, :num_seen].baddbmm_(weights[:, :, :num_seen].transpose(1, 2), rows, alpha=scale)
    if own:
        total[:, start:stop].baddbmm_(weights[:, :, num_seen:].transpose(1, 2), rows, alpha=scale)


def _dropped(values: Tensor, stays: Tensor | None) -> Tensor:
    return values if stays is None else torch.where(stays, values, 0.0)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _plan(num_rows: int, mask: str, tokens_per_step: int, is_block_causal: bool) -> tuple[Block, ...]:
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
