"""GroupNorm with SiLU, forward and forward with backward, against PyTorch in both layouts and compiled."""

from collections.abc import Callable, Iterator
from functools import partial

import iris_kernels
import torch
import torch.nn.functional as F
from timing import Case, main
from torch import Tensor

GROUPS = 32


def _stock(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, 1e-6))


def _stock_back_to_channels_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _stock(x, weight, bias).contiguous(memory_format=torch.channels_last)


def _with_backward(run: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> object:
    return torch.autograd.grad(run(*inputs), inputs, grad)


def cases(device: torch.device, is_small: bool) -> Iterator[Case]:
    """The shapes of IRIS's autoencoder: 64 to 8 pixels a side."""
    shapes = ((2, 64, 8),) if is_small else ((256, 64, 64), (256, 64, 32), (256, 64, 16), (256, 64, 8))
    for dtype in (torch.float32,) if is_small else (torch.bfloat16, torch.float32):
        for batch, channels, side in shapes:
            x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            last = x.contiguous(memory_format=torch.channels_last)
            weight, bias = (torch.randn(channels, device=device, dtype=dtype) for _ in range(2))
            rivals: list[tuple[str, Callable[..., Tensor], Tensor]] = [
                ("iris_kernels", lambda x, w, b: iris_kernels.group_norm_silu(x, w, b, GROUPS), last),
                ("torch channels first", _stock, x),
                ("torch channels last", _stock_back_to_channels_last, last),
            ]
            if not is_small:
                compiled = torch.compile(_stock_back_to_channels_last, mode="max-autotune-no-cudagraphs")
                rivals.append(("compiled channels last", compiled, last))
            size = x.numel() * x.element_size()
            shape = f"{batch}x{channels}x{side}x{side} {str(dtype)[6:]}"
            for rival, run, values in rivals:
                plain = (values, weight, bias)
                yield Case(f"{shape} forward", rival, partial(run, *plain), bytes=3.0 * size)
                inputs = [tensor.detach().clone().requires_grad_() for tensor in plain]
                grad = torch.randn_like(values)
                yield Case(
                    f"{shape} forward+backward",
                    rival,
                    partial(_with_backward, run, inputs, grad),
                    bytes=8.0 * size,
                )


if __name__ == "__main__":
    main("group_norm_silu", cases)
