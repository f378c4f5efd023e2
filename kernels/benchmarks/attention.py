"""Attention of a training pass, forward and forward with backward, against SDPA, FlexAttention and compile."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import iris_kernels
import torch
import torch.nn.functional as F
from iris_kernels.reference import attention as reference
from timing import Case, Shape, main
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def _with_backward(run: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(run(*inputs), inputs, grad)


def _sdpa(backend: SDPBackend, visible: Tensor | None) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)

    return run


def _flex(visible: Tensor, rows: int, device: torch.device) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    block_mask = create_block_mask(
        lambda b, h, i, j: visible[i, j], None, None, rows, rows, device=str(device)
    )
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask)


def _stock(visible: Tensor | None) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible, is_causal=visible is None
    )


def _rivals(
    mask: tuple[str, int, bool], rows: int, device: torch.device, is_short: bool
) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    options: dict[str, Any] = {"mask": mask[0], "tokens_per_step": mask[1], "is_block_causal": mask[2]}
    visible = reference.visibility(rows, *mask, device)
    dense = None if mask[0] == "causal" else visible
    yield "iris_kernels", lambda q, k, v: iris_kernels.attention(q, k, v, **options)
    yield "sdpa", _stock(dense)
    if is_short:
        return
    seed = torch.tensor([1], device=device)
    yield (
        "iris_kernels dropout 0.1",
        lambda q, k, v: iris_kernels.attention(q, k, v, **options, dropout=0.1, seed=seed),
    )
    yield "sdpa math", _sdpa(SDPBackend.MATH, dense)
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        if backend != SDPBackend.FLASH_ATTENTION or dense is None:
            yield f"sdpa {backend.name.lower()}", _sdpa(backend, dense)
    yield "flex_attention compiled", _flex(visible, rows, device)

    def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v

    yield "explicit compiled", torch.compile(explicit, mode="max-autotune-no-cudagraphs")
    yield "explicit eager", explicit


def cases(device: torch.device, dtype: torch.dtype, shape: Shape, is_short: bool) -> Iterator[Case]:
    """A training pass under each mask. is_short: only the kernel and what PyTorch itself picks."""
    heads, size, step = shape.num_heads, shape.width // shape.num_heads, shape.tokens_per_step
    for name in shape.masks:
        mask = (name, 0 if name == "causal" else step, False)
        rows = shape.num_steps * (step + (shape.tokens_per_frame if name == "parallel" else 0))
        inputs = [
            torch.randn(shape.batch, heads, rows, size, device=device, dtype=dtype, requires_grad=True)
            for _ in range(3)
        ]
        grad = torch.randn_like(inputs[0])
        pairs = reference.visibility(rows, *mask, device).sum().item() * shape.batch * heads
        flops = 4.0 * pairs * size
        moved = 4.0 * inputs[0].numel() * inputs[0].element_size()
        label = f"{name} {shape.batch}x{heads}x{rows}x{size} {str(dtype)[6:]}"
        for rival, run in _rivals(mask, rows, device, is_short):
            detached = [tensor.detach() for tensor in inputs]
            is_ours = rival.startswith("iris_kernels")
            yield Case(f"{label} forward", rival, partial(run, *detached), flops, moved, int(is_ours))
            both = _with_backward(run, inputs, grad)
            yield Case(
                f"{label} forward+backward", rival, both, 3.5 * flops, 3.0 * moved, 4 if is_ours else 0
            )


if __name__ == "__main__":
    main("attention", cases)
