"""The attention kernels against float64 autograd and against the reference."""

import iris_kernels
import pytest
import torch
from iris_kernels.reference import attention as reference
from iris_kernels.triton_kernels import attention as kernels
from torch import Tensor

TOLERANCE = 1e-5
CAUSAL = ("causal", 0, False)
BLOCK_CAUSAL = ("block_causal", 17, False)
PARALLEL = ("parallel", 17, False)
PARALLEL_BLOCK_CAUSAL = ("parallel", 17, True)
SEED = torch.tensor([-(2**40) + 12345])


def explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: tuple[str, int, bool], dropout: float
) -> tuple[Tensor, Tensor]:
    """(output, base-2 log-sum-exp) by the definition, in the dtype of q."""
    rows = q.shape[2]
    visible = reference.visibility(rows, *mask, q.device)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible, float("-inf"))
    p = scores.softmax(-1)
    if dropout:
        p = p * reference.dropout_keeps(q.shape[0] * q.shape[1], rows, dropout, SEED).view(p.shape)
        p = p / (1.0 - dropout)
    return p @ v, scores.logsumexp(-1) / torch.log(torch.tensor(2.0, dtype=q.dtype))


# Tiles are 32 or 16 rows wide: 85 to 101 rows are several tiles a row and an unfinished last one. The rows of a whole
# context of the paper take a minute more and are slow.
CASES = [
    (3, 1, 1, 16, CAUSAL, 0.0),
    (2, 2, 20, 8, CAUSAL, 0.0),
    (1, 1, 16, 64, CAUSAL, 0.3),
    (2, 3, 17, 24, CAUSAL, 0.0),
    (1, 1, 101, 16, CAUSAL, 0.1),
    (1, 2, 85, 64, CAUSAL, 0.0),
    (1, 1, 1, 16, BLOCK_CAUSAL, 0.1),
    (3, 1, 17, 128, BLOCK_CAUSAL, 0.0),
    (1, 1, 101, 32, BLOCK_CAUSAL, 0.0),
    (1, 1, 85, 16, BLOCK_CAUSAL, 0.1),
    (1, 2, 50, 16, ("block_causal", 1, False), 0.1),
    (1, 1, 33, 16, PARALLEL, 0.0),
    (2, 1, 66, 48, PARALLEL, 0.2),
    (1, 1, 99, 16, PARALLEL, 0.0),
    (1, 1, 99, 16, PARALLEL_BLOCK_CAUSAL, 0.1),
    (2, 1, 60, 16, ("parallel", 2, False), 0.1),
    (1, 1, 63, 16, ("parallel", 4, True), 0.0),
]
WHOLE_CONTEXTS = [
    (1, 1, 339, 16, CAUSAL, 0.1),
    (1, 2, 340, 64, CAUSAL, 0.0),
    (1, 1, 339, 32, BLOCK_CAUSAL, 0.0),
    (1, 1, 340, 16, BLOCK_CAUSAL, 0.1),
    (3, 1, 99, 48, PARALLEL, 0.2),
    (1, 1, 330, 16, PARALLEL, 0.0),
    (1, 1, 330, 32, PARALLEL_BLOCK_CAUSAL, 0.0),
]


@pytest.mark.parametrize(
    ("batch", "heads", "rows", "size", "mask", "dropout"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in WHOLE_CONTEXTS)],
)
def test_forward_and_backward(
    arena, batch: int, heads: int, rows: int, size: int, mask: tuple[str, int, bool], dropout: float
) -> None:
    shape = (batch, heads, rows, size)
    q, k, v, grad = (torch.randn(shape) for _ in range(4))
    inputs = [arena.input(tensor) for tensor in (q, k, v)]
    seed = SEED if dropout else None
    out, statistics = kernels.launch_forward(
        *inputs, *mask, dropout, seed, arena.output(*shape), arena.output(*shape[:3])
    )
    grads = kernels.launch_backward(
        arena.input(grad), *inputs, out, statistics, *mask, dropout, seed,
        (arena.output(*shape), arena.output(*shape), arena.output(*shape)),
    )  # fmt: skip

    exact_inputs = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    exact, exact_statistics = explicit(*exact_inputs, mask, dropout)
    exact_grads = torch.autograd.grad(exact, exact_inputs, grad.double())
    torch.testing.assert_close(out, exact.float(), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(statistics, exact_statistics.float(), atol=TOLERANCE, rtol=TOLERANCE)
    for name, got, wanted in zip("qkv", grads, exact_grads, strict=True):
        torch.testing.assert_close(
            got, wanted.float(), atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"d{n}: {m}"
        )
    plain = reference.attention(q, k, v, *mask, dropout, seed)
    torch.testing.assert_close(out, plain, atol=TOLERANCE, rtol=TOLERANCE)


def test_drops_exactly_what_the_reference_drops() -> None:
    rows = 64  # as many as the head size, so that v can be the identity and the output the probabilities
    q, k = torch.randn(2, 2, rows, rows), torch.randn(2, 2, rows, rows)
    v = torch.eye(rows).expand(2, 2, rows, rows)
    out = iris_kernels.attention(q, k, v, dropout=0.4, seed=SEED)
    keeps = reference.dropout_keeps(4, rows, 0.4, SEED).view(2, 2, rows, rows)
    assert torch.equal(out != 0, keeps & reference.visibility(rows, "causal", 0, False, q.device))


def test_public_call_takes_views_of_a_packed_projection() -> None:
    packed = torch.randn(2, 20, 3, 2, 16, requires_grad=True)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    out = iris_kernels.attention(q, k, v, mask="block_causal", tokens_per_step=5)
    assert out.transpose(1, 2).is_contiguous()
    (grad,) = torch.autograd.grad(out.square().sum(), packed)
    wanted, _ = explicit(q.double(), k.double(), v.double(), ("block_causal", 5, False), 0.0)
    (wanted_grad,) = torch.autograd.grad(wanted.square().sum(), packed)
    torch.testing.assert_close(out, wanted.float(), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(grad, wanted_grad, atol=3 * TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    q, k, v, grad = (torch.randn(1, 2, 70, 32).to(dtype) for _ in range(4))
    inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    out = iris_kernels.attention(*inputs)
    grads = torch.autograd.grad(out, inputs, grad)
    exact_inputs = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    exact, _ = explicit(*exact_inputs, CAUSAL, 0.0)
    exact_grads = torch.autograd.grad(exact, exact_inputs, grad.double())
    for got, wanted in zip((out, *grads), (exact, *exact_grads), strict=True):
        assert got.dtype == dtype
        ratio = (got.double() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        assert ratio < 5e-3  # the interpreter cuts bfloat16 off where a GPU rounds


def test_repeats_bit_for_bit() -> None:
    q = torch.randn(1, 1, 50, 16, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        out = iris_kernels.attention(q, q, q, dropout=0.1, seed=SEED)
        return out, torch.autograd.grad(out.sum(), q)[0]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_outside_the_contract_falls_back_with_one_warning() -> None:
    q = torch.randn(1, 1, 5, 136)
    with pytest.warns(
        RuntimeWarning, match=r"attention runs in plain PyTorch: .* head sizes up to 128, got 136"
    ):
        out = iris_kernels.attention(q, q, q)
    torch.testing.assert_close(out, reference.attention(q, q, q, *CAUSAL, 0.0, None))
    assert torch.equal(iris_kernels.attention(q, q, q), out)  # a second warning would be an error
