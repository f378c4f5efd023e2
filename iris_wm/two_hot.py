"""Numbers of any size as a distribution over fixed values: two-hot labels (Hafner et al., 2023, DreamerV3)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from iris_wm.config import Config, Range

LIMIT = 20.0
"""Bins lie evenly from -LIMIT to LIMIT in symlog: numbers up to 5e8."""


@dataclass(frozen=True)
class TwoHot(Config):
    """Any size, as a distribution over bins that lie evenly in symlog (Hafner et al., 2023)."""

    kind: Literal["two_hot"] = field(default="two_hot", init=False)
    num_bins: Annotated[int, Range(3)] = 255
    """An odd number, so that one is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bins % 2 == 0:
            raise ValueError(f"num_bins: got {self.num_bins}, expected an odd number")


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): like x near 0, like its logarithm far from it."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (e^|x| - 1), the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot_values(num_bins: int, device: torch.device | None = None) -> Tensor:
    """(V,) float32, the number that each of V bins stands for, rising; V is odd, and the middle one 0."""
    middle = num_bins // 2
    return symexp(torch.arange(-middle, middle + 1, device=device) * (LIMIT / middle))


def two_hot(numbers: Tensor, num_bins: int) -> Tensor:
    """Labels (..., V) float32 for numbers (...): shares on the two bins next to each, whose mean is the number."""
    numbers, bins = numbers.float(), torch.arange(num_bins, device=numbers.device)
    values = two_hot_values(num_bins, numbers.device)
    low = ((symlog(numbers) / LIMIT).clamp(-1, 1).add(1) * (num_bins // 2)).long().clamp(max=num_bins - 2)
    share = ((numbers - values[low]) / (values[low + 1] - values[low])).clamp(0, 1).unsqueeze(-1)
    low = low.unsqueeze(-1)
    return (bins == low) * (1 - share) + (bins == low + 1) * share


def mean_of(shares: Tensor, values: Tensor) -> Tensor:
    """(...) of shares (..., V) of values that lie evenly around 0; opposite ones are added first, so that the huge
    values at both ends cancel where nothing has been learned of them."""
    weighted, middle = shares * values, len(values) // 2
    return (weighted[..., middle + 1 :] + weighted[..., :middle].flip(-1)).sum(-1)
