"""GroupNorm with SiLU against float64, forward and backward."""

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from iris_kernels.triton_kernels import group_norm_silu as kernels

EPS = 1e-6


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """A (B, H, W, C) buffer seen as (B, C, H, W)."""
    return tensor.permute(0, 3, 1, 2)


@pytest.mark.parametrize("mean", [0.0, 20.0])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "groups"),
    [
        (2, 64, 8, 8, 32),
        (3, 16, 1, 1, 4),
        (1, 128, 5, 7, 32),
        (1, 64, 33, 33, 32),
        (1, 4, 17, 3, 1),
        (1, 32, 4, 4, 32),
    ],
)
def test_forward_and_backward(
    arena, batch: int, channels: int, height: int, width: int, groups: int, mean: float
) -> None:
    shape = (batch, height, width, channels)
    x, grad = mean + 2 * torch.randn(shape), torch.randn(shape)
    weight, bias = torch.randn(channels), torch.randn(channels)
    placed = channels_last(arena.input(x)), arena.input(weight), arena.input(bias)
    out, *statistics = kernels.launch_forward(*placed, groups, EPS, channels_last(arena.output(*shape)))
    grads = kernels.launch_backward(
        channels_last(arena.input(grad)), *placed, *statistics, groups, channels_last(arena.output(*shape))
    )
    exact = [tensor.double().requires_grad_() for tensor in (channels_last(x), weight, bias)]
    wanted = F.silu(F.group_norm(exact[0], groups, exact[1], exact[2], EPS))
    wanted_grads = torch.autograd.grad(wanted, exact, channels_last(grad).double())
    torch.testing.assert_close(out, wanted.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads[0], wanted_grads[0].float(), atol=1e-5, rtol=1e-5)
    for got, exact_grad in zip(grads[1:], wanted_grads[1:], strict=True):
        scale = exact_grad.abs().max().item()
        torch.testing.assert_close(got, exact_grad.float(), atol=1e-5 * max(scale, 1.0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_public_call_keeps_channels_last(dtype: torch.dtype) -> None:
    x = torch.randn(2, 32, 6, 6).to(dtype).requires_grad_()  # channels first: taken, given back channels-last
    weight, bias = torch.randn(32, requires_grad=True), torch.randn(32, requires_grad=True)
    out = iris_kernels.group_norm_silu(x, weight, bias, 8)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    grads = torch.autograd.grad(out.float().square().sum(), (x, weight, bias))
    wanted = F.silu(F.group_norm(x.double(), 8, weight.double(), bias.double(), EPS))
    wanted_grads = torch.autograd.grad(wanted.square().sum(), (x, weight, bias))
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for got, exact in zip((out, *grads), (wanted, *wanted_grads), strict=True):
        assert (got.double() - exact).norm() / exact.norm() < limit
