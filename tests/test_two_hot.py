"""Two-hot numbers: labels whose mean is the number, at any size; nothing learned means 0."""

import pytest
import torch

from iris_wm.two_hot import TwoHot, mean_of, symexp, symlog, two_hot, two_hot_values

NUMBERS = torch.tensor([0.0, 0.01, -0.01, 1.0, -1.0, 0.5, 37.25, -1234.5, 1e6, -4e8])


def test_symlog_and_back():
    torch.testing.assert_close(symexp(symlog(NUMBERS)), NUMBERS)


@pytest.mark.parametrize("num_bins", [41, 255])
def test_labels_are_shares_whose_mean_is_the_number(num_bins):
    labels, values = two_hot(NUMBERS, num_bins), two_hot_values(num_bins)
    assert (labels >= 0).all()
    assert ((labels > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(labels.sum(-1), torch.ones(len(NUMBERS)))
    torch.testing.assert_close(
        mean_of(labels.double(), values.double()).float(), NUMBERS, rtol=1e-3, atol=1e-4
    )
    beside = labels.argmax(-1)
    assert ((values[beside] - NUMBERS).abs() <= (values[1:] - values[:-1]).max()).all()


def test_zero_is_a_bin_and_too_large_numbers_are_the_last():
    values = two_hot_values(255)
    assert two_hot(torch.zeros(1), 255)[0, 127] == 1
    assert values[127] == 0
    assert two_hot(torch.tensor([1e30, -1e30]), 255)[[0, 1], [254, 0]].tolist() == [1, 1]
    assert torch.equal(values, -values.flip(0))


def test_nothing_learned_means_zero():
    assert mean_of(torch.zeros(2, 255).softmax(-1), two_hot_values(255)).tolist() == [0, 0]


def test_an_even_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="num_bins: got 40, expected an odd number"):
        TwoHot(num_bins=40)
