"""The launches of a decoding layer against float64 references."""

import iris_kernels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iris_kernels.reference import decode_chain as reference
from iris_kernels.triton_kernels import decode_chain as kernels

TOLERANCE = 1e-5


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted.to(got.dtype), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize(
    ("groups", "rows", "width", "outputs"),
    [(1, 1, 256, 768), (1, 3, 64, 33), (2, 17, 48, 20), (3, 5, 300, 40), (1, 300, 16, 24)],
)
def test_ln_linear(arena, groups: int, rows: int, width: int, outputs: int, activation: str) -> None:
    x = 2.0 + 3.0 * torch.randn(groups, rows, width)
    ln_weight, ln_bias = torch.randn(groups, width), torch.randn(groups, width)
    weight, bias = torch.randn(groups, outputs, width) / width**0.5, torch.randn(groups, outputs)
    inputs = (x, ln_weight, ln_bias, weight, bias)
    got = kernels.launch_ln_linear(
        *(arena.input(tensor) for tensor in inputs), activation, arena.output(groups, rows, outputs)
    )
    close(got, reference.ln_linear(*(tensor.double() for tensor in inputs), activation))


@pytest.mark.parametrize(
    ("groups", "rows", "inputs", "outputs"),
    [(1, 1, 256, 256), (1, 3, 1024, 33), (2, 17, 48, 20), (3, 5, 300, 40), (1, 300, 16, 24)],
)
def test_linear_residual(arena, groups: int, rows: int, inputs: int, outputs: int) -> None:
    x = torch.randn(groups, rows, inputs)
    weight, bias = torch.randn(groups, outputs, inputs) / inputs**0.5, torch.randn(groups, outputs)
    residual = torch.randn(groups, rows, outputs)
    tensors = (x, weight, bias, residual)
    wanted = reference.linear_residual(*(tensor.double() for tensor in tensors))
    placed = [arena.input(tensor) for tensor in tensors]
    close(kernels.launch_linear_residual(*placed, arena.output(groups, rows, outputs)), wanted)
    in_place = arena.state(residual)
    kernels.launch_linear_residual(*placed[:3], in_place, in_place)
    close(in_place, wanted)


LAST = 340
CASES = [
    # groups, batch, new rows, heads, head size, position, context rows, block-causal
    (1, 2, 1, 1, 64, 0, None, False),
    (1, 3, 1, 1, 64, 1, None, False),
    (2, 1, 1, 3, 32, 16, None, False),
    (1, 1, 1, 2, 64, LAST - 1, None, False),
    (1, 3, 2, 1, 16, 17, None, False),
    (1, 2, 3, 2, 8, 5, 1, False),
    (1, 1, 2, 2, 24, LAST - 2, None, False),
    (1, 1, 17, 1, 16, 0, None, False),
    (1, 1, 17, 1, 32, LAST - 17, None, True),
    (2, 1, 17, 1, 16, 40, 1, False),
    (1, 1, 33, 1, 16, 34, 17, False),
    (1, 1, 33, 2, 16, 0, 17, True),
    (1, 1, 33, 1, 128, LAST - 33, 17, True),
    (1, 1, 16, 1, 16, 34, 0, False),
    (1, 1, 340, 1, 16, 0, None, False),
]


@pytest.mark.parametrize(
    ("groups", "batch", "new", "heads", "size", "position", "num_context", "is_block_causal"), CASES
)
def test_decode_attention(
    arena,
    groups: int,
    batch: int,
    new: int,
    heads: int,
    size: int,
    position: int,
    num_context: int | None,
    is_block_causal: bool,
) -> None:
    num_context = new if num_context is None else num_context
    # every row of the batch at a place of its own, the first at the case's
    where = torch.tensor(
        [abs(position - 7 * row) % (LAST - new + 1) for row in range(batch)], dtype=torch.int32
    )
    qkv = torch.randn(groups, batch, new, 3 * heads * size)
    k_cache, v_cache = torch.randn(2, groups, batch, heads, LAST, size)
    for row, first in enumerate(where):
        k_cache[:, row, :, first:] = float("nan")  # stale rows must never be read
        v_cache[:, row, :, first:] = float("nan")
    k_got, v_got = arena.state(k_cache), arena.state(v_cache)
    got = kernels.launch_decode_attention(
        arena.input(qkv), k_got, v_got, arena.input(where), num_context, is_block_causal,
        arena.output(groups, batch, new, heads * size),
    )  # fmt: skip
    k_exact, v_exact = k_cache.double(), v_cache.double()
    exact = reference.decode_attention(
        qkv.double(), k_exact, v_exact, where, heads, num_context, is_block_causal
    )
    close(got, exact)
    torch.testing.assert_close(k_got, k_exact.float(), atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(v_got, v_exact.float(), atol=0, rtol=0, equal_nan=True)


def test_rows_beyond_the_cache_are_left_out(arena) -> None:
    qkv = arena.input(torch.randn(1, 2, 3, 3 * 16))
    caches = [arena.state(torch.randn(1, 2, 1, 20, 16)) for _ in range(2)]
    before = [cache.clone() for cache in caches]
    where = torch.tensor([19, 18], dtype=torch.int32)
    kernels.launch_decode_attention(qkv, *caches, where, 3, False, arena.output(1, 2, 3, 16))
    for cache, old in zip(caches, before, strict=True):
        for row, first in enumerate(where):
            assert torch.equal(cache[:, row, :, :first], old[:, row, :, :first])
            assert not torch.equal(cache[:, row, :, first:], old[:, row, :, first:])


def make_layer(groups: int, width: int, dtype: torch.dtype = torch.float32) -> iris_kernels.LayerWeights:
    def weights(*shape: int) -> torch.Tensor:
        return (torch.randn(groups, *shape) * shape[-1] ** -0.5).to(dtype)

    hidden = 4 * width
    return iris_kernels.LayerWeights(
        1 + weights(width), weights(width), weights(3 * width, width), weights(3 * width),
        weights(width, width), weights(width), 1 + weights(width), weights(width),
        weights(hidden, width), weights(hidden), weights(width, hidden), weights(width),
    )  # fmt: skip


def run_layer(
    weights: iris_kernels.LayerWeights, x: torch.Tensor, pieces: list[int], heads: int
) -> torch.Tensor:
    groups, batch, rows, width = x.shape
    k_cache = torch.full((groups, batch, heads, rows, width // heads), float("nan"), dtype=weights[2].dtype)
    v_cache = k_cache.clone()
    out, position = [], 0
    for piece in pieces:
        out.append(
            iris_kernels.decode_layer(
                x[:, :, position : position + piece], weights, k_cache, v_cache,
                torch.full((batch,), position, dtype=torch.int32), num_heads=heads,
            )
        )  # fmt: skip
        position += piece
    return torch.cat(out, dim=2)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(prefill=st.integers(1, 40), heads=st.sampled_from([1, 2]), groups=st.integers(1, 2))
def test_prefill_and_one_step_equal_a_longer_prefill(prefill: int, heads: int, groups: int) -> None:
    torch.manual_seed(prefill)
    weights, x = make_layer(groups, 32), torch.randn(groups, 1, prefill + 1, 32)
    with torch.no_grad():
        close(run_layer(weights, x, [prefill, 1], heads), run_layer(weights, x, [prefill + 1], heads))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_layer_equals_the_reference(
    dtype: torch.dtype, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, x = make_layer(1, 64, dtype), torch.randn(1, 3, 18, 64)
    got = run_layer(weights, x, [17, 1], 2)
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    in_float32 = iris_kernels.LayerWeights(*(weight.float() for weight in weights))
    wanted = run_layer(in_float32, x, [17, 1], 2)
    assert (got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt() < limit
