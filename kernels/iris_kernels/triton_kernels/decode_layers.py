"""The launches of a transformer layer on new tokens, in Triton.

Few rows against weights that sit in the L2 cache: what counts is the number of launches and the bytes of the
key-value cache, so each launch does all the work between two unavoidable exchanges of rows between programs.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from iris_kernels.arguments import LN_EPS
from iris_kernels.reference.decode_layers import Parts, Rows
from iris_kernels.triton_kernels.shared import (
    COMPILER_OPTIONS,
    dot_precision,
    must_upcast,
    next_power_of_two,
    with_unit_stride,
)

LOG2_E = 1.4426950408889634
SINGLE_PASS_WIDTH = 256  # up to here a program holds its rows whole
FEW_ROWS = 256  # from here on the big tiles pay


class LinearBlocks(NamedTuple):
    """Tile of one linear launch: rows, outputs, inputs at a time; warps and pipeline stages."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


class AttentionBlocks(NamedTuple):
    """Tile of a decode-attention launch: new rows, cached keys and new keys at a time."""

    rows: int
    cached: int
    new: int
    num_warps: int
    num_stages: int


# By (kernel, bytes of a weight, few or many rows).
LINEAR_TABLE = {
    ("ln_linear", 2, "few"): LinearBlocks(16, 32, 128, 4, 3),
    ("ln_linear", 2, "many"): LinearBlocks(64, 64, 64, 8, 3),
    ("ln_linear", 4, "few"): LinearBlocks(16, 16, 64, 4, 2),
    ("ln_linear", 4, "many"): LinearBlocks(16, 32, 64, 4, 2),
    ("linear_residual", 2, "few"): LinearBlocks(16, 16, 128, 4, 4),
    ("linear_residual", 2, "many"): LinearBlocks(64, 64, 64, 4, 3),
    ("linear_residual", 4, "few"): LinearBlocks(16, 16, 64, 4, 3),
    ("linear_residual", 4, "many"): LinearBlocks(32, 32, 32, 4, 3),
}
# By (bytes of an element, padded head size, up to 16 new rows or more).
ATTENTION_TABLE = {
    (2, 16, "few"): AttentionBlocks(16, 64, 16, 4, 3),
    (2, 32, "few"): AttentionBlocks(16, 64, 16, 4, 3),
    (2, 64, "few"): AttentionBlocks(16, 64, 16, 4, 3),
    (2, 128, "few"): AttentionBlocks(16, 64, 16, 4, 3),
    (2, 16, "many"): AttentionBlocks(32, 64, 32, 4, 3),
    (2, 32, "many"): AttentionBlocks(32, 64, 32, 4, 3),
    (2, 64, "many"): AttentionBlocks(32, 64, 32, 4, 3),
    (2, 128, "many"): AttentionBlocks(32, 64, 32, 4, 2),
    (4, 16, "few"): AttentionBlocks(16, 32, 16, 4, 3),
    (4, 32, "few"): AttentionBlocks(16, 32, 16, 4, 3),
    (4, 64, "few"): AttentionBlocks(16, 32, 16, 4, 2),
    (4, 128, "few"): AttentionBlocks(16, 16, 16, 4, 2),
    (4, 16, "many"): AttentionBlocks(32, 32, 32, 4, 2),
    (4, 32, "many"): AttentionBlocks(32, 32, 32, 4, 2),
    (4, 64, "many"): AttentionBlocks(16, 32, 16, 4, 2),
    (4, 128, "many"): AttentionBlocks(16, 16, 16, 4, 2),
}


@triton.jit
def _load_block(
    base, rows, columns, stride, num_rows, NUM_COLUMNS: tl.constexpr, IS_RAGGED: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Rows below num_rows of a row-major matrix; with IS_RAGGED also columns below NUM_COLUMNS."""
    inside = rows[:, None] < num_rows
    if IS_RAGGED:
        inside = inside & (columns[None, :] < NUM_COLUMNS)
    block = tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)
    return block.to(tl.float32) if UPCAST else block


@triton.jit(do_not_specialize=["num_rows"])
def ln_linear(
    x, ln_weight, ln_bias, weight, bias, turns, out,
    x_row, weight_row, num_rows, eps,
    C: tl.constexpr, O: tl.constexpr, D: tl.constexpr, GELU: tl.constexpr, SINGLE_PASS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows, OUTPUTS outputs. Statistics as two passes in float32. D: of the heads to turn, or 0."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inputs = tl.arange(0, INPUTS)
    IS_RAGGED: tl.constexpr = C % INPUTS != 0
    if SINGLE_PASS:
        # The weights are asked for first: they do not depend on what the launch before this one wrote.
        w = _load_block(weight, outputs, inputs, weight_row, O, C, IS_RAGGED, UPCAST)
        scale = tl.load(ln_weight + inputs, mask=inputs < C, other=0.0).to(tl.float32)
        shift = tl.load(ln_bias + inputs, mask=inputs < C, other=0.0).to(tl.float32)
        values = _load_block(x, rows, inputs, x_row, num_rows, C, IS_RAGGED, False)
        mean = tl.sum(values, 1) / C
        centred = values - mean[:, None]
        if IS_RAGGED:
            centred = tl.where(inputs[None, :] < C, centred, 0.0)
        rstd = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)
        normed = centred * rstd[:, None] * scale[None, :] + shift[None, :]
        acc = tl.dot(normed.to(w.dtype), tl.trans(w), input_precision=PRECISION)
    else:
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, C, INPUTS):
            values = _load_block(x, rows, start + inputs, x_row, num_rows, C, IS_RAGGED, False)
            total += tl.sum(values, 1)
        mean = total / C
        squares = tl.zeros([ROWS], tl.float32)
        for start in range(0, C, INPUTS):
            values = _load_block(x, rows, start + inputs, x_row, num_rows, C, IS_RAGGED, False)
            centred = tl.where((start + inputs)[None, :] < C, values - mean[:, None], 0.0)
            squares += tl.sum(centred * centred, 1)
        rstd = tl.rsqrt(squares / C + eps)
        acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
        for start in range(0, C, INPUTS):
            columns = start + inputs
            w = _load_block(weight, outputs, columns, weight_row, O, C, IS_RAGGED, UPCAST)
            scale = tl.load(ln_weight + columns, mask=columns < C, other=0.0).to(tl.float32)
            shift = tl.load(ln_bias + columns, mask=columns < C, other=0.0).to(tl.float32)
            values = _load_block(x, rows, columns, x_row, num_rows, C, IS_RAGGED, False)
            normed = (values - mean[:, None]) * rstd[:, None] * scale[None, :] + shift[None, :]
            acc = tl.dot(normed.to(w.dtype), tl.trans(w), acc, input_precision=PRECISION)
    acc += tl.load(bias + outputs, mask=outputs < O, other=0.0).to(tl.float32)[None, :]
    if GELU:
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    inside = (rows[:, None] < num_rows) & (outputs[None, :] < O)
    if D:
        is_turned = (outputs < O // 3 * 2)[None, :]
        turn = tl.load(turns + rows[:, None] * D + (outputs % D)[None, :], mask=inside & is_turned, other=0.0)
        cosine, sine = tl.split(tl.reshape(turn, [ROWS, OUTPUTS // 2, 2]))
        even, odd = tl.split(tl.reshape(acc, [ROWS, OUTPUTS // 2, 2]))
        turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
        acc = tl.where(is_turned, tl.reshape(turned, [ROWS, OUTPUTS]), acc)
    tl.store(out + rows[:, None] * O + outputs[None, :], acc.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def linear_residual(
    x, weight, bias, residual, out,
    x_row, weight_row, residual_row, num_rows,
    I: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows, OUTPUTS outputs; each sum in one program, so results repeat."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inputs = tl.arange(0, INPUTS)
    IS_RAGGED: tl.constexpr = I % INPUTS != 0
    acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, I, INPUTS):
        w = _load_block(weight, outputs, start + inputs, weight_row, O, I, IS_RAGGED, UPCAST)
        values = _load_block(x, rows, start + inputs, x_row, num_rows, I, IS_RAGGED, UPCAST)
        acc = tl.dot(values, tl.trans(w), acc, input_precision=PRECISION)
    acc += tl.load(bias + outputs, mask=outputs < O, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < num_rows) & (outputs[None, :] < O)
    old = residual + rows[:, None] * residual_row + outputs[None, :]
    acc += tl.load(old, mask=inside, other=0.0)
    tl.store(out + rows[:, None] * O + outputs[None, :], acc, mask=inside)


@triton.jit
def _attend(q, k, v, visible, peak, total, acc, scale_log2, PRECISION: tl.constexpr):
    """One online-softmax step; a row that has seen no key keeps a peak of -inf."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
    scores = tl.where(visible, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    finite = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    p = tl.exp2(scores - finite[:, None])
    shrink = tl.exp2(peak - finite)
    total = total * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return new_peak, total, acc


@triton.jit(do_not_specialize=["num_new", "num_context", "max_length"])
def decode_attention(
    qkv, k_cache, v_cache, position, out,
    qkv_batch, qkv_row,
    num_heads, num_new, num_context, max_length, scale_log2,
    D: tl.constexpr, BD: tl.constexpr, BLOCK_CAUSAL: tl.constexpr,
    ROWS: tl.constexpr, CACHED: tl.constexpr, NEW: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS new rows of one head of one sequence.

    Keys below the position come from the cache, later ones straight from `qkv`: no program reads a cache row
    that another program of this launch writes.
    """
    first = tl.program_id(1) * ROWS
    batch = tl.program_id(0) // num_heads
    head = tl.program_id(0) % num_heads
    width = num_heads * D
    rows = first + tl.arange(0, ROWS)
    d = tl.arange(0, BD)
    IS_RAGGED: tl.constexpr = BD != D
    start = tl.minimum(tl.load(position + batch), max_length)
    qkv += batch.to(tl.int64) * qkv_batch + head * D
    k_cache += tl.program_id(0).to(tl.int64) * max_length * D
    v_cache += tl.program_id(0).to(tl.int64) * max_length * D

    own_k = _load_block(qkv + width, rows, d, qkv_row, num_new, D, IS_RAGGED, False)
    own_v = _load_block(qkv + 2 * width, rows, d, qkv_row, num_new, D, IS_RAGGED, False)
    places = start + rows
    fits = ((rows < num_new) & (places < max_length))[:, None] & (d[None, :] < D)
    tl.store(k_cache + places[:, None] * D + d[None, :], own_k, mask=fits)
    tl.store(v_cache + places[:, None] * D + d[None, :], own_v, mask=fits)

    q = _load_block(qkv, rows, d, qkv_row, num_new, D, IS_RAGGED, UPCAST)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BD], tl.float32)
    for begin in range(0, start, CACHED):
        columns = begin + tl.arange(0, CACHED)
        k = _load_block(k_cache, columns, d, D, start, D, IS_RAGGED, UPCAST)
        v = _load_block(v_cache, columns, d, D, start, D, IS_RAGGED, UPCAST)
        visible = (columns < start)[None, :]
        peak, total, acc = _attend(q, k, v, visible, peak, total, acc, scale_log2, PRECISION)
    limit = tl.full([ROWS], 0, tl.int32) + num_context if BLOCK_CAUSAL else rows + 1
    limit = tl.minimum(tl.where(rows < num_context, limit, num_new), num_new)
    for begin in range(0, tl.max(limit, 0), NEW):
        columns = begin + tl.arange(0, NEW)
        k = _load_block(qkv + width, columns, d, qkv_row, num_new, D, IS_RAGGED, UPCAST)
        v = _load_block(qkv + 2 * width, columns, d, qkv_row, num_new, D, IS_RAGGED, UPCAST)
        visible = columns[None, :] < limit[:, None]
        peak, total, acc = _attend(q, k, v, visible, peak, total, acc, scale_log2, PRECISION)
    out += batch.to(tl.int64) * num_new * width + head * D
    inside = (rows[:, None] < num_new) & (d[None, :] < D)
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + rows[:, None] * width + d[None, :], result, mask=inside)


def _few_or_many(rows: int, limit: int) -> str:
    return "few" if rows <= limit else "many"


def launch_ln_linear(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    turns: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See `reference.decode_layers.ln_linear`; fills the contiguous `out` (M, O) where it is given."""
    x, ln_weight, ln_bias, weight, bias = map(with_unit_stride, (x, ln_weight, ln_bias, weight, bias))
    rows, width = x.shape
    outputs = weight.shape[0]
    out = weight.new_empty(rows, outputs) if out is None else out
    blocks = LINEAR_TABLE["ln_linear", weight.element_size(), _few_or_many(rows, FEW_ROWS)]
    single_pass = width <= SINGLE_PASS_WIDTH
    ln_linear[triton.cdiv(outputs, blocks.outputs), triton.cdiv(rows, blocks.rows)](
        x, ln_weight, ln_bias, weight, bias, turns, out,
        x.stride(0), weight.stride(0), rows, LN_EPS,
        C=width, O=outputs, D=0 if turns is None else turns.shape[-1],
        GELU=activation == "gelu", SINGLE_PASS=single_pass,
        ROWS=blocks.rows, OUTPUTS=blocks.outputs,
        INPUTS=next_power_of_two(width) if single_pass else blocks.inputs,
        PRECISION=dot_precision(weight.dtype), UPCAST=must_upcast(weight.dtype),
        num_warps=blocks.num_warps, num_stages=blocks.num_stages, **COMPILER_OPTIONS,
    )  # fmt: skip
    return out


def launch_linear_residual(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, out: Tensor | None = None
) -> Tensor:
    """See `reference.decode_layers.linear_residual`; fills `out` (M, O), which may be `residual`, where it is given."""
    x, weight, bias, residual = map(with_unit_stride, (x, weight, bias, residual))
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = residual.new_empty(rows, outputs) if out is None else out
    blocks = LINEAR_TABLE["linear_residual", weight.element_size(), _few_or_many(rows, FEW_ROWS)]
    linear_residual[triton.cdiv(outputs, blocks.outputs), triton.cdiv(rows, blocks.rows)](
        x, weight, bias, residual, out,
        x.stride(0), weight.stride(0), residual.stride(0), rows,
        I=inputs, O=outputs, ROWS=blocks.rows, OUTPUTS=blocks.outputs,
        INPUTS=min(blocks.inputs, next_power_of_two(inputs)),
        PRECISION=dot_precision(weight.dtype), UPCAST=must_upcast(weight.dtype),
        num_warps=blocks.num_warps, num_stages=blocks.num_stages, **COMPILER_OPTIONS,
    )  # fmt: skip
    return out


def launch_decode_attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    new_rows: Rows,
    out: Tensor | None = None,
) -> Tensor:
    """See `reference.decode_layers.decode_attention`; fills the contiguous `out` (B, n, C) where it is given."""
    qkv, position = map(with_unit_stride, (qkv, position))
    batch, new, width = qkv.shape
    heads, max_length, size = k_cache.shape[1:]
    out = qkv.new_empty(batch, new, width // 3) if out is None else out
    padded = next_power_of_two(size)
    blocks = ATTENTION_TABLE[qkv.element_size(), padded, _few_or_many(new, 16)]
    decode_attention[batch * heads, triton.cdiv(new, blocks.rows)](
        qkv, k_cache, v_cache, position, out, *qkv.stride()[:2],
        heads, new, new_rows.num_context, max_length, size**-0.5 * LOG2_E,
        D=size, BD=padded, BLOCK_CAUSAL=new_rows.is_block_causal,
        ROWS=blocks.rows, CACHED=blocks.cached, NEW=blocks.new,
        PRECISION=dot_precision(qkv.dtype), UPCAST=must_upcast(qkv.dtype),
        num_warps=blocks.num_warps, num_stages=blocks.num_stages, **COMPILER_OPTIONS,
    )  # fmt: skip
    return out


PARTS = Parts(launch_ln_linear, launch_decode_attention, launch_linear_residual)
