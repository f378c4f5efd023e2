"""The launches of a decoding layer against float64 references."""

import iris_kernels
import pytest
import torch
from iris_kernels.reference import decode_layers as reference
from iris_kernels.reference.decode_layers import Rows
from iris_kernels.triton_kernels import decode_layers as kernels

TOLERANCE = 1e-5


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted.to(got.dtype), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize(
    ("rows", "width", "outputs"),
    [(1, 256, 768), (3, 64, 33), (17, 48, 20), (5, 300, 40), (300, 16, 24)],
)
def test_ln_linear(arena, rows: int, width: int, outputs: int, activation: str) -> None:
    x = 2.0 + 3.0 * torch.randn(rows, width)
    ln_weight, ln_bias = torch.randn(width), torch.randn(width)
    weight, bias = torch.randn(outputs, width) / width**0.5, torch.randn(outputs)
    inputs = (x, ln_weight, ln_bias, weight, bias)
    got = kernels.launch_ln_linear(
        *(arena.input(tensor) for tensor in inputs), activation, None, arena.output(rows, outputs)
    )
    close(got, reference.ln_linear(*(tensor.double() for tensor in inputs), activation))


@pytest.mark.parametrize(
    ("rows", "width", "size"), [(1, 256, 64), (3, 48, 24), (17, 300, 50), (300, 16, 2), (5, 128, 128)]
)
def test_ln_linear_turns_queries_and_keys(arena, rows: int, width: int, size: int) -> None:
    inputs = (
        torch.randn(rows, width), torch.randn(width), torch.randn(width),
        torch.randn(3 * width, width) / width**0.5, torch.randn(3 * width),
    )  # fmt: skip
    turns = torch.nn.functional.normalize(torch.randn(rows, size // 2, 2), dim=-1).flatten(1)
    got = kernels.launch_ln_linear(
        *(arena.input(tensor) for tensor in inputs), "none", arena.input(turns), arena.output(rows, 3 * width)
    )
    exact = [tensor.double() for tensor in inputs]
    close(got, reference.ln_linear(*exact, "none", turns))
    assert torch.equal(got[:, 2 * width :], kernels.launch_ln_linear(*inputs, "none")[:, 2 * width :])


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 256, 256), (3, 1024, 33), (17, 48, 20), (5, 300, 40), (300, 16, 24)],
)
def test_linear_residual(arena, rows: int, inputs: int, outputs: int) -> None:
    x = torch.randn(rows, inputs)
    weight, bias = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
    residual = torch.randn(rows, outputs)
    tensors = (x, weight, bias, residual)
    wanted = reference.linear_residual(*(tensor.double() for tensor in tensors))
    placed = [arena.input(tensor) for tensor in tensors]
    close(kernels.launch_linear_residual(*placed, arena.output(rows, outputs)), wanted)
    in_place = arena.state(residual)
    kernels.launch_linear_residual(*placed[:3], in_place, in_place)
    close(in_place, wanted)


LAST = 340
CASES = [
    # batch, new rows, heads, head size, position, context rows, block-causal
    (2, 1, 1, 64, 0, None, False),
    (3, 1, 1, 64, 1, None, False),
    (1, 1, 3, 32, 16, None, False),
    (1, 1, 2, 64, LAST - 1, None, False),
    (3, 2, 1, 16, 17, None, False),
    (2, 3, 2, 8, 5, 1, False),
    (1, 2, 2, 24, LAST - 2, None, False),
    (1, 17, 1, 16, 0, None, False),
    (1, 17, 1, 32, LAST - 17, None, True),
    (1, 17, 1, 16, 40, 1, False),
    (1, 33, 1, 16, 34, 17, False),
    (1, 33, 2, 16, 0, 17, True),
    (1, 33, 1, 128, LAST - 33, 17, True),
    (1, 16, 1, 16, 34, 0, False),
    (1, 340, 1, 16, 0, None, False),
]


@pytest.mark.parametrize(
    ("batch", "new", "heads", "size", "position", "num_context", "is_block_causal"), CASES
)
def test_decode_attention(
    arena,
    batch: int,
    new: int,
    heads: int,
    size: int,
    position: int,
    num_context: int | None,
    is_block_causal: bool,
) -> None:
    rows = Rows(new if num_context is None else num_context, new, is_block_causal)
    # every row of the batch at a place of its own, the first at the case's
    where = torch.tensor(
        [abs(position - 7 * row) % (LAST - new + 1) for row in range(batch)], dtype=torch.int32
    )
    qkv = torch.randn(batch, new, 3 * heads * size)
    k_cache, v_cache = torch.randn(2, batch, heads, LAST, size)
    for row, first in enumerate(where):
        k_cache[row, :, first:] = float("nan")  # stale rows must never be read
        v_cache[row, :, first:] = float("nan")
    k_got, v_got = arena.state(k_cache), arena.state(v_cache)
    got = kernels.launch_decode_attention(
        arena.input(qkv), k_got, v_got, arena.input(where), rows, arena.output(batch, new, heads * size)
    )
    k_exact, v_exact = k_cache.double(), v_cache.double()
    exact = reference.decode_attention(qkv.double(), k_exact, v_exact, where, rows)
    close(got, exact)
    torch.testing.assert_close(k_got, k_exact.float(), atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(v_got, v_exact.float(), atol=0, rtol=0, equal_nan=True)


def test_rows_beyond_the_cache_are_left_out(arena) -> None:
    qkv = arena.input(torch.randn(2, 3, 3 * 16))
    caches = [arena.state(torch.randn(2, 1, 20, 16)) for _ in range(2)]
    before = [cache.clone() for cache in caches]
    where = torch.tensor([19, 18], dtype=torch.int32)
    kernels.launch_decode_attention(qkv, *caches, where, Rows(3, 3, False), arena.output(2, 3, 16))
    for cache, old in zip(caches, before, strict=True):
        for row, first in enumerate(where):
            assert torch.equal(cache[row, :, :first], old[row, :, :first])
            assert not torch.equal(cache[row, :, first:], old[row, :, first:])


def make_layer(width: int, dtype: torch.dtype = torch.float32) -> iris_kernels.LayerWeights:
    def weights(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(dtype)

    hidden = 4 * width
    return iris_kernels.LayerWeights(
        1 + weights(width), weights(width), weights(3 * width, width), weights(3 * width),
        weights(width, width), weights(width), 1 + weights(width), weights(width),
        weights(hidden, width), weights(hidden), weights(width, hidden), weights(width),
    )  # fmt: skip


def run_layer(
    weights: iris_kernels.LayerWeights, x: torch.Tensor, pieces: list[int], heads: int
) -> torch.Tensor:
    batch, rows, width = x.shape
    shape = (1, batch, heads, rows, width // heads)
    k_cache = torch.full(shape, float("nan"), dtype=weights.qkv_weight.dtype)
    v_cache = k_cache.clone()
    out, position = [], 0
    for piece in pieces:
        where = torch.full((batch,), position, dtype=torch.int32)
        part = x[:, position : position + piece]
        out.append(iris_kernels.decode_layers(part, [weights], k_cache, v_cache, where))
        position += piece
    return torch.cat(out, dim=1)


@pytest.mark.parametrize(
    ("prefill", "heads"),
    [(1, 1), (17, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in [(16, 1), (40, 2)])],
)
def test_prefill_and_one_step_equal_a_longer_prefill(prefill: int, heads: int) -> None:
    torch.manual_seed(prefill)
    weights, x = make_layer(32), torch.randn(1, prefill + 1, 32)
    with torch.no_grad():
        close(run_layer(weights, x, [prefill, 1], heads), run_layer(weights, x, [prefill + 1], heads))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_layer_equals_the_reference(
    dtype: torch.dtype, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, x = make_layer(64, dtype), torch.randn(3, 18, 64)
    got = run_layer(weights, x, [17, 1], 2)
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    in_float32 = iris_kernels.LayerWeights(*(weight.float() for weight in weights.tensors))
    wanted = run_layer(in_float32, x, [17, 1], 2)
    assert (got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt() < limit


def test_only_the_wanted_rows_go_on() -> None:
    layers, x = [make_layer(32), make_layer(32)], torch.randn(3, 7, 32)
    caches = torch.zeros(2, 2, 2, 3, 2, 7, 16)
    where = torch.zeros(3, dtype=torch.int32)
    whole = iris_kernels.decode_layers(x, layers, *caches[0], where, num_context=4)
    part = iris_kernels.decode_layers(x, layers, *caches[1], where, num_context=4, num_wanted=2)
    close(part, whole[:, -2:])
    assert torch.equal(caches[0], caches[1])
