"""Dropout on a CPU drops as often as asked, repeats with the seed, and has the gradient of what it did."""

import pytest
import torch
from iris_kernels import add_dropped
from iris_kernels.cpu_kernels.dropout import keeps


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_as_often_as_asked(dropout):
    torch.manual_seed(0)
    kept = keeps(torch.Size([1000, 1003]), dropout)
    assert kept.dtype == torch.bool
    assert kept.shape == (1000, 1003)
    assert kept.float().mean().item() == pytest.approx(1 - dropout, abs=2e-3)
    for dim in (0, 1):  # no row or column more than another
        rates = kept.float().mean(dim)
        assert rates.std().item() == pytest.approx((dropout * (1 - dropout) / 1000) ** 0.5, rel=0.15)
    neighbours = (kept[:, 1:] & kept[:, :-1]).float().mean().item()
    assert neighbours == pytest.approx((1 - dropout) ** 2, abs=3e-3)


def test_repeatable():
    torch.manual_seed(1)
    first = keeps(torch.Size([37]), 0.5)
    assert not torch.equal(keeps(torch.Size([37]), 0.5), first)
    torch.manual_seed(1)
    assert torch.equal(keeps(torch.Size([37]), 0.5), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_added_and_its_gradient(dtype):
    torch.manual_seed(0)
    residual = torch.randn(50, 40, requires_grad=True)
    branch = torch.ones(50, 40, dtype=dtype, requires_grad=True)
    added = add_dropped(residual, branch, 0.2)
    assert added.dtype == torch.float32
    difference = (added - residual).detach()
    assert torch.allclose(difference[difference > 0.5], torch.tensor(1.25))
    assert torch.allclose(difference[difference <= 0.5], torch.tensor(0.0))
    added.sum().backward()
    assert torch.equal(residual.grad, torch.ones(50, 40))
    assert torch.allclose(branch.grad.float(), difference, atol=1e-5)


def test_without_dropout_it_is_a_sum():
    first, second = torch.randn(4), torch.randn(4)
    assert torch.equal(add_dropped(first, second, 0.0), first + second)
