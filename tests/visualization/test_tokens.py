"""Token pictures: stable colours, squares in reading order, and bad input."""

import numpy as np
import pytest
import torch

from iris_wm.visualization import drawing
from iris_wm.visualization.tokens import (
    code_colors,
    codebook_atlas,
    entropy_map,
    token_overlay,
)

FRAME = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)


def test_a_code_has_one_colour_whatever_the_codebook_size():
    assert np.array_equal(code_colors(512)[:64], code_colors(64))
    assert len(np.unique(code_colors(512), axis=0)) > 500


def test_neighbouring_codes_are_told_apart_and_none_is_near_black_or_white():
    colors = code_colors(512).astype(int)
    assert np.abs(np.diff(colors, axis=0)).sum(1).min() > 60
    assert colors.mean(1).min() > 60
    assert colors.mean(1).max() < 235


def test_overlay_mixes_frame_and_code_colours_in_reading_order():
    tokens = torch.tensor([3, 1, 4, 1])
    image = np.asarray(token_overlay(FRAME, tokens, 16, scale=2)).astype(int)  # too small to write codes
    frame = np.asarray(drawing.frame_image(FRAME, 2)).astype(int)
    colors = code_colors(16)[tokens.numpy()].reshape(2, 2, 3).repeat(8, 0).repeat(8, 1).astype(int)
    assert np.abs(image - (0.55 * frame + 0.45 * colors)).max() <= 1


def test_codes_are_written_where_there_is_room():
    flat, tokens = torch.full((3, 64, 64), 90, dtype=torch.uint8), torch.arange(4)
    colors = token_overlay(flat, tokens, 16, scale=2).getcolors(99999)
    assert colors is not None
    assert (255, 255, 255) in [color for _, color in colors]


def test_atlas_puts_the_most_used_code_first_and_dims_unused_ones():
    patches = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    patches[0, 0], patches[1, 1], patches[2, 2] = 200, 200, 200
    image = np.asarray(codebook_atlas(patches, torch.tensor([1, 0, 50]), scale=4, columns=3))
    red, green, blue = (
        np.nonzero((image == color).all(-1))[1] for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    )
    assert len(red) == len(blue) == 16 * 16
    assert blue.max() < red.min()
    assert len(green) == 0


def test_entropy_map_is_hotter_where_the_model_is_unsure():
    frame = torch.full((3, 8, 8), 40, dtype=torch.uint8)
    image = np.asarray(entropy_map(frame, torch.tensor([0.0, 0.5, 1.0, 2.0]), max_entropy=2.0, scale=4))
    squares = image[32:64, 12 + 32 + 12 : 12 + 32 + 12 + 32].astype(int)
    heat = [
        squares[:16, :16].sum(),
        squares[:16, 16:].sum(),
        squares[16:, :16].sum(),
        squares[16:, 16:].sum(),
    ]
    assert heat == sorted(heat)
    assert heat[0] < heat[-1]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: token_overlay(FRAME, torch.tensor([1, 16, 0, 0]), 16), "codes of 0 to 15, got 0 to 16"),
        (lambda: token_overlay(FRAME, torch.zeros(4), 16), "expected integers"),
        (lambda: token_overlay(FRAME, torch.zeros(5, dtype=torch.long), 16), "tokens: got 5, expected"),
        (lambda: code_colors(0), "codebook_size: .* got 0"),
        (lambda: codebook_atlas(FRAME[None], torch.ones(2)), "counts: expected 1 numbers"),
        (lambda: codebook_atlas(FRAME[None], -torch.ones(1)), "at least 0"),
        (lambda: entropy_map(FRAME, torch.tensor([float("nan")] * 4), max_entropy=1.0), "entropy: .*finite"),
        (lambda: entropy_map(FRAME, torch.ones(4), max_entropy=0.0), "max_entropy: .* got 0"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
