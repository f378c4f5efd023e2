"""Layers through their cache on a CPU: against whole attention, the custom op, `torch.compile`; and on a GPU."""

from typing import Any

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from iris_kernels import LayerWeights
from iris_kernels.reference import attention as attention_reference
from iris_kernels.reference import decode_layers as reference
from iris_kernels.reference.decode_layers import Rows
from torch import Tensor, nn

HEADS = 2


def at(position: int, batch: int = 1, device: torch.device | str = "cpu") -> Tensor:
    return torch.full((batch,), position, dtype=torch.int32, device=device)


def random_turns(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    """(..., D): cosines and sines of the angles of D / 2 pairs."""
    angles = 3 * torch.randn(*shape[:-1], shape[-1] // 2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2).to(device)


def make_layer(
    width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LayerWeights:
    def weights(*shape: int) -> Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(device, dtype)

    hidden = 4 * width
    return LayerWeights(
        1 + weights(width), weights(width), weights(3 * width, width), weights(3 * width),
        weights(width, width), weights(width), 1 + weights(width), weights(width),
        weights(hidden, width), weights(hidden), weights(width, hidden), weights(width),
    )  # fmt: skip


def run_layers(
    layers: list[LayerWeights],
    x: Tensor,
    pieces: list[int],
    heads: int = HEADS,
    length: int | None = None,
    turns: Tensor | None = None,
) -> Tensor:
    batch, rows, width = x.shape
    shape = (len(layers), batch, heads, length or rows, width // heads)
    k_cache = torch.full(shape, float("nan"), dtype=layers[0].qkv_weight.dtype, device=x.device)
    v_cache = k_cache.clone()
    out, position = [], 0
    for piece in pieces:
        new, where = slice(position, position + piece), at(position, batch, x.device)
        turned = None if turns is None else turns[:, new].contiguous()
        out.append(iris_kernels.decode_layers(x[:, new], layers, k_cache, v_cache, where, turns=turned))
        position += piece
    return torch.cat(out, dim=1)


def plain_layer(w: LayerWeights, x: Tensor, turns: Tensor | None = None) -> Tensor:
    """(B, T, C) through an ordinary pre-norm layer with whole causal attention."""
    batch, rows, width = x.shape
    qkv = F.linear(F.layer_norm(x, (width,), w.ln_1_weight, w.ln_1_bias), w.qkv_weight, w.qkv_bias)
    q, k, v = qkv.view(batch, rows, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if turns is not None:
        cosine, sine = turns[:, None, :, ::2], turns[:, None, :, 1::2]
        q, k = (
            torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(3)
            for even, odd in ((rows[..., ::2], rows[..., 1::2]) for rows in (q, k))
        )
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
    x = x + F.linear(attended, w.out_weight, w.out_bias)
    hidden = F.linear(F.layer_norm(x, (width,), w.ln_2_weight, w.ln_2_bias), w.fc_1_weight, w.fc_1_bias)
    return x + F.linear(F.gelu(hidden), w.fc_2_weight, w.fc_2_bias)


@pytest.mark.parametrize("is_rotary", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_layers_equal_ordinary_layers(num_layers: int, is_packed: bool, is_rotary: bool) -> None:
    layers, x = [make_layer(32) for _ in range(num_layers)], torch.randn(3, 20, 32)
    turns = random_turns(3, 20, 16) if is_rotary else None
    layers = [iris_kernels.pack(layer) if is_packed else layer for layer in layers]
    wanted = x
    for layer in layers:
        wanted = plain_layer(layer, wanted, turns)
    with torch.no_grad():
        for pieces in ([20], [13, 1, 1, 5], [1] * 20):
            got = run_layers(layers, x, pieces, length=24, turns=turns)
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    through_the_op = run_layers(layers, x, [17, 3], turns=turns)  # with gradients on, the custom op runs
    torch.testing.assert_close(through_the_op, wanted, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(prefill=st.integers(1, 339), batch=st.integers(1, 3))
def test_prefill_and_one_step_equal_a_longer_prefill(prefill: int, batch: int) -> None:
    torch.manual_seed(prefill)
    layers, x = [make_layer(32)], torch.randn(batch, prefill + 1, 32)
    with torch.no_grad():
        stepwise, whole = run_layers(layers, x, [prefill, 1]), run_layers(layers, x, [prefill + 1])
    torch.testing.assert_close(stepwise, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_block_causal", [False, True])
def test_prediction_queries_equal_the_parallel_mask(is_block_causal: bool) -> None:
    step, num_steps, size = 5, 3, 16
    rows = num_steps * (2 * step - 1)
    qkv = torch.randn(2, rows, 3 * HEADS * size)
    q, k, v = qkv.view(2, rows, 3, HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)
    wanted = iris_kernels.attention(
        q, k, v, mask="parallel", tokens_per_step=step, is_block_causal=is_block_causal
    )
    wanted = wanted.transpose(1, 2).reshape(2, rows, -1)
    caches = torch.full((2, 2, HEADS, rows, size), float("nan"))
    for index in range(num_steps):
        context = slice(index * step, (index + 1) * step)
        first_query = num_steps * step + index * (step - 1)
        queries = slice(first_query, first_query + step - 1)
        new = torch.cat([qkv[:, context], qkv[:, queries]], dim=1)
        rows_now = Rows(step, new.shape[1], is_block_causal)
        got = reference.decode_attention(new, *caches, at(index * step, 2), rows_now)
        torch.testing.assert_close(got[:, :step], wanted[:, context], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(got[:, step:], wanted[:, queries], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotate_turns_pairs_and_has_a_gradient(dtype: torch.dtype) -> None:
    """Lengths stay, products of two rows depend on the difference of their angles alone; backwards it turns back."""
    x, angles = torch.randn(2, 5, 8).to(dtype).requires_grad_(), torch.randn(5, 4)
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    turned = reference.rotate(x, turns)
    assert turned.dtype == dtype
    pairs = x.detach().float().unflatten(-1, (4, 2))
    for pair in range(4):
        c, s = angles[:, pair].cos(), angles[:, pair].sin()
        by_hand = torch.stack(
            [
                pairs[..., pair, 0] * c - pairs[..., pair, 1] * s,
                pairs[..., pair, 0] * s + pairs[..., pair, 1] * c,
            ],
            -1,
        )
        torch.testing.assert_close(
            turned[..., 2 * pair : 2 * pair + 2].float(), by_hand, atol=2e-2, rtol=1e-2
        )
    grad = torch.randn_like(turned)
    (got,) = torch.autograd.grad(turned, x, grad)
    back = torch.stack([angles.cos(), -angles.sin()], dim=-1).flatten(1)
    torch.testing.assert_close(got, reference.rotate(grad, back))


CASES = [(1, 1, False), (6, 6, False), (6, 6, True), (6, 2, True), (3, 0, False)]


@pytest.mark.parametrize("length_is_known", [True, False])  # False: what CUDA runs without Triton
@pytest.mark.parametrize(("new", "num_context", "block"), CASES)
@torch.no_grad()
def test_each_row_alone_equals_rows_at_mixed_positions(
    new: int, num_context: int, block: bool, length_is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 12
    where = torch.tensor([5, 0, length - new, 1], dtype=torch.int32)
    qkv = torch.randn(4, new, 3 * HEADS * 16)
    caches = torch.randn(2, 4, HEADS, length, 16)
    rows = Rows(num_context, new, block)
    for row, first in enumerate(where):
        caches[:, row, :, first:] = float("nan")
    alone = caches.clone()
    wanted = [
        reference.decode_attention(qkv[one], alone[0, one], alone[1, one], where[one], rows)
        for one in (slice(row, row + 1) for row in range(4))
    ]
    monkeypatch.setattr(reference, "_length_is_known", lambda tensor: length_is_known)
    got = reference.decode_attention(qkv, *caches, where, rows)
    torch.testing.assert_close(got, torch.cat(wanted), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(caches, alone, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("turns", [None, random_turns(3, 4, 16)])
def test_custom_op_is_sound(turns: Tensor | None) -> None:
    caches = torch.randn(2, 2, 3, HEADS, 9, 16)
    position = torch.tensor([3, 0, 5], dtype=torch.int32)
    weights = make_layer(32).tensors + make_layer(32).tensors
    arguments = torch.randn(3, 4, 32), weights, *caches, position, 2, 3, True, turns
    torch.library.opcheck(torch.ops.iris_kernels.decode_layers.default, arguments)


def test_compiles_whole_and_agrees_with_eager() -> None:
    layers, x = [make_layer(32), make_layer(32)], torch.randn(2, 3, 32)

    def run(x: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor) -> Tensor:
        return iris_kernels.decode_layers(x, layers, k_cache, v_cache, position, num_wanted=2)

    caches = [torch.randn(2, 2, HEADS, 9, 16) for _ in range(2)]
    copies = [cache.clone() for cache in caches]
    with torch.no_grad():
        eager = run(x, *caches, at(4, 2))
        compiled = torch.compile(run, fullgraph=True)(x, *copies, at(4, 2))
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(copies, caches)


LAYER = {
    "x": torch.zeros(2, 1, 32),
    "layers": [make_layer(32)],
    "k_cache": torch.zeros(1, 2, 2, 5, 16),
    "v_cache": torch.zeros(1, 2, 2, 5, 16),
    "position": at(0, 2),
}


@pytest.mark.parametrize("has_gradients", [False, True])  # True: the custom op and the reference
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 1, 32).double()}, r"x is \(2, 1, 32\) float64, expected \(B, n, C\) float32"),
        ({"x": torch.zeros(2, 1, 31)}, r"qkv_weight is \(96, 32\) float32, expected \(93, 31\)"),
        (
            {"layers": [make_layer(32), make_layer(16)]},
            r"qkv_weight is \(48, 16\) float32, expected \(96, 32\)",
        ),
        (
            {"layers": [make_layer(32)] * 2},
            r"k_cache is \(1, 2, 2, 5, 16\) float32, expected contiguous \(2, 2,",
        ),
        (
            {"v_cache": torch.zeros(1, 2, 2, 6, 16)},
            r"v_cache is \(1, 2, 2, 6, 16\) float32, expected contiguous",
        ),
        ({"v_cache": torch.zeros(1, 2, 2, 5, 16).half()}, "v_cache is .* float16, expected contiguous"),
        ({"k_cache": torch.zeros(1, 2, 2, 16, 5).mT}, "k_cache is .* expected contiguous"),
        ({"position": at(0, 4)[::2]}, r"position is \(2,\) int32, expected .* contiguous"),
        (
            {"position": torch.zeros(2, dtype=torch.int64)},
            r"position is \(2,\) int64, expected \(2,\) int32 on cpu",
        ),
        ({"position": at(0)}, r"position is \(1,\) int32, expected \(2,\) int32 on cpu"),
        ({"turns": torch.zeros(2, 2, 16)}, r"turns is \(2, 2, 16\) float32, expected \(2, 1, 16\) float32"),
        ({"turns": torch.zeros(2, 1, 16).double()}, r"turns is .* float64, expected \(2, 1, 16\) float32 on"),
        ({"num_context": 2}, "2 context rows and 1 wanted of 1 new rows with a cache of 5 rows"),
        ({"num_wanted": 2}, "1 context rows and 2 wanted of 1 new rows"),
        (
            {"position": torch.tensor([0, 5], dtype=torch.int32)},
            "1 rows at position 5 do not fit a cache of 5 rows",
        ),
        (
            {"position": torch.tensor([-1, 4], dtype=torch.int32)},
            "1 rows at position -1 do not fit a cache of 5 rows",
        ),
    ],
)
def test_contract(change: dict[str, Any], message: str, has_gradients: bool) -> None:
    with torch.set_grad_enabled(has_gradients), pytest.raises(ValueError, match=message):
        iris_kernels.decode_layers(**(LAYER | change))


def test_weights_of_a_module_follow_it() -> None:
    """In the parameters' own dtype they are the parameters; others are copied by update, in place."""
    layer = nn.ModuleDict(
        {"ln_1": nn.LayerNorm(8), "qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8)}
        | {"ln_2": nn.LayerNorm(8), "fc_1": nn.Linear(8, 32), "fc_2": nn.Linear(32, 8)}
    )
    for dtype in (torch.float32, torch.bfloat16):
        weights = LayerWeights.of(layer, dtype)
        pointers = [tensor.data_ptr() for tensor in weights.tensors]
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(1)
        weights.update(layer)
        assert [tensor.data_ptr() for tensor in weights.tensors] == pointers
        for tensor, parameter in zip(weights.tensors, layer.parameters(), strict=True):
            assert torch.equal(tensor, parameter.to(tensor.dtype))
            assert (tensor.data_ptr() == parameter.data_ptr()) == (tensor.dtype == torch.float32)
        assert weights.ln_1_weight.dtype == torch.float32
        assert weights.qkv_weight.dtype == dtype


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("batch", "is_rotary"), [(1, False), (64, False), (64, True)])
def test_layer_on_a_gpu(cuda: torch.device, batch: int, is_rotary: bool, dtype: torch.dtype) -> None:
    weights = make_layer(256, dtype, cuda)
    x = torch.randn(batch, 60, 256, device=cuda)
    pieces = [17, 1, 2, 33, 1, 6]
    turns = random_turns(batch, 60, 64, device=cuda) if is_rotary else None
    with torch.no_grad():
        got = run_layers([weights], x, pieces, heads=4, length=340, turns=turns).cpu()
    exact = LayerWeights(*(weight.cpu().float() for weight in weights.tensors))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("IRIS_KERNELS_BACKEND", "torch")
        wanted = run_layers([exact], x.cpu(), pieces, heads=4, turns=None if turns is None else turns.cpu())
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    assert (got - wanted).norm() / wanted.norm() < limit


@pytest.mark.gpu
def test_one_cuda_graph_serves_every_position(cuda: torch.device) -> None:
    layers = [make_layer(256, torch.bfloat16, cuda) for _ in range(2)]
    x = torch.randn(8, 24, 256, device=cuda)
    with torch.no_grad():
        wanted = run_layers(layers, x, [1] * 24, heads=4)
        caches = torch.zeros(2, 2, 8, 4, 24, 64, device=cuda, dtype=torch.bfloat16)
        row, position = x[:, :1].clone(), at(0, 8, cuda)
        iris_kernels.decode_layers(row, layers, *caches, position)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = iris_kernels.decode_layers(row, layers, *caches, position)
        got = []
        for index in range(24):
            row.copy_(x[:, index : index + 1])
            position.fill_(index)
            graph.replay()
            got.append(out.clone())
    assert torch.equal(torch.cat(got, dim=1), wanted)


@pytest.mark.gpu
def test_repeats_bit_for_bit_on_a_gpu(cuda: torch.device) -> None:
    layers, x = [make_layer(256, torch.bfloat16, cuda)], torch.randn(64, 18, 256, device=cuda)
    with torch.no_grad():
        first = run_layers(layers, x, [17, 1], heads=4)
        for _ in range(100):
            assert torch.equal(run_layers(layers, x, [17, 1], heads=4), first)


def test_block_causal_visibility_is_the_same_in_training_and_decoding() -> None:
    step, size = 4, 16
    qkv = torch.randn(1, 3 * step, 3 * size)
    q, k, v = qkv.view(1, 3 * step, 3, 1, size).permute(2, 0, 3, 1, 4).unbind(0)
    wanted = attention_reference.attention(q, k, v, "block_causal", step, False, 0.0, None)
    caches = torch.zeros(2, 1, 1, 3 * step, size)
    for start in range(0, 3 * step, step):
        rows = slice(start, start + step)
        got = reference.decode_attention(qkv[:, rows], *caches, at(start), Rows(step, step, True))
        torch.testing.assert_close(got, wanted[:, 0, rows], atol=1e-6, rtol=1e-6)
