"""The head, the draw and the next token's input in one launch, against the same in plain PyTorch."""

from collections.abc import Iterator
from functools import partial

import iris_kernels
import torch
import torch.nn.functional as F
from iris_kernels import HeadWeights
from timing import Case, Shape, main
from torch import Tensor

CUT_OFF = {"temperature": 0.9, "top_k": 50, "top_p": 0.9}


def _draw(logits: Tensor) -> Tensor:
    return (logits.softmax(-1) / torch.empty_like(logits).exponential_()).argmax(-1)


def _head_cases(device: torch.device, dtype: torch.dtype, shape: Shape, is_short: bool) -> Iterator[Case]:
    batch, width, codes = shape.games, shape.width, shape.num_codes
    sizes = ((width,), (width,), (width, width), (width,), (codes, width), (codes,), (codes, width))
    sizes = (*sizes, (shape.length, width))
    w = HeadWeights(*((torch.randn(*size) * 0.06).to(device, dtype) for size in sizes))
    x = torch.randn(batch, width, device=device)
    where = torch.full((batch,), 17, dtype=torch.int32, device=device)
    number = torch.arange(batch, device=device)

    ours = partial(iris_kernels.head_sample, x, w, where, number, number)

    def plain(x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        normed = F.layer_norm(x, (width,), w.ln_weight.float(), w.ln_bias.float()).to(dtype)
        inner = F.linear(normed, w.fc_1_weight, w.fc_1_bias).relu()
        token = _draw(F.linear(inner, w.fc_2_weight, w.fc_2_bias).float())
        return token, w.token_embedding[token] + w.position_embedding.index_select(0, where.long())

    work = (
        2.0 * batch * width * (width + codes),
        sum(weight.numel() for weight in w[:6]) * dtype.itemsize + batch * width * 8.0,
    )
    label = f"head_sample B={batch} C={width} V={codes} {str(dtype)[6:]}"
    yield Case(label, "iris_kernels", ours, *work, 1)
    yield Case(label, "plain eager", lambda: plain(x, where), *work)
    if not is_short:
        yield Case(label, "iris_kernels top-k top-p", partial(ours, **CUT_OFF), *work, 1)
        compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
        yield Case(label, "plain compiled", lambda: compiled(x, where), *work)


def cases(device: torch.device, dtype: torch.dtype, shape: Shape, is_short: bool) -> Iterator[Case]:
    """Token by token the whole head; of a frame at once the draws. is_short: only the kernel and plain PyTorch."""
    torch.set_grad_enabled(False)
    if not shape.is_parallel:
        yield from _head_cases(device, dtype, shape, is_short)
    rows = shape.games * (shape.tokens_per_frame if shape.is_parallel else 1)
    number, logits = torch.arange(rows, device=device), torch.randn(rows, shape.num_codes, device=device)
    work = 0.0, 4.0 * logits.numel()
    label = f"sample_tokens B={rows} V={shape.num_codes} {str(dtype)[6:]}"
    ours = partial(iris_kernels.sample_tokens, logits, number, number)
    yield Case(label, "iris_kernels", ours, *work, 1)
    yield Case(label, "plain eager", partial(_draw, logits), *work)
    if not is_short:
        yield Case(label, "iris_kernels top-k top-p", partial(ours, **CUT_OFF), *work, 1)


if __name__ == "__main__":
    main("head_sample", cases, (64, 256, 1024))
