"""Attention of a training pass: three masks, dropout from a seed on the device, forward and backward."""

from typing import Any, Literal

import torch
from torch import Tensor

from iris_kernels.backend import runs_directly, shape_error, use_c, use_triton
from iris_kernels.cpu_kernels import attention as cpu_kernel
from iris_kernels.reference import attention as reference

MASKS = ("causal", "block_causal", "parallel")
MAXIMUM_HEAD_SIZE = 128


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Literal["causal", "block_causal", "parallel"] = "causal",
    tokens_per_step: int = 0,
    is_block_causal: bool = False,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Softmax attention `softmax(q k^T / sqrt(D)) v` under one of three masks.

    * "causal": row i sees rows j <= i.
    * "block_causal": it also sees the rest of its own step; steps are `tokens_per_step` rows long.
    * "parallel": first `num_steps * tokens_per_step` context rows, causal among themselves (block-causal with
      `is_block_causal`), then `num_steps` groups of `tokens_per_step - 1` query rows. Query group g predicts
      step g + 1: it sees the context rows of steps <= g and its own group, nothing else. Context rows never
      see queries.

    Args:
        q, k, v: (B, N, T, D) of one floating dtype, with any strides. Differentiable.
        tokens_per_step: rows a step, for "block_causal" (>= 1) and "parallel" (>= 2).
        dropout: probability that an attention probability is dropped, in [0, 1).
        seed: (1,) int64 on q's device. The same seed drops the same entries in the forward and backward pass and
            with every backend, so give each call its own. None: drawn by PyTorch's own generator, on a CPU in a way
            of its own, which is quick.

    Returns:
        (B, N, T, D) in q's dtype, laid out in memory as (B, T, N, D).

    Raises:
        ValueError: a shape, dtype or option outside the above.
    """
    _check(q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed)
    directly = runs_directly("attention", q, _problem(q), has_gradient=True)
    if directly and use_c(q.device) and cpu_kernel.is_available(q, mask, dropout, seed):
        return cpu_kernel.attention(q, k, v, mask, tokens_per_step, is_block_causal, dropout)
    if dropout and seed is None:
        seed = torch.randint(2**31, (1,), device=q.device)
    if directly:
        return reference.attention(q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed)
    out, _ = attention_forward(q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed)
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> None:
    if q.ndim != 4 or not q.is_floating_point():
        raise shape_error("attention", "q", q, "(B, N, T, D) of a floating dtype")
    for name, other in (("k", k), ("v", v)):
        if other.shape != q.shape or other.dtype != q.dtype:
            raise shape_error("attention", name, other, f"q's shape {tuple(q.shape)} and dtype {q.dtype}")
    if mask not in MASKS:
        raise ValueError(f"attention: mask is {mask!r}, expected one of {', '.join(MASKS)}")
    minimum = {"causal": 0, "block_causal": 1, "parallel": 2}[mask]
    if tokens_per_step < minimum:
        raise ValueError(f"attention: tokens_per_step is {tokens_per_step}, {mask!r} needs >= {minimum}")
    if mask == "parallel" and q.shape[2] % (2 * tokens_per_step - 1) != 0:
        raise shape_error(
            "attention", "q", q, f"T a multiple of 2 * tokens_per_step - 1 = {2 * tokens_per_step - 1}"
        )
    if is_block_causal and mask != "parallel":
        raise ValueError(f"attention: is_block_causal goes with mask='parallel', got mask={mask!r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"attention: dropout is {dropout}, expected a number in [0, 1)")
    if seed is not None and (seed.numel() != 1 or seed.dtype != torch.int64 or seed.device != q.device):
        raise shape_error("attention", "seed", seed, f"(1,) int64 on {q.device}")


def _problem(q: Tensor) -> str | None:
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"attention takes float32, float16 or bfloat16, got {q.dtype}"
    if q.shape[-1] > MAXIMUM_HEAD_SIZE:
        return f"attention takes head sizes up to {MAXIMUM_HEAD_SIZE}, got {q.shape[-1]}"
    return None


def _new_out(q: Tensor) -> Tensor:
    batch, heads, rows, size = q.shape
    return q.new_empty(batch, rows, heads, size).transpose(1, 2)


@torch.library.custom_op("iris_kernels::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(output, log-sum-exp): the latter (B, N, T) float32 from the kernel, empty from the reference."""
    if use_triton("attention", q.device, _problem(q)):
        from iris_kernels.triton_kernels import attention as kernels

        return kernels.launch_forward(
            q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed, _new_out(q)
        )
    out = reference.attention(q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed)
    return _new_out(q).copy_(out), q.new_empty(0, dtype=torch.float32)


@attention_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: str,
    tokens_per_step: int,
    is_block_causal: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    with_kernel = use_triton("attention", q.device, _problem(q))
    statistics = q.shape[:3] if with_kernel else (0,)
    return _new_out(q), q.new_empty(statistics, dtype=torch.float32)


@torch.library.custom_op("iris_kernels::attention_backward", mutates_args=())
def attention_backward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, laid out like the output; the reference repeats its forward pass."""
    if use_triton("attention", q.device, _problem(q)):
        from iris_kernels.triton_kernels import attention as kernels

        return kernels.launch_backward(
            grad_out, q, k, v, out, log_sum_exp, mask, tokens_per_step, is_block_causal, dropout, seed,
            (_new_out(q), _new_out(q), _new_out(q)),
        )  # fmt: skip
    grads = reference.attention_backward(
        grad_out, q, k, v, mask, tokens_per_step, is_block_causal, dropout, seed
    )
    dq, dk, dv = (_new_out(q).copy_(grad) for grad in grads)
    return dq, dk, dv


@attention_backward.register_fake
def _(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _new_out(q), _new_out(q), _new_out(q)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *options, seed = inputs
    ctx.options = options
    ctx.save_for_backward(q, k, v, *output, seed)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Any, ...]:
    *saved, seed = ctx.saved_tensors
    grads = attention_backward(grad_out, *saved, *ctx.options, seed)
    return *grads, None, None, None, None, None


attention_forward.register_autograd(_backward, setup_context=_setup_context)
