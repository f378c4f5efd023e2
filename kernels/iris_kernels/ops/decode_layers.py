"""All layers of a transformer on a few new tokens of each game, through a key-value cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iris_kernels.arguments import LayerWeights
from iris_kernels.backend import runs_directly, shape_error, use_triton
from iris_kernels.cpu_kernels import decode_layers as cpu
from iris_kernels.reference import decode_layers as reference
from iris_kernels.reference.decode_layers import Parts, Rows

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAXIMUM_WIDTH = 4096
MAXIMUM_HEAD_SIZE = 128


def decode_layers(
    x: Tensor,
    layers: Sequence[LayerWeights],
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    *,
    num_context: int | None = None,
    num_wanted: int | None = None,
    is_block_causal: bool = False,
    turns: Tensor | None = None,
) -> Tensor:
    """L layers `x + attention(LN(x))`, `x + MLP(LN(x))` with the exact GELU; appends n keys and values to each cache.

    New row i < `num_context` is context: it sees the cache rows <= position + i, or with `is_block_causal` all rows <
    position + num_context (the new context rows are one step). Rows i >= `num_context` are prediction queries: they
    see all rows < position + n. Rows of the caches at or above a game's position are overwritten, never read, so old
    content there does not matter.

    Args:
        x: (B, n, C) float32, the residual stream.
        layers: L layers' weights, alike; on a CPU `pack`ed ones are faster.
        k_cache, v_cache: (L, B, N, Tmax, D) contiguous, N D = C, of one floating dtype; written in place.
        position: (B,) int32 on x's device: how many rows the caches hold of each game. Never read by the host on
            CUDA; position + n must not exceed Tmax (a CPU raises; a kernel leaves out what does not fit).
        num_context: how many of the n rows are context; None means all.
        num_wanted: how many of the last rows come out, and go on after the last attention; None means all.
        turns: (B, n, D) float32, contiguous, D even: each row's queries and keys are turned before the keys go to the
            cache (see `reference.decode_layers.rotate`); None turns nothing.

    Returns:
        (B, num_wanted, C) float32, the residual stream after the last layer. No gradient.

    Raises:
        ValueError: a shape or dtype outside the above.
    """
    if x.ndim != 3 or x.dtype != torch.float32:
        raise shape_error("decode_layers", "x", x, "(B, n, C) float32")
    new = x.shape[1]
    rows = Rows(new if num_context is None else num_context, num_wanted or new, is_block_causal, turns)
    _check(x, layers, k_cache, v_cache, position, rows)
    if runs_directly("decode_layers", x, _problem(x, layers, k_cache)):
        parts, chosen = cpu.choose(layers, k_cache)
        return _run(parts, x, chosen, k_cache, v_cache, position, rows)
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    return _decode_layers(x, tensors, k_cache, v_cache, position, *rows)


def _check(
    x: Tensor, layers: Sequence[LayerWeights], k_cache: Tensor, v_cache: Tensor, position: Tensor, rows: Rows
) -> None:
    batch, new, width = x.shape
    for matrix in (layer.qkv_weight for layer in layers):
        if matrix.shape != (3 * width, width) or matrix.dtype not in DTYPES:
            expected = f"({3 * width}, {width}) of a floating dtype"
            raise shape_error("decode_layers", "qkv_weight", matrix, expected)
    heads, length, size = k_cache.shape[2:] if k_cache.ndim == 5 else (0, 0, 0)
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if (
            cache.shape != (len(layers), batch, heads, length, size)
            or heads * size != width
            or cache.dtype != k_cache.dtype
            or not cache.is_contiguous()
        ):
            expected = (
                f"contiguous ({len(layers)}, {batch}, N, Tmax, D) with N D = {width}, both caches alike"
            )
            raise shape_error("decode_layers", name, cache, expected)
    is_right = position.shape == (batch,) and position.dtype == torch.int32 and position.device == x.device
    if not is_right or not position.is_contiguous():
        raise shape_error(
            "decode_layers", "position", position, f"({batch},) int32 on {x.device}, contiguous"
        )
    turns = rows.turns
    if turns is not None and (
        turns.shape != (batch, new, size)
        or size % 2
        or turns.dtype != torch.float32
        or turns.device != x.device
        or not turns.is_contiguous()
    ):
        expected = f"({batch}, {new}, {size}) float32 on {x.device}, contiguous, of an even head size"
        raise shape_error("decode_layers", "turns", turns, expected)
    if not 0 <= rows.num_context <= new <= length or not 0 < rows.num_wanted <= new:
        raise ValueError(
            f"decode_layers: {rows.num_context} context rows and {rows.num_wanted} wanted of {new} new rows with a "
            f"cache of {length} rows; expected num_context and num_wanted <= n <= Tmax"
        )


def _problem(x: Tensor, layers: Sequence[LayerWeights], k_cache: Tensor) -> str | None:
    batch, new, width = x.shape
    hidden = len(layers[0].fc_1_bias)
    if max(width, hidden) > MAXIMUM_WIDTH:
        return f"decode_layers takes widths up to {MAXIMUM_WIDTH}, got C={width}, H={hidden}"
    if batch * new * max(3 * width, hidden) >= 2**31:
        return f"decode_layers counts in 32 bits, got {batch * new} rows of C={width}, H={hidden}"
    if k_cache.dtype not in DTYPES:
        return f"decode_layers takes caches of float32, float16 or bfloat16, got {k_cache.dtype}"
    if k_cache.shape[4] > MAXIMUM_HEAD_SIZE:
        return f"decode_layers takes head sizes up to {MAXIMUM_HEAD_SIZE}, got {k_cache.shape[4]}"
    return None


def _run(
    parts: Parts,
    x: Tensor,
    layers: Sequence[LayerWeights],
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    rows: Rows,
) -> Tensor:
    """The layers by the given implementation of each step."""
    every_row = rows._replace(num_wanted=x.shape[1])
    *earlier, last = zip(layers, k_cache, v_cache, strict=True)
    for layer in earlier:
        x = _run_layer(parts, x, *layer, position, every_row)
    return _run_layer(parts, x, *last, position, rows)


def _run_layer(
    parts: Parts, x: Tensor, w: LayerWeights, k_cache: Tensor, v_cache: Tensor, position: Tensor, rows: Rows
) -> Tensor:
    """One layer, five steps; k_cache, v_cache: (B, N, Tmax, D)."""
    batch, new, width = x.shape
    residual = x.reshape(-1, width)
    turns = None if rows.turns is None else rows.turns.view(len(residual), -1)
    qkv = parts.ln_linear(residual, w.ln_1_weight, w.ln_1_bias, w.qkv_weight, w.qkv_bias, "none", turns)
    to_mix = _cast(qkv.view(batch, new, -1), k_cache.dtype)
    mixed = parts.decode_attention(to_mix, k_cache, v_cache, position, rows)
    if rows.num_wanted < new:
        mixed = mixed[:, -rows.num_wanted :]
        residual = x[:, -rows.num_wanted :].reshape(-1, width)
    mixed = _cast(mixed.reshape(-1, width), qkv.dtype)
    residual = parts.linear_residual(mixed, w.out_weight, w.out_bias, residual)
    hidden = parts.ln_linear(residual, w.ln_2_weight, w.ln_2_bias, w.fc_1_weight, w.fc_1_bias, "gelu", None)
    residual = parts.linear_residual(hidden, w.fc_2_weight, w.fc_2_bias, residual)
    return residual.view(batch, rows.num_wanted, width)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`to` at a tenth of the time where there is nothing to do: a layer of one token is a few small calls."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


@torch.library.custom_op("iris_kernels::decode_layers", mutates_args=("k_cache", "v_cache"))
def _decode_layers(
    x: Tensor,
    weights: Sequence[Tensor],
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_context: int,
    num_wanted: int,
    is_block_causal: bool,
    turns: Tensor | None,
) -> Tensor:
    """weights: the twelve of each layer, one layer after the other."""
    layers = [LayerWeights.of_tensors(weights[i : i + 12]) for i in range(0, len(weights), 12)]
    parts, rows = reference.PARTS, Rows(num_context, num_wanted, is_block_causal, turns)
    if use_triton("decode_layers", x.device, _problem(x, layers, k_cache)):
        from iris_kernels.triton_kernels import decode_layers as kernels

        parts = kernels.PARTS
    return _run(parts, x, layers, k_cache, v_cache, position, rows)


@_decode_layers.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    num_wanted = rest[-3]
    return x.new_empty(x.shape[0], num_wanted, x.shape[2])
