"""The decode chain on a CPU: against whole attention, the custom ops, `torch.compile`; and on a GPU."""

from typing import Any

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from iris_kernels import LayerWeights
from iris_kernels.reference import attention as attention_reference
from torch import Tensor

HEADS = 2


def at(position: int, batch: int = 1, device: torch.device | str = "cpu") -> Tensor:
    return torch.full((batch,), position, dtype=torch.int32, device=device)


def make_layer(
    groups: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LayerWeights:
    def weights(*shape: int) -> Tensor:
        return (torch.randn(groups, *shape) * shape[-1] ** -0.5).to(device, dtype)

    hidden = 4 * width
    return LayerWeights(
        1 + weights(width), weights(width), weights(3 * width, width), weights(3 * width),
        weights(width, width), weights(width), 1 + weights(width), weights(width),
        weights(hidden, width), weights(hidden), weights(width, hidden), weights(width),
    )  # fmt: skip


def run_layer(
    weights: LayerWeights, x: Tensor, pieces: list[int], heads: int = HEADS, length: int | None = None
) -> Tensor:
    groups, batch, rows, width = x.shape
    shape = (groups, batch, heads, length or rows, width // heads)
    k_cache = torch.full(shape, float("nan"), dtype=weights.qkv_weight.dtype, device=x.device)
    v_cache = k_cache.clone()
    out, position = [], 0
    for piece in pieces:
        rows_now = x[:, :, position : position + piece]
        out.append(
            iris_kernels.decode_layer(
                rows_now, weights, k_cache, v_cache, at(position, batch, x.device), num_heads=heads
            )
        )
        position += piece
    return torch.cat(out, dim=2)


def plain_layer(weights: LayerWeights, group: int, x: Tensor) -> Tensor:
    """(B, T, C) through an ordinary pre-norm layer with whole causal attention."""
    w = LayerWeights(*(weight[group] for weight in weights))
    batch, rows, width = x.shape
    qkv = F.linear(F.layer_norm(x, (width,), w.ln1_weight, w.ln1_bias), w.qkv_weight, w.qkv_bias)
    q, k, v = qkv.view(batch, rows, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
    x = x + F.linear(attended, w.out_weight, w.out_bias)
    hidden = F.linear(F.layer_norm(x, (width,), w.ln2_weight, w.ln2_bias), w.fc1_weight, w.fc1_bias)
    return x + F.linear(F.gelu(hidden), w.fc2_weight, w.fc2_bias)


@pytest.mark.parametrize("groups", [1, 3])
def test_layer_equals_an_ordinary_layer(groups: int) -> None:
    weights, x = make_layer(groups, 32), torch.randn(groups, 3, 20, 32)
    wanted = torch.stack([plain_layer(weights, group, x[group]) for group in range(groups)])
    with torch.no_grad():
        for pieces in ([20], [13, 1, 1, 5], [1] * 20):
            got = run_layer(weights, x, pieces, length=24)
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    through_the_ops = run_layer(weights, x, [17, 3])  # with gradients on, the custom ops run
    torch.testing.assert_close(through_the_ops, wanted, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(prefill=st.integers(1, 339), batch=st.integers(1, 3), groups=st.integers(1, 2))
def test_prefill_and_one_step_equal_a_longer_prefill(prefill: int, batch: int, groups: int) -> None:
    torch.manual_seed(prefill)
    weights, x = make_layer(groups, 32), torch.randn(groups, batch, prefill + 1, 32)
    with torch.no_grad():
        stepwise, whole = run_layer(weights, x, [prefill, 1]), run_layer(weights, x, [prefill + 1])
    torch.testing.assert_close(stepwise, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_block_causal", [False, True])
def test_prediction_queries_equal_the_parallel_mask(is_block_causal: bool) -> None:
    step, num_steps, size = 5, 3, 16
    rows = num_steps * (2 * step - 1)
    qkv = torch.randn(1, 2, rows, 3 * HEADS * size)
    q, k, v = qkv[0].view(2, rows, 3, HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)
    wanted = iris_kernels.attention(
        q, k, v, mask="parallel", tokens_per_step=step, is_block_causal=is_block_causal
    )
    wanted = wanted.transpose(1, 2).reshape(2, rows, -1)
    caches = torch.full((2, 1, 2, HEADS, rows, size), float("nan"))
    for index in range(num_steps):
        context = slice(index * step, (index + 1) * step)
        first_query = num_steps * step + index * (step - 1)
        queries = slice(first_query, first_query + step - 1)
        got = iris_kernels.decode_attention(
            torch.cat([qkv[:, :, context], qkv[:, :, queries]], dim=2), caches[0], caches[1],
            at(index * step, 2), num_heads=HEADS, num_context=step, is_block_causal=is_block_causal,
        )[0]  # fmt: skip
        torch.testing.assert_close(got[:, :step], wanted[:, context], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(got[:, step:], wanted[:, queries], atol=1e-6, rtol=1e-6)


CASES = [(1, 1, False), (6, 6, False), (6, 6, True), (6, 2, True), (3, 0, False)]


@pytest.mark.parametrize("length_is_known", [True, False])  # False: what CUDA runs without Triton
@pytest.mark.parametrize(("new", "num_context", "block"), CASES)
@torch.no_grad()
def test_each_row_alone_equals_rows_at_mixed_positions(
    new: int, num_context: int, block: bool, length_is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iris_kernels.reference import decode_chain as reference

    length = 12
    where = torch.tensor([5, 0, length - new, 1], dtype=torch.int32)
    qkv = torch.randn(2, 4, new, 3 * HEADS * 16)
    caches = torch.randn(2, 2, 4, HEADS, length, 16)
    for row, first in enumerate(where):
        caches[:, :, row, :, first:] = float("nan")
    alone = caches.clone()
    wanted = [
        reference.decode_attention(
            qkv[:, row : row + 1], alone[0, :, row : row + 1], alone[1, :, row : row + 1],
            where[row : row + 1], HEADS, num_context, block,
        )
        for row in range(4)
    ]  # fmt: skip
    monkeypatch.setattr(reference, "_length_is_known", lambda tensor: length_is_known)
    got = reference.decode_attention(qkv, caches[0], caches[1], where, HEADS, num_context, block)
    torch.testing.assert_close(got, torch.cat(wanted, dim=1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(caches, alone, atol=0, rtol=0, equal_nan=True)


def ln_linear_arguments() -> tuple[Any, ...]:
    return torch.randn(2, 3, 16), *torch.randn(2, 2, 16), torch.randn(2, 8, 16), torch.randn(2, 8), "gelu"


def test_custom_ops_are_sound() -> None:
    torch.library.opcheck(torch.ops.iris_kernels.ln_linear.default, ln_linear_arguments())
    torch.library.opcheck(
        torch.ops.iris_kernels.linear_residual.default,
        (torch.randn(2, 3, 16), torch.randn(2, 8, 16), torch.randn(2, 8), torch.randn(2, 3, 8)),
    )
    caches = torch.randn(2, 2, 3, HEADS, 9, 16)
    arguments = (
        torch.randn(2, 3, 4, 3 * HEADS * 16),
        caches[0].clone(),
        caches[1].clone(),
        torch.tensor([3, 0, 5], dtype=torch.int32),
        HEADS,
        2,
        True,
    )
    torch.library.opcheck(torch.ops.iris_kernels.decode_attention.default, arguments)


def test_compiles_whole_and_agrees_with_eager() -> None:
    weights, x = make_layer(1, 32), torch.randn(1, 2, 3, 32)

    def run(x: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor) -> Tensor:
        return iris_kernels.decode_layer(x, weights, k_cache, v_cache, position, num_heads=HEADS)

    caches = [torch.randn(1, 2, HEADS, 9, 16) for _ in range(2)]
    copies = [cache.clone() for cache in caches]
    with torch.no_grad():
        eager = run(x, *caches, at(4, 2))
        compiled = torch.compile(run, fullgraph=True)(x, *copies, at(4, 2))
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(copies, caches)


def test_views_of_one_agents_weights_are_not_copied() -> None:
    weight = torch.randn(8, 16)
    assert weight[None].data_ptr() == weight.data_ptr()
    x, norm, bias = torch.randn(1, 3, 16), torch.ones(16), torch.zeros(8)
    out = iris_kernels.ln_linear(x, norm[None], 0 * norm[None], weight[None], bias[None])
    assert torch.equal(out[0], F.linear(F.layer_norm(x[0], (16,)), weight, bias))


ATTENTION = {
    "qkv": torch.zeros(1, 2, 1, 96),
    "k_cache": torch.zeros(1, 2, 2, 5, 16),
    "v_cache": torch.zeros(1, 2, 2, 5, 16),
    "position": at(0, 2),
    "num_heads": 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qkv": torch.zeros(1, 2, 1, 95)},
            r"qkv is \(1, 2, 1, 95\) float32, expected \(G, B, n, 3 \* 2 heads",
        ),
        (
            {"v_cache": torch.zeros(1, 2, 2, 6, 16)},
            r"v_cache is \(1, 2, 2, 6, 16\) float32, expected contiguous",
        ),
        ({"k_cache": torch.zeros(1, 2, 2, 5, 16).half()}, "k_cache is .* float16, expected contiguous"),
        ({"k_cache": torch.zeros(1, 2, 2, 16, 5).mT}, "k_cache is .* expected contiguous"),
        (
            {"position": torch.zeros(2, dtype=torch.int64)},
            r"position is \(2,\) int64, expected \(2,\) int32 on cpu",
        ),
        ({"num_context": 2}, "2 context rows of 1 new rows with a cache of 5 rows"),
        ({"position": at(0)}, r"position is \(1,\) int32, expected \(2,\) int32 on cpu"),
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
def test_decode_attention_contract(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iris_kernels.decode_attention(**(ATTENTION | change))


def test_linear_contracts() -> None:
    x, norm, _, weight, bias, _ = ln_linear_arguments()
    with pytest.raises(
        ValueError, match=r"ln_linear: x is \(2, 3, 16\) float64, expected \(G, M, C\) float32"
    ):
        iris_kernels.ln_linear(x.double(), norm, norm, weight, bias)
    with pytest.raises(ValueError, match=r"ln_linear: weight is \(2, 8, 15\) float32, expected \(2, O, 16\)"):
        iris_kernels.ln_linear(x, norm, norm, weight[..., 1:], bias)
    with pytest.raises(ValueError, match="ln_linear: activation is 'relu', expected one of none, gelu"):
        iris_kernels.ln_linear(x, norm, norm, weight, bias, "relu")
    with pytest.raises(
        ValueError, match=r"linear_residual: residual is \(2, 3, 7\) float32, expected \(2, 3, 8\)"
    ):
        iris_kernels.linear_residual(x, weight, bias, torch.zeros(2, 3, 7))
    with pytest.raises(
        ValueError, match=r"linear_residual: x is \(2, 3, 16\) float16, expected .* torch.float32"
    ):
        iris_kernels.linear_residual(x.half(), weight, bias, torch.zeros(2, 3, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("groups", "batch"), [(1, 1), (1, 64), (3, 5)])
def test_layer_on_a_gpu(cuda: torch.device, groups: int, batch: int, dtype: torch.dtype) -> None:
    weights = make_layer(groups, 256, dtype, cuda)
    x = torch.randn(groups, batch, 60, 256, device=cuda)
    pieces = [17, 1, 2, 33, 1, 6]
    with torch.no_grad():
        got = run_layer(weights, x, pieces, heads=4, length=340).cpu()
    exact = LayerWeights(*(weight.cpu().float() for weight in weights))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("IRIS_KERNELS_BACKEND", "torch")
        wanted = run_layer(exact, x.cpu(), pieces, heads=4)
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    assert (got - wanted).norm() / wanted.norm() < limit


@pytest.mark.gpu
def test_one_cuda_graph_serves_every_position(cuda: torch.device) -> None:
    weights, x = make_layer(1, 256, torch.bfloat16, cuda), torch.randn(1, 8, 24, 256, device=cuda)
    with torch.no_grad():
        wanted = run_layer(weights, x, [1] * 24, heads=4)
        caches = [torch.zeros(1, 8, 4, 24, 64, device=cuda, dtype=torch.bfloat16) for _ in range(2)]
        row, position = x[:, :, :1].clone(), at(0, 8, cuda)
        iris_kernels.decode_layer(row, weights, *caches, position, num_heads=4)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = iris_kernels.decode_layer(row, weights, *caches, position, num_heads=4)
        got = []
        for index in range(24):
            row.copy_(x[:, :, index : index + 1])
            position.fill_(index)
            graph.replay()
            got.append(out.clone())
    assert torch.equal(torch.cat(got, dim=2), wanted)


@pytest.mark.gpu
def test_repeats_bit_for_bit_on_a_gpu(cuda: torch.device) -> None:
    weights, x = make_layer(1, 256, torch.bfloat16, cuda), torch.randn(1, 64, 18, 256, device=cuda)
    with torch.no_grad():
        first = run_layer(weights, x, [17, 1], heads=4)
        for _ in range(100):
            assert torch.equal(run_layer(weights, x, [17, 1], heads=4), first)


def test_block_causal_visibility_is_the_same_in_training_and_decoding() -> None:
    step, size = 4, 16
    qkv = torch.randn(1, 1, 3 * step, 3 * size)
    q, k, v = qkv[0].view(1, 3 * step, 3, 1, size).permute(2, 0, 3, 1, 4).unbind(0)
    wanted = attention_reference.attention(q, k, v, "block_causal", step, False, 0.0, None)
    caches = torch.zeros(2, 1, 1, 1, 3 * step, size)
    for start in range(0, 3 * step, step):
        rows = slice(start, start + step)
        got = iris_kernels.decode_attention(
            qkv[:, :, rows], caches[0], caches[1], at(start), num_heads=1, is_block_causal=True
        )
        torch.testing.assert_close(got[0], wanted[:, 0, rows], atol=1e-6, rtol=1e-6)
