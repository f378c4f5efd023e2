"""Dropout that costs little on a CPU: four decisions from each random number, and no mask of floats."""

import torch
from torch import Tensor

_LEVELS = 2**16


def keeps(shape: torch.Size, dropout: float) -> Tensor:
    """A bool tensor on the CPU, True with probability 1 - dropout (to 1 / 2^17), from PyTorch's own generator."""
    num = shape.numel()
    numbers = torch.empty((num + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (numbers.view(torch.int16)[:num] >= round(dropout * _LEVELS) - _LEVELS // 2).view(shape)


def add_dropped(residual: Tensor, branch: Tensor, dropout: float) -> Tensor:
    """See `iris_kernels.add_dropped`."""
    kept = torch.where(keeps(branch.shape, dropout), branch, 0.0)
    return torch.add(residual, kept, alpha=1.0 / (1.0 - dropout))
