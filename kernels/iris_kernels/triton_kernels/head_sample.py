"""The world model's head, the sampler and the next token's input as one launch, in Triton."""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from iris_kernels.arguments import LN_EPS, Draws, HeadWeights
from iris_kernels.triton_kernels.shared import (
    COMPILER_OPTIONS,
    dot_precision,
    interleave,
    must_upcast,
    next_power_of_two,
    with_unit_stride,
)


class HeadBlocks(NamedTuple):
    """Rows of a program, hidden units at a time, warps and pipeline stages."""

    rows: int
    hidden: int
    num_warps: int
    num_stages: int


# By (bytes of a weight, the larger of the padded width and the padded number of codes).
HEAD_TABLE = {
    (2, 256): HeadBlocks(16, 32, 4, 2),
    (2, 512): HeadBlocks(16, 32, 8, 2),
    (2, 1024): HeadBlocks(16, 16, 8, 2),
    (4, 256): HeadBlocks(16, 16, 8, 2),
    (4, 512): HeadBlocks(16, 16, 8, 2),
}
SAMPLED_NUMBERS = 2048  # logits that a program of `sample_tokens` holds, where one row is not more


@triton.jit
def _gumbel(seed, step, stream, place, ROWS: tl.constexpr, CODES: tl.constexpr):
    """(ROWS, CODES) noise of rows with seed, step and place (ROWS,), bit for bit the generator of the reference."""
    codes = tl.arange(0, CODES // 4)[None, :] + tl.zeros([ROWS, CODES // 4], tl.int32)
    places = place[:, None] + tl.zeros_like(codes)
    low = (step & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True)[:, None] + tl.zeros_like(codes)
    high = (((step >> 32) & 0xFFFF).to(tl.int32) + (stream << 16))[:, None] + tl.zeros_like(codes)
    a, b, c, d = tl.philox(seed[:, None], codes, places, low, high)
    words = interleave(a >> 9, b >> 9, c >> 9, d >> 9, ROWS, CODES)
    uniform = (words.to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@triton.jit
def _ordered(logits):
    """Bits that compare, as unsigned integers, as the float32 logits do."""
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)  # -0.0 is 0.0
    bits = tl.where(bits < 0, ~bits, bits ^ -2147483648)
    return bits.to(tl.uint32, bitcast=True)


@triton.jit
def _keep_top_k(logits, top_k, ROWS: tl.constexpr):
    """-inf below each row's k-th largest logit, which is found bit by bit."""
    order = _ordered(logits)
    threshold = tl.zeros([ROWS], tl.uint32)
    for i in range(32):
        bit = tl.full([ROWS], 1, tl.uint32) << (31 - i)
        candidate = threshold | bit
        count = tl.sum((order >= candidate[:, None]).to(tl.int32), 1)
        threshold = tl.where(count >= top_k, candidate, threshold)
    return tl.where(order >= threshold[:, None], logits, float("-inf"))


@triton.jit
def _keep_top_p(logits, top_p, ROWS: tl.constexpr):
    """-inf below the largest threshold at which each row still keeps probability `top_p`."""
    order = _ordered(logits)
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    wanted = top_p * tl.sum(weights, 1)
    threshold = tl.zeros([ROWS], tl.uint32)
    for i in range(32):
        bit = tl.full([ROWS], 1, tl.uint32) << (31 - i)
        candidate = threshold | bit
        kept = tl.sum(tl.where(order >= candidate[:, None], weights, 0.0), 1)
        threshold = tl.where(kept >= wanted, candidate, threshold)
    return tl.where(order >= threshold[:, None], logits, float("-inf"))


@triton.jit
def _draw(
    logits, games, is_row, seed, step, stream, place, inverse_temperature, top_k, top_p,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, ROWS: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    """A code a row from (ROWS, CODES) logits, -inf beyond the last code; games, place: (ROWS,)."""
    if not GREEDY:
        logits *= inverse_temperature
        if TOP_K:
            logits = _keep_top_k(logits, top_k, ROWS)
        if TOP_P:
            logits = _keep_top_p(logits, top_p, ROWS)
        seeds = tl.load(seed + games, mask=is_row, other=0)
        steps = tl.load(step + games, mask=is_row, other=0)
        logits += _gumbel(seeds, steps, stream, place, ROWS, CODES)
    return tl.argmax(logits, 1)


@triton.jit(do_not_specialize=["num_rows", "num_positions", "top_k", "stream", "place"])
def head_sample(
    x, ln_weight, ln_bias, w1, b1, w2, b2, table, position_embedding, position, seed, step,
    tokens, next_x, out_logits,
    x_row, w1_row, w2_row, table_row, position_row,
    num_rows, num_positions, eps, stream, place, inverse_temperature, top_k, top_p,
    C: tl.constexpr, BC: tl.constexpr, H: tl.constexpr, V: tl.constexpr, BV: tl.constexpr,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    ROWS: tl.constexpr, HIDDEN: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows; the logits of a row stay in its registers until it is drawn."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BC)
    codes = tl.arange(0, BV)
    scale = tl.load(ln_weight + c, mask=c < C, other=0.0).to(tl.float32)
    shift = tl.load(ln_bias + c, mask=c < C, other=0.0).to(tl.float32)
    inside = (rows[:, None] < num_rows) & (c[None, :] < C)
    values = tl.load(x + rows[:, None] * x_row + c[None, :], mask=inside, other=0.0)
    mean = tl.sum(values, 1) / C
    centred = tl.where(c[None, :] < C, values - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)
    normed = centred * rstd[:, None] * scale[None, :] + shift[None, :]
    normed = normed.to(tl.float32) if UPCAST else normed.to(w1.dtype.element_ty)

    logits = tl.zeros([ROWS, BV], tl.float32)
    for start in range(0, H, HIDDEN):
        units = start + tl.arange(0, HIDDEN)
        mask = units < H
        first = tl.load(
            w1 + units[:, None] * w1_row + c[None, :], mask=mask[:, None] & (c[None, :] < C), other=0.0
        )
        second = tl.load(
            w2 + codes[None, :] * w2_row + units[:, None],
            mask=mask[:, None] & (codes[None, :] < V),
            other=0.0,
        )
        if UPCAST:
            first = first.to(tl.float32)
            second = second.to(tl.float32)
        hidden = tl.dot(normed, tl.trans(first), input_precision=PRECISION)
        hidden += tl.load(b1 + units, mask=mask, other=0.0).to(tl.float32)[None, :]
        hidden = tl.maximum(hidden, 0.0).to(second.dtype)
        logits = tl.dot(hidden, second, logits, input_precision=PRECISION)
    logits += tl.load(b2 + codes, mask=codes < V, other=0.0).to(tl.float32)[None, :]
    is_row = rows < num_rows
    row_64 = rows.to(tl.int64)
    real = (rows[:, None] < num_rows) & (codes[None, :] < V)
    tl.store(out_logits + row_64[:, None] * V + codes[None, :], logits, mask=real)
    logits = tl.where(codes[None, :] < V, logits, float("-inf"))
    places = place + tl.zeros_like(rows)
    token = _draw(
        logits, rows, is_row, seed, step, stream, places, inverse_temperature, top_k, top_p,
        GREEDY, TOP_K, TOP_P, ROWS, BV,
    ).to(tl.int64)  # fmt: skip
    tl.store(tokens + row_64, token, mask=is_row)

    where = tl.load(position + rows, mask=is_row, other=0)
    where = tl.minimum(tl.maximum(where, 0), num_positions - 1).to(tl.int64)
    at_position = position_embedding + where[:, None] * position_row + c[None, :]
    embedded = tl.load(table + token[:, None] * table_row + c[None, :], mask=inside, other=0.0)
    embedded = embedded.to(tl.float32) + tl.load(at_position, mask=inside, other=0.0).to(tl.float32)
    tl.store(next_x + row_64[:, None] * C + c[None, :], embedded, mask=inside)


@triton.jit(do_not_specialize=["num_rows", "rows_a_game", "top_k", "stream", "place"])
def sample_tokens(
    logits, seed, step, tokens, row_stride, num_rows, rows_a_game, stream, place, inverse_temperature, top_k, top_p,
    V: tl.constexpr, BV: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows of logits."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    codes = tl.arange(0, BV)
    is_row = rows < num_rows
    real = is_row[:, None] & (codes[None, :] < V)
    at = logits + rows.to(tl.int64)[:, None] * row_stride + codes[None, :]
    values = tl.load(at, mask=real, other=0.0).to(tl.float32)
    values = tl.where(codes[None, :] < V, values, float("-inf"))
    token = _draw(
        values, rows // rows_a_game, is_row, seed, step, stream, place + rows % rows_a_game,
        inverse_temperature, top_k, top_p, GREEDY, TOP_K, TOP_P, ROWS, BV,
    )  # fmt: skip
    tl.store(tokens + rows, token.to(tl.int64), mask=is_row)


def launch_head_sample(
    x: Tensor,
    weights: HeadWeights,
    position: Tensor,
    draws: Draws,
    tokens: Tensor,
    next_x: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the contiguous `tokens` (M,), `next_x` (M, C) and `logits` (M, V), and returns them."""
    w = HeadWeights(*map(with_unit_stride, weights))
    x, position, seed, step = map(with_unit_stride, (x, position, draws.seed, draws.step))
    rows, width = x.shape
    hidden, codes = len(w.fc_1_weight), len(w.fc_2_weight)
    padded_width, padded_codes = next_power_of_two(width), next_power_of_two(codes)
    blocks = HEAD_TABLE[w.fc_1_weight.element_size(), max(256, padded_width, padded_codes)]
    head_sample[(triton.cdiv(rows, blocks.rows),)](
        x, *w, position, seed, step, tokens, next_x, logits,
        *(matrix.stride(0) for matrix in (x, *w) if matrix.ndim == 2),
        rows, len(w.position_embedding), LN_EPS, draws.stream, draws.place, *_cuts(draws),
        C=width, BC=padded_width, H=hidden, V=codes, BV=padded_codes, **_kinds(draws, codes),
        ROWS=blocks.rows, HIDDEN=blocks.hidden,
        PRECISION=dot_precision(w.fc_1_weight.dtype), UPCAST=must_upcast(w.fc_1_weight.dtype),
        num_warps=blocks.num_warps, num_stages=blocks.num_stages, **COMPILER_OPTIONS,
    )  # fmt: skip
    return tokens, next_x, logits


def launch_sample_tokens(logits: Tensor, draws: Draws, tokens: Tensor) -> Tensor:
    """Fills the contiguous `tokens` (M,) and returns it."""
    logits, seed, step = map(with_unit_stride, (logits, draws.seed, draws.step))
    rows, codes = logits.shape
    padded = next_power_of_two(codes)
    rows_a_program = max(1, min(16, SAMPLED_NUMBERS // padded))
    sample_tokens[(triton.cdiv(rows, rows_a_program),)](
        logits, seed, step, tokens, logits.stride(0), rows, rows // len(seed), draws.stream, draws.place, *_cuts(draws),
        V=codes, BV=padded, **_kinds(draws, codes),
        ROWS=rows_a_program, num_warps=4 if padded <= 2048 else 8, **COMPILER_OPTIONS,
    )  # fmt: skip
    return tokens


def _cuts(draws: Draws) -> tuple[float, int, float]:
    """The inverse temperature, top-k and top-p, as the kernels take them."""
    return 1.0 / draws.temperature if draws.temperature > 0.0 else 1.0, draws.top_k, draws.top_p


def _kinds(draws: Draws, codes: int) -> dict[str, bool]:
    """What is compiled in."""
    return {
        "GREEDY": draws.temperature == 0.0,
        "TOP_K": 0 < draws.top_k < codes,
        "TOP_P": draws.top_p < 1.0,
    }
