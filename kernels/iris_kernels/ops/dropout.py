"""A residual branch dropped and added, as the transformer does twice a layer."""

import torch
from torch import Tensor

from iris_kernels.backend import use_c
from iris_kernels.cpu_kernels import dropout as cpu_kernel


def add_dropped(residual: Tensor, branch: Tensor, dropout: float) -> Tensor:
    """`residual + dropout(branch)`, drawn by PyTorch's own generator. Differentiable.

    Args:
        residual, branch: of one shape, any floating dtypes.
        dropout: probability in [0, 1) that an element of the branch is dropped.
    """
    if not dropout:
        return residual + branch
    if use_c(branch.device):
        return cpu_kernel.add_dropped(residual, branch, dropout)
    return residual + torch.nn.functional.dropout(branch, dropout)
