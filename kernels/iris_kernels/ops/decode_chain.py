"""The five launches of a transformer layer on new tokens: LN+QKV, attention, projection, LN+fc1, fc2."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from iris_kernels.backend import runs_eagerly, shape_error, use_c, use_triton
from iris_kernels.cpu_kernels import decode_attention as c_kernel
from iris_kernels.reference import decode_chain as reference

ACTIVATIONS = ("none", "gelu")
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAXIMUM_WIDTH = 4096
MAXIMUM_HEAD_SIZE = 128


class LayerWeights(NamedTuple):
    """The weights of one layer for `decode_layer`, each with a leading group axis (`w[None]` for one agent).

    C is the width, H the hidden width of the MLP. LN weights and all biases may be float32 beside 16-bit
    matrices.
    """

    ln1_weight: Tensor  # (G, C)
    ln1_bias: Tensor  # (G, C)
    qkv_weight: Tensor  # (G, 3C, C), rows packed q | k | v, each N * D
    qkv_bias: Tensor  # (G, 3C)
    out_weight: Tensor  # (G, C, C)
    out_bias: Tensor  # (G, C)
    ln2_weight: Tensor  # (G, C)
    ln2_bias: Tensor  # (G, C)
    fc1_weight: Tensor  # (G, H, C)
    fc1_bias: Tensor  # (G, H)
    fc2_weight: Tensor  # (G, C, H)
    fc2_bias: Tensor  # (G, C)


def ln_linear(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: Literal["none", "gelu"] = "none",
) -> Tensor:
    """`activation(layer_norm(x) weight^T + bias)`, eps 1e-5, statistics in float32, exact-erf GELU.

    Args:
        x: (G, M, C) float32, the residual stream.
        ln_weight, ln_bias: (G, C).
        weight: (G, O, C) float32, float16 or bfloat16.
        bias: (G, O).

    Returns:
        (G, M, O) in the weight's dtype. No gradient.

    Raises:
        ValueError: a shape or dtype outside the above.
    """
    if x.ndim != 3 or x.dtype != torch.float32:
        raise shape_error("ln_linear", "x", x, "(G, M, C) float32")
    groups, _, width = x.shape
    outputs = weight.shape[1] if weight.ndim == 3 else -1
    if weight.shape != (groups, outputs, width) or weight.dtype not in WEIGHT_DTYPES:
        raise shape_error("ln_linear", "weight", weight, f"({groups}, O, {width}) of a floating dtype")
    if ln_weight.shape != (groups, width) or ln_bias.shape != (groups, width):
        raise shape_error("ln_linear", "ln_weight or ln_bias", ln_weight, f"({groups}, {width})")
    if bias.shape != (groups, outputs):
        raise shape_error("ln_linear", "bias", bias, f"({groups}, {outputs})")
    if activation not in ACTIVATIONS:
        raise ValueError(f"ln_linear: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if (
        not torch.is_grad_enabled()
        and runs_eagerly(x)
        and not use_triton("ln_linear", x.device, _linear_problem(x, weight))
    ):
        return reference.ln_linear(x, ln_weight, ln_bias, weight, bias, activation)
    return _ln_linear(x, ln_weight, ln_bias, weight, bias, activation)


def linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """`residual + x weight^T + bias`.

    Args:
        x: (G, M, I) in the weight's dtype.
        weight: (G, O, I) float32, float16 or bfloat16.
        bias: (G, O).
        residual: (G, M, O) float32.

    Returns:
        (G, M, O) float32, a new tensor. No gradient.

    Raises:
        ValueError: a shape or dtype outside the above.
    """
    if x.ndim != 3 or x.dtype != weight.dtype or weight.dtype not in WEIGHT_DTYPES:
        raise shape_error("linear_residual", "x", x, f"(G, M, I) of the weight's dtype {weight.dtype}")
    groups, rows, inputs = x.shape
    outputs = weight.shape[1] if weight.ndim == 3 else -1
    if weight.shape != (groups, outputs, inputs):
        raise shape_error("linear_residual", "weight", weight, f"({groups}, O, {inputs})")
    if bias.shape != (groups, outputs):
        raise shape_error("linear_residual", "bias", bias, f"({groups}, {outputs})")
    if residual.shape != (groups, rows, outputs) or residual.dtype != torch.float32:
        raise shape_error("linear_residual", "residual", residual, f"({groups}, {rows}, {outputs}) float32")
    if (
        not torch.is_grad_enabled()
        and runs_eagerly(x)
        and not use_triton("linear_residual", x.device, _linear_problem(x, weight))
    ):
        return reference.linear_residual(x, weight, bias, residual)
    return _linear_residual(x, weight, bias, residual)


def decode_attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    *,
    num_heads: int,
    num_context: int | None = None,
    is_block_causal: bool = False,
) -> Tensor:
    """Appends n new keys and values to the caches and attends over the exact length.

    New row i < `num_context` is context: it sees the cache rows <= position + i, or with `is_block_causal`
    all rows < position + num_context (the new context rows are one step). Rows i >= `num_context` are
    prediction queries: they see all rows < position + n. Rows of the caches at or above position are
    overwritten, never read, so old content there does not matter.

    Args:
        qkv: (G, B, n, 3C) packed q | k | v, each N * D, of one floating dtype.
        k_cache, v_cache: (G, B, N, Tmax, D) contiguous in qkv's dtype; written in place.
        position: (B,) int32 on qkv's device: how many rows the caches hold of each. Never read by the host on
            CUDA; position + n must not exceed Tmax (a CPU raises; a kernel leaves out what does not fit).
        num_context: how many of the n rows are context; None means all.

    Returns:
        (G, B, n, C) in qkv's dtype. No gradient.

    Raises:
        ValueError: a shape or dtype outside the above.
    """
    if qkv.ndim != 4 or k_cache.ndim != 5 or qkv.shape[3] != 3 * num_heads * k_cache.shape[4]:
        raise shape_error("decode_attention", "qkv", qkv, f"(G, B, n, 3 * {num_heads} heads * D)")
    groups, batch, new, _ = qkv.shape
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if (
            cache.shape != k_cache.shape
            or cache.shape[:3] != (groups, batch, num_heads)
            or cache.dtype != qkv.dtype
            or not cache.is_contiguous()
        ):
            raise shape_error(
                "decode_attention",
                name,
                cache,
                f"contiguous ({groups}, {batch}, {num_heads}, Tmax, D) in qkv's dtype {qkv.dtype}",
            )
    if position.shape != (batch,) or position.dtype != torch.int32 or position.device != qkv.device:
        raise shape_error("decode_attention", "position", position, f"({batch},) int32 on {qkv.device}")
    num_context = new if num_context is None else num_context
    if not 0 <= num_context <= new or new > k_cache.shape[3]:
        raise ValueError(
            f"decode_attention: {num_context} context rows of {new} new rows with a cache of "
            f"{k_cache.shape[3]} rows; expected 0 <= num_context <= n <= Tmax"
        )
    if (
        not torch.is_grad_enabled()
        and runs_eagerly(qkv)
        and not use_triton("decode_attention", qkv.device, _cache_problem(k_cache))
    ):
        is_short = k_cache.shape[3] <= c_kernel.MAXIMUM_LENGTH
        if use_c(qkv.device) and is_short and c_kernel.is_available(k_cache.shape[4], qkv.dtype):
            reference.check_room(new, position, k_cache.shape[3])
            return c_kernel.launch(
                qkv.contiguous(), k_cache, v_cache, position, num_heads, num_context, is_block_causal
            )
        return reference.decode_attention(
            qkv, k_cache, v_cache, position, num_heads, num_context, is_block_causal
        )
    return _decode_attention(qkv, k_cache, v_cache, position, num_heads, num_context, is_block_causal)


def has_c_decode_attention(head_size: int, dtype: torch.dtype) -> bool:
    """Whether CPU tensors of this head size and dtype go through the C kernel; compiles it the first time."""
    return use_c(torch.device("cpu")) and c_kernel.is_available(head_size, dtype)


def decode_layer(
    x: Tensor,
    weights: LayerWeights,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    *,
    num_heads: int,
    num_context: int | None = None,
    is_block_causal: bool = False,
) -> Tensor:
    """One pre-norm transformer layer on n new tokens a row: five launches, no host sync.

    Args:
        x: (G, B, n, C) float32, the residual stream.
        weights: the layer's weights, each with a leading group axis.
        k_cache, v_cache, position, num_heads, num_context, is_block_causal: as in `decode_attention`.

    Returns:
        (G, B, n, C) float32, the residual stream after the layer. No gradient.
    """
    if x.ndim != 4:
        raise shape_error("decode_layer", "x", x, "(G, B, n, C) float32")
    groups, batch, new, width = x.shape
    rows = x.reshape(groups, batch * new, width)
    qkv = ln_linear(rows, weights.ln1_weight, weights.ln1_bias, weights.qkv_weight, weights.qkv_bias)
    attended = decode_attention(
        qkv.view(groups, batch, new, -1),
        k_cache,
        v_cache,
        position,
        num_heads=num_heads,
        num_context=num_context,
        is_block_causal=is_block_causal,
    )
    rows = linear_residual(attended.view(groups, batch * new, -1), weights.out_weight, weights.out_bias, rows)
    hidden = ln_linear(
        rows, weights.ln2_weight, weights.ln2_bias, weights.fc1_weight, weights.fc1_bias, "gelu"
    )
    rows = linear_residual(hidden, weights.fc2_weight, weights.fc2_bias, rows)
    return rows.view(groups, batch, new, width)


def _linear_problem(x: Tensor, weight: Tensor) -> str | None:
    if x.shape[-1] > MAXIMUM_WIDTH:
        return f"the linear kernels take up to {MAXIMUM_WIDTH} inputs, got {x.shape[-1]}"
    if x.shape[1] * max(weight.shape[1:]) >= 2**31:
        return (
            f"the linear kernels count in 32 bits, got {x.shape[1]} rows of {max(weight.shape[1:])} numbers"
        )
    return None


def _cache_problem(cache: Tensor) -> str | None:
    if cache.dtype not in WEIGHT_DTYPES:
        return f"decode_attention takes float32, float16 or bfloat16, got {cache.dtype}"
    if cache.shape[-1] > MAXIMUM_HEAD_SIZE:
        return f"decode_attention takes head sizes up to {MAXIMUM_HEAD_SIZE}, got {cache.shape[-1]}"
    return None


@torch.library.custom_op("iris_kernels::ln_linear", mutates_args=())
def _ln_linear(
    x: Tensor, ln_weight: Tensor, ln_bias: Tensor, weight: Tensor, bias: Tensor, activation: str
) -> Tensor:
    if use_triton("ln_linear", x.device, _linear_problem(x, weight)):
        from iris_kernels.triton_kernels import decode_chain as kernels

        out = weight.new_empty(x.shape[0], x.shape[1], weight.shape[1])
        return kernels.launch_ln_linear(x, ln_weight, ln_bias, weight, bias, activation, out)
    return reference.ln_linear(x, ln_weight, ln_bias, weight, bias, activation).contiguous()


@_ln_linear.register_fake
def _(x: Tensor, ln_weight: Tensor, ln_bias: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    return weight.new_empty(x.shape[0], x.shape[1], weight.shape[1])


@torch.library.custom_op("iris_kernels::linear_residual", mutates_args=())
def _linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    if use_triton("linear_residual", x.device, _linear_problem(x, weight)):
        from iris_kernels.triton_kernels import decode_chain as kernels

        out = torch.empty_like(residual, memory_format=torch.contiguous_format)
        return kernels.launch_linear_residual(x, weight, bias, residual, out)
    return reference.linear_residual(x, weight, bias, residual).contiguous()


@_linear_residual.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(residual, memory_format=torch.contiguous_format)


@torch.library.custom_op("iris_kernels::decode_attention", mutates_args=("k_cache", "v_cache"))
def _decode_attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_heads: int,
    num_context: int,
    is_block_causal: bool,
) -> Tensor:
    if use_triton("decode_attention", qkv.device, _cache_problem(k_cache)):
        from iris_kernels.triton_kernels import decode_chain as kernels

        out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
        return kernels.launch_decode_attention(
            qkv, k_cache, v_cache, position, num_context, is_block_causal, out
        )
    return reference.decode_attention(
        qkv, k_cache, v_cache, position, num_heads, num_context, is_block_causal
    ).contiguous()


@_decode_attention.register_fake
def _(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    num_heads: int,
    num_context: int,
    is_block_causal: bool,
) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
