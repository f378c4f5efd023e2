"""The attention op on a CPU: its masks by hand, gradients, the custom op, `torch.compile`; and on a GPU."""

from typing import Any

import iris_kernels
import pytest
import torch
from iris_kernels.ops.attention import attention_backward, attention_forward
from iris_kernels.reference import attention as reference
from torch import Tensor

OPTIONS: list[dict[str, Any]] = [
    {},
    {"mask": "block_causal", "tokens_per_step": 3},
    {"mask": "parallel", "tokens_per_step": 3},
    {"mask": "parallel", "tokens_per_step": 3, "is_block_causal": True},
    {"dropout": 0.25},
    {"mask": "block_causal", "tokens_per_step": 4, "dropout": 0.25},
]
SEED = torch.tensor([77])


def make(rows: int = 15, size: int = 16, heads: int = 2, requires_grad: bool = False) -> list[Tensor]:
    return [torch.randn(2, heads, rows, size, requires_grad=requires_grad) for _ in range(3)]


def with_seed(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "seed": SEED} if "dropout" in options else options


def seen(rows: int, mask: str, tokens_per_step: int, is_block_causal: bool) -> list[str]:
    visible = reference.visibility(rows, mask, tokens_per_step, is_block_causal, torch.device("cpu"))
    return ["".join(".x"[int(value)] for value in row) for row in visible]


def test_masks_by_hand() -> None:
    assert seen(3, "causal", 0, False) == ["x..", "xx.", "xxx"]
    assert seen(5, "block_causal", 2, False) == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]
    # Two steps of three tokens, then two queries a step.
    queries = ["xxx...xx..", "xxx...xx..", "xxxxxx..xx", "xxxxxx..xx"]
    causal = ["x.........", "xx........", "xxx.......", "xxxx......", "xxxxx.....", "xxxxxx...."]
    assert seen(10, "parallel", 3, False) == causal + queries
    assert seen(10, "parallel", 3, True) == ["xxx......."] * 3 + ["xxxxxx...."] * 3 + queries


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_definition(options: dict[str, Any]) -> None:
    q, k, v = make()
    mask = (
        options.get("mask", "causal"),
        options.get("tokens_per_step", 0),
        options.get("is_block_causal", False),
    )
    scores = (q.double() @ k.double().transpose(-1, -2)) / 4.0
    p = scores.masked_fill(~reference.visibility(15, *mask, q.device), float("-inf")).softmax(-1)
    if "dropout" in options:
        p = p * reference.dropout_keeps(4, 15, 0.25, SEED).view(p.shape) / 0.75
    out = iris_kernels.attention(q, k, v, **with_seed(options))
    torch.testing.assert_close(out, (p @ v.double()).float(), atol=1e-6, rtol=1e-6)


def test_dropout_drops_the_asked_share() -> None:
    keeps = reference.dropout_keeps(8, 128, 0.1, SEED)
    share = 1 - keeps.float().mean().item()
    assert abs(share - 0.1) < 4 * (0.09 / keeps.numel()) ** 0.5
    assert not torch.equal(keeps[0], keeps[1])
    assert not torch.equal(keeps, reference.dropout_keeps(8, 128, 0.1, SEED + 1))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_custom_op_is_sound(options: dict[str, Any]) -> None:
    q, k, v = make(requires_grad=True)
    full = {"mask": "causal", "tokens_per_step": 0, "is_block_causal": False, "dropout": 0.0} | options
    arguments = (q, k, v, *full.values(), SEED if "dropout" in options else None)
    torch.library.opcheck(attention_forward, arguments)
    out, statistics = attention_forward(*arguments)
    inputs = [tensor.detach() for tensor in (torch.randn_like(out), q, k, v, out, statistics)]
    torch.library.opcheck(attention_backward, (*inputs, *arguments[3:]))


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[5]], ids=str)
def test_compiles_whole_and_agrees_with_eager(options: dict[str, Any]) -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (2 * iris_kernels.attention(q, k, v, **with_seed(options))).square().sum()

    inputs = make(requires_grad=True)
    eager = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*inputs), inputs)
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 2, 3)}, r"attention: q is \(1, 2, 3\) float32, expected \(B, N, T, D\)"),
        ({"k": torch.zeros(2, 2, 14, 16)}, r"attention: k is \(2, 2, 14, 16\) float32, expected q's shape"),
        ({"v": torch.zeros(2, 2, 15, 16).half()}, r"attention: v is .* float16, expected q's shape"),
        ({"mask": "full"}, "attention: mask is 'full', expected one of causal, block_causal, parallel"),
        ({"mask": "block_causal"}, "tokens_per_step is 0, 'block_causal' needs >= 1"),
        ({"mask": "parallel", "tokens_per_step": 4}, r"T a multiple of 2 \* tokens_per_step - 1 = 7"),
        ({"is_block_causal": True}, "is_block_causal goes with mask='parallel', got mask='causal'"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a number in \[0, 1\)"),
        ({"dropout": 0.1, "seed": torch.zeros(1)}, r"seed is \(1,\) float32, expected \(1,\) int64 on cpu"),
    ],
)
def test_contract(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(zip("qkv", make(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        iris_kernels.attention(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [8, 24, 64, 128])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.1},
        {"mask": "block_causal", "tokens_per_step": 17},
        {"mask": "parallel", "tokens_per_step": 17, "dropout": 0.1},
        {"mask": "parallel", "tokens_per_step": 17, "is_block_causal": True},
    ],
    ids=str,
)
def test_on_a_gpu(cuda: torch.device, options: dict[str, Any], size: int, dtype: torch.dtype) -> None:
    inputs = [tensor.to(dtype) for tensor in make(rows=330, size=size, heads=3)]
    on_gpu = [tensor.to(cuda).requires_grad_() for tensor in inputs]
    options = with_seed(options)
    out = iris_kernels.attention(*on_gpu, **{**options, "seed": SEED.to(cuda)})
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, on_gpu, grad)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    full = {
        "mask": "causal",
        "tokens_per_step": 0,
        "is_block_causal": False,
        "dropout": 0.0,
        "seed": None,
    } | options
    wanted = reference.attention(*exact, *full.values())
    wanted_grads = torch.autograd.grad(wanted, exact, grad.cpu().double())
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    for got, truth in zip((out, *grads), (wanted, *wanted_grads), strict=True):
        assert (got.cpu().double() - truth).norm() / truth.norm() < limit
