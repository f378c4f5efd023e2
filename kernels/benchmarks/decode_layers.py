"""One pass of a roll-out through the whole transformer, and each launch by itself, against plain PyTorch.

A pass is one token with its head and draw or, in parallel prediction, a step and the queries of the next frame.
The figure that counts is the "graph" column of "token": microseconds to replay the CUDA graph of one token of IRIS.
"""

from collections.abc import Iterator

import iris_kernels
import torch
import torch.nn.functional as F
from iris_kernels import HeadWeights, LayerWeights
from iris_kernels.reference.decode_layers import Rows
from timing import IRIS, Case, Shape, main
from torch import Tensor

LAUNCHES = 5  # of a layer


def make_layer(dtype: torch.dtype, device: torch.device, width: int = IRIS.width) -> LayerWeights:
    """Random weights of one layer."""

    def weights(*shape: int) -> Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(device, dtype)

    hidden = 4 * width
    return LayerWeights(
        1 + weights(width), weights(width), weights(3 * width, width), weights(3 * width),
        weights(width, width), weights(width), 1 + weights(width), weights(width),
        weights(hidden, width), weights(hidden), weights(width, hidden), weights(width),
    )  # fmt: skip


def make_head(dtype: torch.dtype, device: torch.device, shape: Shape = IRIS) -> HeadWeights:
    """Norm, two linear layers, the codes' table and the positions."""
    width, codes = shape.width, shape.num_codes
    shapes = (
        *((width,), (width,), (width, width), (width,)),
        *((codes, width), (codes,), (codes, width), (shape.length, width)),
    )
    return HeadWeights(*((torch.randn(*shape) * 0.06).to(device, dtype) for shape in shapes))


def plain_layer(
    x: Tensor,
    w: LayerWeights,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: Tensor,
    visible: Tensor,
    num_heads: int,
) -> Tensor:
    """The same layer in stock PyTorch with a static cache and a mask, as one would write it for a graph.

    rows: (n,) of the cache that the new rows fill. visible: (n, length), which of the cache they see.
    """
    batch, new, width = x.shape
    dtype = w.qkv_weight.dtype
    h = F.layer_norm(x, (width,), w.ln_1_weight.float(), w.ln_1_bias.float()).to(dtype)
    qkv = F.linear(h, w.qkv_weight, w.qkv_bias)
    qkv = qkv.view(batch, new, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    k_cache.index_copy_(2, rows, qkv[1])
    v_cache.index_copy_(2, rows, qkv[2])
    attended = F.scaled_dot_product_attention(qkv[0], k_cache, v_cache, attn_mask=visible)
    attended = attended.transpose(1, 2).reshape(batch, new, width)
    x = x + F.linear(attended, w.out_weight, w.out_bias)
    h = F.layer_norm(x, (width,), w.ln_2_weight.float(), w.ln_2_bias.float()).to(dtype)
    h = F.gelu(F.linear(h, w.fc_1_weight, w.fc_1_bias))
    return x + F.linear(h, w.fc_2_weight, w.fc_2_bias)


def _pass_cases(
    device: torch.device, dtype: torch.dtype, shape: Shape, position: int, is_short: bool
) -> Iterator[Case]:
    batch, width, heads, num_layers = shape.games, shape.width, shape.num_heads, shape.num_layers
    num_context = shape.tokens_per_step if shape.is_parallel else 1
    new = num_context + (shape.tokens_per_frame if shape.is_parallel else 0)
    layers = [iris_kernels.pack(make_layer(dtype, device, width)) for _ in range(num_layers)]
    head = make_head(dtype, device, shape)
    caches = torch.zeros(
        2, num_layers, batch, heads, shape.length, width // heads, device=device, dtype=dtype
    )
    x = torch.randn(batch, new, width, device=device)
    where = torch.full((batch,), position, dtype=torch.int32, device=device)
    number = torch.arange(batch, device=device)

    def with_kernels() -> Tensor:
        hidden = iris_kernels.decode_layers(x, layers, caches[0], caches[1], where, num_context=num_context)
        if shape.is_parallel:
            return hidden
        return iris_kernels.head_sample(hidden[:, 0], head, where, number, number)[1]

    def plain(x: Tensor, where: Tensor) -> Tensor:
        hidden = x
        rows = where[:1].long() + torch.arange(new, device=device)  # all games stand at one position
        last_seen = torch.cat([rows[:num_context], rows[-1:].expand(new - num_context)])
        visible = torch.arange(shape.length, device=device) <= last_seen[:, None]
        for layer, keys, values in zip(layers, *caches, strict=True):
            hidden = plain_layer(hidden, layer, keys, values, rows, visible, heads)
        if shape.is_parallel:
            return hidden
        normed = F.layer_norm(hidden[:, 0], (width,), head.ln_weight.float(), head.ln_bias.float()).to(dtype)
        logits = F.linear(
            F.linear(normed, head.fc_1_weight, head.fc_1_bias).relu(), head.fc_2_weight, head.fc_2_bias
        ).float()
        noise = torch.empty_like(logits).exponential_()
        token = (logits.softmax(-1) / noise).argmax(-1)
        return head.token_embedding[token] + head.position_embedding.index_select(0, where.long())

    weight_bytes = sum(w.numel() * w.element_size() for layer in layers for w in layer.tensors)
    kv_bytes = num_layers * 2 * batch * width * (position + new) * dtype.itemsize
    flops = 2.0 * batch * num_layers * new * (12 * width * width + 2 * width * (position + new))
    work = flops, weight_bytes + kv_bytes
    launches = LAUNCHES * num_layers + (not shape.is_parallel)
    label = f"{'frame' if shape.is_parallel else 'token'} B={batch} n={new} C={width} layers={num_layers}"
    label += f" position={position} {str(dtype)[6:]}"
    yield Case(label, "iris_kernels", with_kernels, *work, launches)
    yield Case(label, "plain eager", lambda: plain(x, where), *work)
    if not is_short:
        compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
        yield Case(label, "plain compiled", lambda: compiled(x, where), *work)


def _launch_cases(device: torch.device, dtype: torch.dtype, shape: Shape, position: int) -> Iterator[Case]:
    batch, width, heads = shape.games, shape.width, shape.num_heads
    if device.type == "cuda":
        from iris_kernels.triton_kernels.decode_layers import PARTS
    else:
        from iris_kernels.reference.decode_layers import PARTS
    w = make_layer(dtype, device, width).tensors
    x = torch.randn(batch, width, device=device)
    attended, hidden = x.to(dtype), torch.randn(batch, 4 * width, device=device).to(dtype)
    caches = torch.zeros(2, batch, heads, shape.length, width // heads, device=device, dtype=dtype)
    where = torch.full((batch,), position, dtype=torch.int32, device=device)
    qkv = torch.randn(batch, 1, 3 * width, device=device).to(dtype)
    label = f"B={batch} position={position} {str(dtype)[6:]}"
    item, linear = dtype.itemsize, 2.0 * batch * width * width
    runs = {
        "ln_linear qkv": (lambda: PARTS.ln_linear(x, *w[:4], "none"), 3, 4 + 3 * item),
        "linear_residual out": (lambda: PARTS.linear_residual(attended, *w[4:6], x), 1, 8 + item),
        "ln_linear fc1 gelu": (lambda: PARTS.ln_linear(x, *w[6:10], "gelu"), 4, 4 + 4 * item),
        "linear_residual fc2": (lambda: PARTS.linear_residual(hidden, *w[10:], x), 4, 8 + 4 * item),
    }
    for name, (run, squares, row_bytes) in runs.items():
        moved = squares * width * width * item + batch * width * row_bytes
        yield Case(f"{name} {label}", "iris_kernels", run, squares * linear, moved, 1)
    yield Case(
        f"decode_attention {label}",
        "iris_kernels",
        lambda: PARTS.decode_attention(qkv, caches[0], caches[1], where, Rows(1, 1, False)),
        4.0 * batch * width * (position + 1),
        2.0 * batch * width * (position + 1) * item,
        1,
    )


def _graph_node_case(device: torch.device) -> Case:
    """Fifty dependent tiny operations: in a graph, fifty times the least that a node costs."""
    x = torch.zeros(32, device=device)

    def run() -> None:
        for _ in range(50):
            x.add_(1.0)

    return Case("50 dependent tiny operations", "torch", run)


def cases(device: torch.device, dtype: torch.dtype, shape: Shape, is_short: bool) -> Iterator[Case]:
    """A pass at each position; unless is_short, with each launch by itself and what a launch costs at least."""
    torch.set_grad_enabled(False)
    if not is_short:
        yield _graph_node_case(device)
    for position in shape.positions:
        yield from _pass_cases(device, dtype, shape, position, is_short)
        if not is_short:
            yield from _launch_cases(device, dtype, shape, position)


if __name__ == "__main__":
    main("decode_layers", cases, (64, 256, 1024))
