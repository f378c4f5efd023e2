"""Area averages against a plain computation; both resizers keep what fits."""

from fractions import Fraction

import numpy as np
import pytest

from iris_wm.envs.resize import resize_area, resize_bilinear


def area_by_hand(row, size):
    """One row of numbers, each output the exact average of the interval it covers."""
    scale = Fraction(len(row), size)
    averages = []
    for index in range(size):
        low, high = index * scale, (index + 1) * scale
        total = Fraction(0)
        for source, value in enumerate(row):
            total += max(Fraction(0), min(high, Fraction(source + 1)) - max(low, Fraction(source))) * int(
                value
            )
        averages.append(total / scale)
    return averages


@pytest.mark.parametrize(("length", "size"), [(160, 64), (210, 64), (10, 8), (9, 16)])
def test_area_averages_are_exact(length, size):
    row = np.random.default_rng(0).integers(256, size=length, dtype=np.uint8)
    expected = [round(value) for value in area_by_hand(row, size)]
    across = np.broadcast_to(row[None, :, None], (size, length, 3))
    down = np.broadcast_to(row[:, None, None], (length, size, 3))
    assert resize_area(across, size)[3, :, 1].tolist() == expected
    assert resize_area(down, size)[:, 2, 0].tolist() == expected


def test_large_frames_are_exact_too():
    frame = np.full((700, 900, 3), 255, dtype=np.uint8)
    assert (resize_area(frame, 64) == 255).all()


@pytest.mark.parametrize("resize", [resize_area, resize_bilinear])
def test_frames_that_fit_are_kept(resize):
    frame = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    assert np.array_equal(resize(frame, 64), frame)
    assert resize(frame, 32).shape == (32, 32, 3)
    assert resize(frame, 32).dtype == np.uint8
