"""GroupNorm with SiLU on a CPU: the custom op and `torch.compile`; and on a GPU."""

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from iris_kernels.ops.group_norm_silu import group_norm_silu_backward, group_norm_silu_forward
from torch import Tensor


def make(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 16, 5, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(16, requires_grad=True), torch.randn(16, requires_grad=True)


def test_equals_torch_and_keeps_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    x, weight, bias = make()
    out = iris_kernels.group_norm_silu(x, weight, bias, 4)
    assert torch.equal(out, F.silu(F.group_norm(x, 4, weight, bias, 1e-6)))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_custom_op_is_sound() -> None:
    x, weight, bias = make()
    torch.library.opcheck(group_norm_silu_forward, (x, weight, bias, 4, 1e-6))
    out, mean, rstd = group_norm_silu_forward(x, weight, bias, 4, 1e-6)
    inputs = [tensor.detach() for tensor in (torch.randn_like(out), x, weight, bias, mean, rstd)]
    torch.library.opcheck(group_norm_silu_backward, (*inputs, 4, 1e-6))


def test_compiles_whole_and_agrees_with_eager() -> None:
    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return iris_kernels.group_norm_silu(x, weight, bias, 4).square().sum()

    inputs = make()
    eager = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*inputs), inputs)
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)


def test_what_torch_does_with_channels_last() -> None:
    """Why the kernel exists: the installed torch keeps channels-last on a CPU and gives it up elsewhere."""
    x = torch.empty(2, 64, 8, 8, device="meta", memory_format=torch.channels_last)
    assert F.silu(x).is_contiguous(memory_format=torch.channels_last)
    kept = F.group_norm(x, 32).is_contiguous(memory_format=torch.channels_last)
    if kept:
        pytest.skip("this torch keeps channels-last in group_norm: time the kernel against it")


def test_contract() -> None:
    x, weight, bias = make()
    with pytest.raises(ValueError, match=r"x is \(2, 16, 15\) float32, expected \(B, C, H, W\)"):
        iris_kernels.group_norm_silu(x.flatten(2), weight, bias, 4)
    with pytest.raises(
        ValueError, match=r"x is \(2, 16, 5, 3\) float32, expected C divisible by num_groups=5"
    ):
        iris_kernels.group_norm_silu(x, weight, bias, 5)
    with pytest.raises(ValueError, match=r"bias is \(15,\) float32, expected \(16,\) of a floating dtype"):
        iris_kernels.group_norm_silu(x, weight, bias[1:], 4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("channels", "side"), [(64, 64), (128, 8), (512, 9)])
def test_on_a_gpu(cuda: torch.device, channels: int, side: int, dtype: torch.dtype) -> None:
    x = (3 + torch.randn(4, channels, side, side)).to(dtype).contiguous(memory_format=torch.channels_last)
    inputs = [x, torch.randn(channels), torch.randn(channels)]
    on_gpu = [tensor.to(cuda).requires_grad_() for tensor in inputs]
    out = iris_kernels.group_norm_silu(*on_gpu, 32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, on_gpu, grad)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    wanted = F.silu(F.group_norm(exact[0], 32, exact[1], exact[2], 1e-6))
    wanted_grads = torch.autograd.grad(wanted, exact, grad.cpu().double())
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    for got, truth in zip((out, *grads), (wanted, *wanted_grads), strict=True):
        assert (got.cpu().double() - truth).norm() / truth.norm() < limit
