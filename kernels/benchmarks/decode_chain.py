"""One imagined token through the whole transformer, and each launch by itself, against plain PyTorch.

The model is IRIS's: 10 layers, C = 256, 4 heads, a cache of 340 rows, a head with 512 codes. The figure that
counts is the "graph" column of "token": microseconds to replay the CUDA graph of one token.
"""

from collections.abc import Iterator
from typing import Any

import iris_kernels
import torch
import torch.nn.functional as F
from iris_kernels import LayerWeights
from timing import Case, main
from torch import Tensor

LAYERS, WIDTH, HEADS, LENGTH, CODES = 10, 256, 4, 340, 512


def make_layer(groups: int, dtype: torch.dtype, device: torch.device) -> LayerWeights:
    """Random weights of one layer."""

    def weights(*shape: int) -> Tensor:
        return (torch.randn(groups, *shape) * shape[-1] ** -0.5).to(device, dtype)

    hidden = 4 * WIDTH
    return LayerWeights(
        1 + weights(WIDTH), weights(WIDTH), weights(3 * WIDTH, WIDTH), weights(3 * WIDTH),
        weights(WIDTH, WIDTH), weights(WIDTH), 1 + weights(WIDTH), weights(WIDTH),
        weights(hidden, WIDTH), weights(hidden), weights(WIDTH, hidden), weights(WIDTH),
    )  # fmt: skip


def make_head(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Norm, two linear layers, the codes' table and the positions."""
    shapes = (
        (WIDTH,),
        (WIDTH,),
        (WIDTH, WIDTH),
        (WIDTH,),
        (CODES, WIDTH),
        (CODES,),
        (CODES, WIDTH),
        (LENGTH, WIDTH),
    )
    return [(torch.randn(1, *shape) * 0.06).to(device, dtype) for shape in shapes]


def plain_layer(x: Tensor, w: LayerWeights, k_cache: Tensor, v_cache: Tensor, position: Tensor) -> Tensor:
    """The same layer in stock PyTorch with a static cache and a mask, as one would write it for a graph."""
    batch, new, _ = x.shape
    dtype = w.qkv_weight.dtype
    h = F.layer_norm(x, (WIDTH,), w.ln1_weight[0].float(), w.ln1_bias[0].float()).to(dtype)
    qkv = F.linear(h, w.qkv_weight[0], w.qkv_bias[0]).view(batch, new, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    rows = position[:1].long() + torch.arange(new, device=x.device)  # all rows stand at one position
    k_cache[0].index_copy_(2, rows, qkv[1])
    v_cache[0].index_copy_(2, rows, qkv[2])
    visible = torch.arange(LENGTH, device=x.device) <= rows[:, None]
    attended = F.scaled_dot_product_attention(qkv[0], k_cache[0], v_cache[0], attn_mask=visible)
    attended = attended.transpose(1, 2).reshape(batch, new, WIDTH)
    x = x + F.linear(attended, w.out_weight[0], w.out_bias[0])
    h = F.layer_norm(x, (WIDTH,), w.ln2_weight[0].float(), w.ln2_bias[0].float()).to(dtype)
    h = F.gelu(F.linear(h, w.fc1_weight[0], w.fc1_bias[0]))
    return x + F.linear(h, w.fc2_weight[0], w.fc2_bias[0])


def _token_cases(
    device: torch.device, dtype: torch.dtype, batch: int, position: int, num_layers: int, is_small: bool
) -> Iterator[Case]:
    layers = [make_layer(1, dtype, device) for _ in range(num_layers)]
    head = make_head(dtype, device)
    size = WIDTH // HEADS
    caches = torch.zeros(num_layers, 2, 1, batch, HEADS, LENGTH, size, device=device, dtype=dtype)
    x = torch.randn(1, batch, 1, WIDTH, device=device)
    where = torch.full((batch,), position, dtype=torch.int32, device=device)
    number = torch.arange(batch, device=device)

    def with_kernels() -> Tensor:
        hidden = x
        for layer, cache in zip(layers, caches, strict=True):
            hidden = iris_kernels.decode_layer(hidden, layer, cache[0], cache[1], where, num_heads=HEADS)
        arguments: tuple[Any, ...] = (hidden[:, :, 0], *head, where, number, number)
        return iris_kernels.head_sample(*arguments)[1]

    def plain(x: Tensor, where: Tensor) -> Tensor:
        hidden = x[0]
        for layer, cache in zip(layers, caches, strict=True):
            hidden = plain_layer(hidden, layer, cache[0], cache[1], where)
        normed = F.layer_norm(hidden[:, 0], (WIDTH,), head[0][0].float(), head[1][0].float()).to(dtype)
        logits = F.linear(F.linear(normed, head[2][0], head[3][0]).relu(), head[4][0], head[5][0]).float()
        noise = torch.empty_like(logits).exponential_()
        token = (logits.softmax(-1) / noise).argmax(-1)
        return head[6][0][token] + head[7][0].index_select(0, where.long())

    weight_bytes = sum(w.numel() * w.element_size() for layer in layers for w in layer)
    kv_bytes = num_layers * 2 * batch * WIDTH * (position + 1) * dtype.itemsize
    flops = 2.0 * batch * num_layers * (12 * WIDTH * WIDTH + 2 * WIDTH * (position + 1))
    shape = f"token B={batch} position={position} {str(dtype)[6:]}"
    yield Case(shape, "iris_kernels", with_kernels, flops, weight_bytes + kv_bytes)
    yield Case(shape, "plain eager", lambda: plain(x, where), flops, weight_bytes + kv_bytes)
    if not is_small:
        compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
        yield Case(shape, "plain compiled", lambda: compiled(x, where), flops, weight_bytes + kv_bytes)


def _launch_cases(device: torch.device, dtype: torch.dtype, batch: int, position: int) -> Iterator[Case]:
    w = make_layer(1, dtype, device)
    x = torch.randn(1, batch, WIDTH, device=device)
    attended, hidden = x.to(dtype), torch.randn(1, batch, 4 * WIDTH, device=device).to(dtype)
    caches = torch.zeros(2, 1, batch, HEADS, LENGTH, WIDTH // HEADS, device=device, dtype=dtype)
    where = torch.full((batch,), position, dtype=torch.int32, device=device)
    qkv = torch.randn(1, batch, 1, 3 * WIDTH, device=device).to(dtype)
    shape = f"B={batch} position={position} {str(dtype)[6:]}"
    item, linear = dtype.itemsize, 2.0 * batch * WIDTH * WIDTH
    runs = {
        "ln_linear qkv": (lambda: iris_kernels.ln_linear(x, *w[:4]), 3, 4 + 3 * item),
        "linear_residual out": (lambda: iris_kernels.linear_residual(attended, *w[4:6], x), 1, 8 + item),
        "ln_linear fc1 gelu": (lambda: iris_kernels.ln_linear(x, *w[6:10], "gelu"), 4, 4 + 4 * item),
        "linear_residual fc2": (lambda: iris_kernels.linear_residual(hidden, *w[10:], x), 4, 8 + 4 * item),
    }
    for name, (run, squares, row_bytes) in runs.items():
        moved = squares * WIDTH * WIDTH * item + batch * WIDTH * row_bytes
        yield Case(f"{name} {shape}", "iris_kernels", run, squares * linear, moved)
    yield Case(
        f"decode_attention {shape}",
        "iris_kernels",
        lambda: iris_kernels.decode_attention(qkv, caches[0], caches[1], where, num_heads=HEADS),
        4.0 * batch * WIDTH * (position + 1),
        2.0 * batch * WIDTH * (position + 1) * item,
    )


def _graph_node_case(device: torch.device) -> Case:
    """Fifty dependent tiny operations: in a graph, fifty times the least that a node costs."""
    x = torch.zeros(32, device=device)

    def run() -> None:
        for _ in range(50):
            x.add_(1.0)

    return Case("50 dependent tiny operations", "torch", run)


def cases(device: torch.device, is_small: bool) -> Iterator[Case]:
    """A whole token at three batch sizes and positions, each launch by itself, and the cost of a node."""
    torch.set_grad_enabled(False)
    yield _graph_node_case(device)
    dtypes = (torch.float32,) if is_small else (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        for batch in (2,) if is_small else (64, 256, 1024):
            for position in (16,) if is_small else (16, 178, 339):
                yield from _token_cases(device, dtype, batch, position, 2 if is_small else LAYERS, is_small)
                yield from _launch_cases(device, dtype, batch, position)


if __name__ == "__main__":
    main("decode_chain", cases)
