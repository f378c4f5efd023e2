"""Film strips: where the pixels land, what is drawn where a row ends, and bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from iris_wm.visualization import drawing
from iris_wm.visualization.film_strip import film_strip


def moving_square(num_frames: int, color: tuple[int, int, int], size: int = 8) -> torch.Tensor:
    """(T, 3, size, size) uint8: one coloured pixel that moves right on a dark ground."""
    frames = torch.full((num_frames, 3, size, size), 7, dtype=torch.uint8)
    for step in range(num_frames):
        frames[step, :, 2, step % size] = torch.tensor(color, dtype=torch.uint8)
    return frames


def blocks_of(image: Image.Image, color: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Bounding boxes (left, top, width, height) of the connected columns of a colour."""
    mask = (np.asarray(image) == color).all(-1)
    columns = np.flatnonzero(mask.any(0))
    boxes = []
    for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
        rows = np.flatnonzero(mask[:, run].any(1))
        boxes.append((int(run[0]), int(rows[0]), len(run), int(rows[-1] - rows[0] + 1)))
    return boxes


def test_every_pixel_is_a_sharp_square_at_an_even_distance():
    red = (250, 10, 20)
    image = film_strip({"real": moving_square(4, red)}, scale=5)
    boxes = blocks_of(image, red)
    assert [(width, height) for _, _, width, height in boxes] == [(5, 5)] * 4
    # A column is 8 pixels of 5 and a gap of 4; the square moves 5 further each step.
    assert np.diff([left for left, *_ in boxes]).tolist() == [8 * 5 + 4 + 5] * 3
    assert len({top for _, top, *_ in boxes}) == 1


def test_rows_stand_below_each_other_in_the_order_given():
    red, green = (250, 10, 20), (10, 250, 20)
    image = film_strip({"real": moving_square(3, red), "dreamed": moving_square(3, green)}, scale=4)
    (left, top, *_), (green_left, green_top, *_) = blocks_of(image, red)[0], blocks_of(image, green)[0]
    assert left == green_left
    assert green_top - top == 8 * 4 + 4


def test_num_frames_spreads_the_columns_from_first_to_last():
    red = (250, 10, 20)
    frames = torch.zeros(9, 3, 8, 8, dtype=torch.uint8)
    for shown in (0, 4, 8):
        frames[shown, :, 0, 0] = torch.tensor(red, dtype=torch.uint8)
    image = film_strip({"real": frames}, scale=2, num_frames=3)
    assert len(blocks_of(image, red)) == 3
    assert image.width < film_strip({"real": frames}, scale=2).width


def test_a_shorter_row_stays_empty_where_it_ended():
    green = (10, 250, 20)
    rows = {"real": moving_square(5, (250, 10, 20)), "dreamed": moving_square(2, green)}
    image = film_strip(rows, scale=8)
    assert len(blocks_of(image, green)) == 2
    assert len(blocks_of(image, drawing.PANEL)) >= 3


def test_difference_row_is_black_where_rows_agree_and_bright_where_not():
    first = torch.full((2, 3, 4, 4), 90, dtype=torch.uint8)
    second = first.clone()
    second[1, :, 0, 0] = 140
    image = film_strip(
        {"real": first, "reconstructed": second}, scale=3, difference=("real", "reconstructed")
    )
    assert blocks_of(image, (100, 100, 100))[0][2:] == (3, 3)  # |90 - 140| doubled
    assert blocks_of(image, (0, 0, 0))


def test_the_beginning_of_the_dream_is_marked_between_its_columns():
    rows = {"dreamed": moving_square(6, (250, 10, 20))}
    plain, marked = film_strip(rows, scale=4), film_strip(rows, scale=4, dream_starts_at=3)
    assert marked.width > plain.width
    line = [box for box in blocks_of(marked, drawing.DREAM) if box[2] == 3 and box[3] > 8 * 4]
    lefts = [left for left, *_ in blocks_of(marked, (250, 10, 20))]
    assert any(lefts[2] < box[0] < lefts[3] for box in line)


def test_gray_frames_are_drawn_as_gray():
    image = film_strip({"real": torch.full((1, 1, 4, 4), 123, dtype=torch.uint8)}, scale=2)
    assert blocks_of(image, (123, 123, 123))[0][2:] == (8, 8)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({}, {}, "rows: expected at least one label"),
        ({"real": torch.zeros(2, 3, 4, 4)}, {}, r"rows\['real'\]: expected a uint8 tensor .* got float32"),
        ({"real": torch.zeros(3, 4, 4, dtype=torch.uint8)}, {}, r"of shape \(3, 4, 4\)"),
        ({"real": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, {}, "at least one frame"),
        (
            {
                "real": torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
                "dreamed": torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            },
            {},
            "frames of one size",
        ),
        ({"real": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, {"scale": 0}, "scale: .* got 0"),
        ({"real": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, {"num_frames": 0}, "num_frames: .* got 0"),
        (
            {"real": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)},
            {"difference": ("real", "dream")},
            "got 'dream'",
        ),
    ],
)
def test_bad_input_is_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        film_strip(rows, **options)
