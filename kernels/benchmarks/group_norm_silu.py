"""GroupNorm with SiLU, forward and forward with backward, against PyTorch in both layouts and compiled."""

from collections.abc import Callable, Iterator
from functools import partial

import iris_kernels
import torch
import torch.nn.functional as F
from timing import Case, Shape, main
from torch import Tensor


def _stock(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, min(32, len(weight)), weight, bias, 1e-6))


def _stock_back_to_channels_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _stock(x, weight, bias).contiguous(memory_format=torch.channels_last)


def _with_backward(run: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> object:
    return torch.autograd.grad(run(*inputs), inputs, grad)


def cases(device: torch.device, dtype: torch.dtype, shape: Shape, is_short: bool) -> Iterator[Case]:
    """The maps of an autoencoder. is_short: only the kernel and PyTorch, both channels last."""
    for channels, side in shape.maps:
        x = torch.randn(shape.frames, channels, side, side, device=device, dtype=dtype)
        last = x.contiguous(memory_format=torch.channels_last)
        weight, bias = (torch.randn(channels, device=device, dtype=dtype) for _ in range(2))
        groups = min(32, channels)
        ours = partial(iris_kernels.group_norm_silu, num_groups=groups)
        rivals: list[tuple[str, Callable[..., Tensor], Tensor]] = [
            ("iris_kernels", ours, last),
            ("torch channels last", _stock_back_to_channels_last, last),
        ]
        if not is_short:
            compiled = torch.compile(_stock_back_to_channels_last, mode="max-autotune-no-cudagraphs")
            rivals += [("torch channels first", _stock, x), ("compiled channels last", compiled, last)]
        size = x.numel() * x.element_size()
        label = f"{shape.frames}x{channels}x{side}x{side} {str(dtype)[6:]}"
        for rival, run, values in rivals:
            is_ours = rival == "iris_kernels"
            plain = (values, weight, bias)
            forward = partial(run, *plain)
            yield Case(f"{label} forward", rival, forward, bytes=3.0 * size, launches=2 * is_ours)
            inputs = [tensor.detach().clone().requires_grad_() for tensor in plain]
            both = partial(_with_backward, run, inputs, torch.randn_like(values))
            yield Case(f"{label} forward+backward", rival, both, bytes=8.0 * size, launches=6 * is_ours)


if __name__ == "__main__":
    main("group_norm_silu", cases)
