"""Attention of a training pass, forward and backward, in Triton.

Online softmax over tiles of keys (Dao et al., "FlashAttention", 2022; Dao, "FlashAttention-2", 2023). The
backward pass forms the probabilities again from the log-sum-exp; one kernel walks over queries for dK and dV,
one over keys for dQ, so that nothing is added atomically and results repeat bit for bit.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from iris_kernels.reference.attention import DROPOUT_BITS, dropout_threshold, num_context_rows
from iris_kernels.triton_kernels.shared import (
    COMPILER_OPTIONS,
    dot_precision,
    gpu_family,
    interleave,
    must_upcast,
    next_power_of_two,
    with_unit_stride,
)

CAUSAL, BLOCK_CAUSAL, PARALLEL, PARALLEL_BLOCK_CAUSAL = 0, 1, 2, 3
LOG2_E = 1.4426950408889634


class Blocks(NamedTuple):
    """Tile sizes, warps and pipeline stages of one kernel for one class of shapes."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int


# By (GPU family, kernel, bytes of an element, padded head size); a family's float32 tiles are shared.
_FLOAT32_BLOCKS = {
    ("forward", 4, 16): Blocks(32, 32, 4, 2),
    ("forward", 4, 32): Blocks(32, 32, 4, 2),
    ("forward", 4, 64): Blocks(32, 32, 4, 2),
    ("forward", 4, 128): Blocks(16, 32, 4, 2),
    ("backward_kv", 4, 16): Blocks(32, 32, 4, 1),
    ("backward_kv", 4, 32): Blocks(32, 32, 4, 1),
    ("backward_kv", 4, 64): Blocks(16, 16, 4, 1),
    ("backward_kv", 4, 128): Blocks(16, 16, 4, 1),
    ("backward_q", 4, 16): Blocks(32, 32, 4, 1),
    ("backward_q", 4, 32): Blocks(32, 32, 4, 1),
    ("backward_q", 4, 64): Blocks(32, 16, 4, 1),
    ("backward_q", 4, 128): Blocks(16, 16, 4, 1),
}
BLOCK_TABLE = {
    "sm_80": {
        **_FLOAT32_BLOCKS,
        ("forward", 2, 16): Blocks(64, 64, 4, 3),
        ("forward", 2, 32): Blocks(64, 64, 4, 3),
        ("forward", 2, 64): Blocks(64, 32, 4, 3),
        ("forward", 2, 128): Blocks(64, 32, 4, 3),
        ("backward_kv", 2, 16): Blocks(64, 32, 4, 2),
        ("backward_kv", 2, 32): Blocks(64, 32, 4, 2),
        ("backward_kv", 2, 64): Blocks(64, 32, 4, 2),
        ("backward_kv", 2, 128): Blocks(32, 32, 4, 2),
        ("backward_q", 2, 16): Blocks(64, 32, 4, 2),
        ("backward_q", 2, 32): Blocks(64, 32, 4, 2),
        ("backward_q", 2, 64): Blocks(64, 32, 4, 2),
        ("backward_q", 2, 128): Blocks(64, 32, 4, 2),
    },
    "sm_90": {
        **_FLOAT32_BLOCKS,
        ("forward", 2, 16): Blocks(64, 64, 4, 3),
        ("forward", 2, 32): Blocks(64, 64, 4, 3),
        ("forward", 2, 64): Blocks(64, 64, 4, 3),
        ("forward", 2, 128): Blocks(64, 64, 4, 2),
        ("backward_kv", 2, 16): Blocks(64, 64, 4, 2),
        ("backward_kv", 2, 32): Blocks(64, 64, 4, 2),
        ("backward_kv", 2, 64): Blocks(64, 64, 4, 2),
        ("backward_kv", 2, 128): Blocks(16, 64, 4, 2),
        ("backward_q", 2, 16): Blocks(64, 64, 4, 2),
        ("backward_q", 2, 32): Blocks(64, 64, 4, 2),
        ("backward_q", 2, 64): Blocks(64, 64, 4, 2),
        ("backward_q", 2, 128): Blocks(64, 32, 4, 2),
    },
}


@triton.jit
def _visible(row, column, num_rows, num_context, MASK: tl.constexpr, STEP: tl.constexpr):
    if MASK == 0:
        visible = column <= row
    elif MASK == 1:
        visible = column < (row // STEP + 1) * STEP
    else:
        group = (row - num_context) // (STEP - 1)  # meant for queries only
        first_query = num_context + group * (STEP - 1)
        own = row + 1 if MASK == 2 else (row // STEP + 1) * STEP
        limit = tl.where(row < num_context, own, (group + 1) * STEP)
        in_context = (column < num_context) & (column < limit)
        in_group = (row >= num_context) & (column >= first_query) & (column < first_query + STEP - 1)
        visible = in_context | in_group
    return visible & (column < num_rows) & (row < num_rows)


@triton.jit
def _key_ranges(first, last, num_rows, num_context, MASK: tl.constexpr, STEP: tl.constexpr):
    """What rows first..last may see lies in [0, end) and [second, second_end)."""
    second = 0
    second_end = 0
    if MASK == 0:
        end = last + 1
    elif MASK == 1:
        end = tl.minimum((last // STEP + 1) * STEP, num_rows)
    else:
        last_context = tl.minimum(last, num_context - 1)
        own = last_context + 1 if MASK == 2 else (last_context // STEP + 1) * STEP
        end = tl.where(first < num_context, own, 0)
        last_group = (last - num_context) // (STEP - 1)
        first_group = (tl.maximum(first, num_context) - num_context) // (STEP - 1)
        has_queries = last >= num_context
        end = tl.where(has_queries, tl.maximum(end, (last_group + 1) * STEP), end)
        second = tl.where(has_queries, num_context + first_group * (STEP - 1), 0)
        second_end = tl.where(has_queries, num_context + (last_group + 1) * (STEP - 1), 0)
        second_end = tl.minimum(second_end, num_rows)
    return end, second, second_end


@triton.jit
def _query_ranges(first, last, num_rows, num_context, MASK: tl.constexpr, STEP: tl.constexpr):
    """The rows that may see keys first..last lie in [begin, end) and [second, second_end)."""
    second = 0
    second_end = 0
    begin = first if MASK == 0 or MASK == 2 else (first // STEP) * STEP
    end = num_rows
    if MASK >= 2:
        end = num_context
        last_group = (last - num_context) // (STEP - 1)
        first_group = (tl.maximum(first, num_context) - num_context) // (STEP - 1)
        after = num_context + (first // STEP) * (STEP - 1)
        own = num_context + first_group * (STEP - 1)
        own_end = tl.minimum(num_context + (last_group + 1) * (STEP - 1), num_rows)
        has_context = first < num_context
        has_queries = last >= num_context
        second = tl.where(has_context, tl.where(has_queries, tl.minimum(after, own), after), own)
        second_end = tl.where(has_context, num_rows, own_end)
    return begin, end, second, second_end


@triton.jit
def _keeps(seed, head, rows, first_column, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS): which probabilities dropout keeps; first_column is a multiple of four."""
    counter = first_column // 4 + tl.arange(0, COLUMNS // 4)
    counter = counter[None, :] + tl.zeros([ROWS, COLUMNS // 4], tl.int32)
    row = rows[:, None] + tl.zeros([ROWS, COLUMNS // 4], tl.int32)
    a, b, c, d = tl.philox(seed, counter, row, head + tl.zeros_like(row), tl.zeros_like(row))
    words = interleave(a >> 8, b >> 8, c >> 8, d >> 8, ROWS, COLUMNS)
    return words.to(tl.int32) >= threshold


@triton.jit
def _load_tile(base, rows, stride, num_rows, D: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr):
    d = tl.arange(0, BD)
    inside = rows[:, None] < num_rows
    if BD != D:
        inside = inside & (d[None, :] < D)
    tile = tl.load(base + rows[:, None] * stride + d[None, :], mask=inside, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def _store_tile(base, rows, stride, num_rows, tile, D: tl.constexpr, BD: tl.constexpr):
    d = tl.arange(0, BD)
    inside = (rows[:, None] < num_rows) & (d[None, :] < D)
    tl.store(base + rows[:, None] * stride + d[None, :], tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _base(pointer, head, num_heads, stride_batch, stride_head):
    batch = (head // num_heads).to(tl.int64)
    return pointer + batch * stride_batch + (head % num_heads).to(tl.int64) * stride_head


# Heads are the first axis of every grid: only that one may be longer than 65535.
_RUNTIME_INTS = ["num_heads", "num_rows", "num_context", "threshold"]


@triton.jit(do_not_specialize=_RUNTIME_INTS)
def attention_forward(
    q, k, v, out, log_sum_exp, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    num_heads, num_rows, num_context, scale_log2, threshold, keep_scale,
    D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, STEP: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS queries of one head against all keys that they see."""
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS  # the longest rows start first
    head = tl.program_id(0)
    last = tl.minimum(first + ROWS, num_rows) - 1
    rows = first + tl.arange(0, ROWS)
    q_tile = _load_tile(_base(q, head, num_heads, q_batch, q_head), rows, q_row, num_rows, D, BD, UPCAST)
    k_base = _base(k, head, num_heads, k_batch, k_head)
    v_base = _base(v, head, num_heads, v_batch, v_head)
    if DROPOUT:
        key = tl.load(seed)
    end, second, second_end = _key_ranges(first, last, num_rows, num_context, MASK, STEP)
    num_first = tl.cdiv(end, COLUMNS)
    second = tl.maximum(second // COLUMNS, num_first) * COLUMNS
    num_tiles = num_first + tl.cdiv(tl.maximum(second_end - second, 0), COLUMNS)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BD], tl.float32)
    for tile in range(0, num_tiles):
        start = tl.where(tile < num_first, tile * COLUMNS, second + (tile - num_first) * COLUMNS)
        columns = start + tl.arange(0, COLUMNS)
        k_tile = _load_tile(k_base, columns, k_row, num_rows, D, BD, UPCAST)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        visible = _visible(rows[:, None], columns[None, :], num_rows, num_context, MASK, STEP)
        scores = tl.where(visible, scores, float("-inf"))
        # Every row of the tensor sees key 0, so the first tile makes its peak finite.
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        new_peak = tl.where(rows < num_rows, new_peak, 0.0)
        p = tl.exp2(scores - new_peak[:, None])
        shrink = tl.exp2(peak - new_peak)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p = tl.where(_keeps(key, head, rows, start, threshold, ROWS, COLUMNS), p * keep_scale, 0.0)
        v_tile = _load_tile(v_base, columns, v_row, num_rows, D, BD, UPCAST)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision=PRECISION)
        peak = new_peak
    total = tl.where(rows < num_rows, total, 1.0)
    out_base = _base(out, head, num_heads, out_batch, out_head)
    _store_tile(out_base, rows, out_row, num_rows, acc / total[:, None], D, BD)
    tl.store(log_sum_exp + head * num_rows + rows, peak + tl.log2(total), mask=rows < num_rows)


@triton.jit(do_not_specialize=["num_heads", "num_rows"])
def attention_delta(
    out, grad_out, delta, out_batch, out_head, out_row, go_batch, go_head, go_row, num_heads, num_rows,
    D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Row sums of out * grad_out, in float32."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(0)
    o = _load_tile(_base(out, head, num_heads, out_batch, out_head), rows, out_row, num_rows, D, BD, True)
    g = _load_tile(_base(grad_out, head, num_heads, go_batch, go_head), rows, go_row, num_rows, D, BD, True)
    tl.store(delta + head * num_rows + rows, tl.sum(o * g, 1), mask=rows < num_rows)


@triton.jit(do_not_specialize=_RUNTIME_INTS)
def attention_backward_kv(
    q, k, v, grad_out, log_sum_exp, delta, dk, dv, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, go_batch, go_head, go_row,
    dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    num_heads, num_rows, num_context, scale, scale_log2, threshold, keep_scale,
    D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, STEP: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of COLUMNS keys and values of one head, over all queries that see them."""
    first = tl.program_id(1) * COLUMNS
    head = tl.program_id(0)
    last = tl.minimum(first + COLUMNS, num_rows) - 1
    columns = first + tl.arange(0, COLUMNS)
    k_tile = _load_tile(_base(k, head, num_heads, k_batch, k_head), columns, k_row, num_rows, D, BD, UPCAST)
    v_tile = _load_tile(_base(v, head, num_heads, v_batch, v_head), columns, v_row, num_rows, D, BD, UPCAST)
    q_base = _base(q, head, num_heads, q_batch, q_head)
    go_base = _base(grad_out, head, num_heads, go_batch, go_head)
    if DROPOUT:
        key = tl.load(seed)
    begin, end, second, second_end = _query_ranges(first, last, num_rows, num_context, MASK, STEP)
    num_first = tl.cdiv(tl.maximum(end - begin, 0), ROWS)
    second = tl.maximum(second, tl.where(num_first > 0, begin + num_first * ROWS, 0))
    num_tiles = num_first + tl.cdiv(tl.maximum(second_end - second, 0), ROWS)
    dk_acc = tl.zeros([COLUMNS, BD], tl.float32)
    dv_acc = tl.zeros([COLUMNS, BD], tl.float32)
    for tile in range(0, num_tiles):
        start = tl.where(tile < num_first, begin + tile * ROWS, second + (tile - num_first) * ROWS)
        rows = start + tl.arange(0, ROWS)
        inside = rows < num_rows
        q_tile = _load_tile(q_base, rows, q_row, num_rows, D, BD, UPCAST)
        go_tile = _load_tile(go_base, rows, go_row, num_rows, D, BD, UPCAST)
        lse = tl.load(log_sum_exp + head * num_rows + rows, mask=inside, other=0.0)
        row_delta = tl.load(delta + head * num_rows + rows, mask=inside, other=0.0)
        # Transposed: keys down, queries across.
        scores = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale_log2
        visible = _visible(rows[None, :], columns[:, None], num_rows, num_context, MASK, STEP)
        p = tl.where(visible, tl.exp2(scores - lse[None, :]), 0.0)
        dp = tl.dot(v_tile, tl.trans(go_tile), input_precision=PRECISION)
        if DROPOUT:
            keeps = tl.trans(_keeps(key, head, rows, first, threshold, ROWS, COLUMNS))
            dp = tl.where(keeps, dp * keep_scale, 0.0)
            p_kept = tl.where(keeps, p * keep_scale, 0.0)
        else:
            p_kept = p
        dv_acc = tl.dot(p_kept.to(go_tile.dtype), go_tile, dv_acc, input_precision=PRECISION)
        ds = p * (dp - row_delta[None, :])
        dk_acc = tl.dot(ds.to(q_tile.dtype), q_tile, dk_acc, input_precision=PRECISION)
    dk_base = _base(dk, head, num_heads, dk_batch, dk_head)
    dv_base = _base(dv, head, num_heads, dv_batch, dv_head)
    _store_tile(dk_base, columns, dk_row, num_rows, dk_acc * scale, D, BD)
    _store_tile(dv_base, columns, dv_row, num_rows, dv_acc, D, BD)


@triton.jit(do_not_specialize=_RUNTIME_INTS)
def attention_backward_q(
    q, k, v, grad_out, log_sum_exp, delta, dq, seed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, go_batch, go_head, go_row,
    dq_batch, dq_head, dq_row,
    num_heads, num_rows, num_context, scale, scale_log2, threshold, keep_scale,
    D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, STEP: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of ROWS queries of one head, over all keys that they see."""
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS
    head = tl.program_id(0)
    last = tl.minimum(first + ROWS, num_rows) - 1
    rows = first + tl.arange(0, ROWS)
    inside = rows < num_rows
    q_tile = _load_tile(_base(q, head, num_heads, q_batch, q_head), rows, q_row, num_rows, D, BD, UPCAST)
    go_base = _base(grad_out, head, num_heads, go_batch, go_head)
    go_tile = _load_tile(go_base, rows, go_row, num_rows, D, BD, UPCAST)
    lse = tl.load(log_sum_exp + head * num_rows + rows, mask=inside, other=0.0)
    row_delta = tl.load(delta + head * num_rows + rows, mask=inside, other=0.0)
    k_base = _base(k, head, num_heads, k_batch, k_head)
    v_base = _base(v, head, num_heads, v_batch, v_head)
    if DROPOUT:
        key = tl.load(seed)
    end, second, second_end = _key_ranges(first, last, num_rows, num_context, MASK, STEP)
    num_first = tl.cdiv(end, COLUMNS)
    second = tl.maximum(second // COLUMNS, num_first) * COLUMNS
    num_tiles = num_first + tl.cdiv(tl.maximum(second_end - second, 0), COLUMNS)
    dq_acc = tl.zeros([ROWS, BD], tl.float32)
    for tile in range(0, num_tiles):
        start = tl.where(tile < num_first, tile * COLUMNS, second + (tile - num_first) * COLUMNS)
        columns = start + tl.arange(0, COLUMNS)
        k_tile = _load_tile(k_base, columns, k_row, num_rows, D, BD, UPCAST)
        v_tile = _load_tile(v_base, columns, v_row, num_rows, D, BD, UPCAST)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale_log2
        visible = _visible(rows[:, None], columns[None, :], num_rows, num_context, MASK, STEP)
        p = tl.where(visible, tl.exp2(scores - lse[:, None]), 0.0)
        dp = tl.dot(go_tile, tl.trans(v_tile), input_precision=PRECISION)
        if DROPOUT:
            dp = tl.where(_keeps(key, head, rows, start, threshold, ROWS, COLUMNS), dp * keep_scale, 0.0)
        ds = p * (dp - row_delta[:, None])
        dq_acc = tl.dot(ds.to(k_tile.dtype), k_tile, dq_acc, input_precision=PRECISION)
    dq_base = _base(dq, head, num_heads, dq_batch, dq_head)
    _store_tile(dq_base, rows, dq_row, num_rows, dq_acc * scale, D, BD)


def _mask_code(mask: str, is_block_causal: bool) -> int:
    if mask == "parallel":
        return PARALLEL_BLOCK_CAUSAL if is_block_causal else PARALLEL
    return BLOCK_CAUSAL if mask == "block_causal" else CAUSAL


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _options(
    q: Tensor, mask: str, tokens_per_step: int, is_block_causal: bool, dropout: float, blocks: Blocks
) -> dict[str, object]:
    size = q.shape[-1]
    return {
        "D": size,
        "BD": next_power_of_two(size),
        "MASK": _mask_code(mask, is_block_causal),
        "STEP": max(tokens_per_step, 1),
        "DROPOUT": dropout > 0.0,
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "PRECISION": dot_precision(q.dtype),
        "UPCAST": must_upcast(q.dtype),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
        **COMPILER_OPTIONS,
    }


def _blocks(kernel: str, q: Tensor) -> Blocks:
    return BLOCK_TABLE[gpu_family()][kernel, q.element_size(), next_power_of_two(q.shape[-1])]


def launch_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
    out: Tensor,
    log_sum_exp: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fills `out` (B, N, T, D) and the base-2 log-sum-exp (B, N, T) float32, and returns both."""
    q, k, v = (with_unit_stride(tensor) for tensor in (q, k, v))
    batch, heads, rows, size = q.shape
    if log_sum_exp is None:
        log_sum_exp = q.new_empty(batch, heads, rows, dtype=torch.float32)
    blocks = _blocks("forward", q)
    attention_forward[batch * heads, triton.cdiv(rows, blocks.rows)](
        q, k, v, out, log_sum_exp, seed, *_strides(q, k, v, out),
        heads, rows, num_context_rows(rows, mask, tokens_per_step),
        size**-0.5 * LOG2_E, dropout_threshold(dropout), 1.0 / (1.0 - dropout),
        **_options(q, mask, tokens_per_step, is_block_causal, dropout, blocks),
    )  # fmt: skip
    return out, log_sum_exp


def launch_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
    grads: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills `grads`, the gradients of q, k and v (B, N, T, D), and returns them."""
    q, k, v, grad_out = (with_unit_stride(tensor) for tensor in (q, k, v, grad_out))
    batch, heads, rows, size = q.shape
    dq, dk, dv = grads
    delta = torch.empty_like(log_sum_exp)
    delta_rows = 64
    attention_delta[batch * heads, triton.cdiv(rows, delta_rows)](
        out, grad_out, delta, *_strides(out, grad_out), heads, rows,
        D=size, BD=next_power_of_two(size), ROWS=delta_rows, num_warps=4, **COMPILER_OPTIONS,
    )  # fmt: skip
    numbers = (
        heads, rows, num_context_rows(rows, mask, tokens_per_step),
        size**-0.5, size**-0.5 * LOG2_E, dropout_threshold(dropout), 1.0 / (1.0 - dropout),
    )  # fmt: skip
    blocks = _blocks("backward_kv", q)
    attention_backward_kv[batch * heads, triton.cdiv(rows, blocks.columns)](
        q, k, v, grad_out, log_sum_exp, delta, dk, dv, seed, *_strides(q, k, v, grad_out, dk, dv), *numbers,
        **_options(q, mask, tokens_per_step, is_block_causal, dropout, blocks),
    )  # fmt: skip
    blocks = _blocks("backward_q", q)
    attention_backward_q[batch * heads, triton.cdiv(rows, blocks.rows)](
        q, k, v, grad_out, log_sum_exp, delta, dq, seed, *_strides(q, k, v, grad_out, dq), *numbers,
        **_options(q, mask, tokens_per_step, is_block_causal, dropout, blocks),
    )  # fmt: skip
    return dq, dk, dv


assert DROPOUT_BITS == 24, "the kernels shift Philox words by 8"
