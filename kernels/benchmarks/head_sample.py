"""The head, the draw and the next token's input in one launch, against the same in plain PyTorch."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import iris_kernels
import torch
import torch.nn.functional as F
from timing import Case, main
from torch import Tensor

WIDTH, CODES, POSITIONS = 256, 512, 340


def _cases_of(device: torch.device, dtype: torch.dtype, batch: int, is_small: bool) -> Iterator[Case]:
    shapes = ((WIDTH,), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (CODES, WIDTH), (CODES,), (CODES, WIDTH))
    weights = [(torch.randn(1, *shape) * 0.06).to(device, dtype) for shape in (*shapes, (POSITIONS, WIDTH))]
    x = torch.randn(1, batch, WIDTH, device=device)
    where = torch.full((batch,), 17, dtype=torch.int32, device=device)
    number = torch.arange(batch, device=device)

    arguments: tuple[Any, ...] = (x, *weights, where, number, number)

    def plain(x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        ln_weight, ln_bias, w1, b1, w2, b2, table, places = (weight[0] for weight in weights)
        normed = F.layer_norm(x[0], (WIDTH,), ln_weight.float(), ln_bias.float()).to(dtype)
        logits = F.linear(F.linear(normed, w1, b1).relu(), w2, b2).float()
        token = (logits.softmax(-1) / torch.empty_like(logits).exponential_()).argmax(-1)
        return token, table[token] + places.index_select(0, where.long())

    flops = 2.0 * batch * WIDTH * (WIDTH + CODES)
    moved = sum(weight.numel() for weight in weights[:6]) * dtype.itemsize + batch * WIDTH * 8.0
    shape = f"B={batch} C={WIDTH} V={CODES} {str(dtype)[6:]}"
    cut_off = {"temperature": 0.9, "top_k": 50, "top_p": 0.9}
    for name, cut in (("", {}), (" top-k top-p", cut_off)):
        yield Case(
            f"head_sample {shape}",
            f"iris_kernels{name}",
            partial(iris_kernels.head_sample, *arguments, **cut),
            flops,
            moved,
        )
        logits = torch.randn(batch, CODES, device=device)
        yield Case(
            f"sample_tokens {shape}",
            f"iris_kernels{name}",
            partial(iris_kernels.sample_tokens, logits, number, number, **cut),
            0.0,
            4.0 * logits.numel(),
        )
    yield Case(f"head_sample {shape}", "plain eager", lambda: plain(x, where), flops, moved)
    if not is_small:
        compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
        yield Case(f"head_sample {shape}", "plain compiled", lambda: compiled(x, where), flops, moved)


def cases(device: torch.device, is_small: bool) -> Iterator[Case]:
    """IRIS's head at three batch sizes."""
    torch.set_grad_enabled(False)
    for dtype in (torch.float32,) if is_small else (torch.bfloat16, torch.float32):
        for batch in (2,) if is_small else (64, 256, 1024):
            yield from _cases_of(device, dtype, batch, is_small)


if __name__ == "__main__":
    main("head_sample", cases)
