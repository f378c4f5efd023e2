"""Buffers that notice a kernel touching what is not its own."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

BORDER = 256  # elements on either side
SENTINEL = 3.0e7


class Arena:
    """Hands out tensors that lie inside larger buffers.

    A read outside an input brings in huge numbers and spoils the result; a write outside an output changes
    the border; an output starts as NaN, so that what is not written shows.
    """

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, int]] = []
        self._inputs: list[tuple[Tensor, Tensor]] = []

    def _place(self, tensor: Tensor) -> Tensor:
        size = tensor.numel()
        sentinel = SENTINEL if tensor.is_floating_point() else 1_000_003
        buffer = torch.full((size + 2 * BORDER,), sentinel, dtype=tensor.dtype)
        buffer[BORDER : BORDER + size] = tensor.reshape(-1)
        self._buffers.append((buffer, size))
        return buffer[BORDER : BORDER + size].view(tensor.shape)

    def input(self, tensor: Tensor) -> Tensor:
        """The same values, contiguous, in guarded memory; they must not change."""
        placed = self._place(tensor)
        self._inputs.append((placed, tensor.clone()))
        return placed

    def state(self, tensor: Tensor) -> Tensor:
        """The same values in guarded memory; they may change."""
        return self._place(tensor)

    def output(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Guarded memory full of NaN (or of -1 for integers)."""
        return self._place(torch.full(shape, float("nan") if dtype.is_floating_point else -1, dtype=dtype))

    def check(self) -> None:
        for buffer, size in self._buffers:
            sentinel = torch.tensor(SENTINEL if buffer.is_floating_point() else 1_000_003, dtype=buffer.dtype)
            assert (buffer[:BORDER] == sentinel).all(), "something was written before a tensor"
            assert (buffer[BORDER + size :] == sentinel).all(), "something was written after a tensor"
        for placed, before in self._inputs:
            assert torch.equal(placed, before), "an input was changed"


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An `Arena` that is checked when the test ends."""
    made = Arena()
    yield made
    made.check()


@pytest.fixture(autouse=True)
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public call runs the kernel."""
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "triton")
    torch.manual_seed(0)
