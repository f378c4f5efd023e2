"""Token pictures: stable colours, squares in reading order, and bad input."""

import numpy as np
import pytest
import torch

from iris_wm.visualization import drawing
from iris_wm.visualization.tokens import (
    attention_map,
    code_colors,
    codebook_atlas,
    entropy_map,
    token_grid,
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


def test_token_grid_is_in_reading_order():
    tokens = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5])
    image = np.asarray(token_grid(tokens, 16, cell=20, show_codes=False))
    assert image.shape == (60, 60, 3)
    assert np.array_equal(image[10::20, 10::20].reshape(9, 3), code_colors(16)[tokens.numpy()])
    assert (image[:20, :20] == image[0, 0]).all()


def test_codes_are_written_where_there_is_room():
    tokens = torch.arange(4)
    assert token_grid(tokens, 16, cell=64).getcolors(9999) != token_grid(
        tokens, 16, cell=64, show_codes=False
    )
    small = token_grid(tokens, 16, cell=10)
    assert np.array_equal(np.asarray(small), np.asarray(token_grid(tokens, 16, cell=10, show_codes=False)))


def test_overlay_mixes_frame_and_code_colours():
    tokens = torch.arange(4)
    clear = token_overlay(FRAME, tokens, 16, scale=2, opacity=0, show_codes=False)
    assert np.array_equal(np.asarray(clear), np.asarray(drawing.frame_image(FRAME, 2)))
    full = np.asarray(token_overlay(FRAME, tokens, 16, scale=2, opacity=1, show_codes=False))
    assert np.array_equal(full[4::8, 4::8].reshape(4, 3), code_colors(16)[:4])


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


def test_atlas_in_code_order():
    patches = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    patches[0, 0], patches[1, 1] = 200, 200
    image = np.asarray(codebook_atlas(patches, torch.tensor([1, 9]), sort_by_usage=False))
    first, second = (np.nonzero((image == color).all(-1))[1] for color in ((200, 0, 0), (0, 200, 0)))
    assert first.max() < second.min()


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


def test_attention_map_shows_shares_and_the_hottest_square():
    frames = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    weights = torch.zeros(3, 4)
    weights[2, 3] = 1.0
    image = np.asarray(attention_map(frames, weights, scale=4)).astype(int).sum(-1)
    top = 14 + 44 + 18
    columns = [image[top : top + 32, 14 + i * 38 : 14 + i * 38 + 32] for i in range(3)]
    assert columns[2][24, 24] > columns[2][8, 8] == columns[0][24, 24]


def test_attention_on_actions_is_a_strip_of_its_own():
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert attention_map(frames, torch.rand(2, 5)).height > attention_map(frames, torch.rand(2, 4)).height


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: token_grid(torch.tensor([1, 16, 0, 0]), 16), "codes of 0 to 15, got 0 to 16"),
        (lambda: token_grid(torch.zeros(4), 16), "expected integers"),
        (lambda: token_grid(torch.zeros(5, dtype=torch.long), 16), "5 tokens are no square"),
        (lambda: token_grid(torch.zeros(6, dtype=torch.long), 16, rows=4), "divisor of 6 tokens, got 4"),
        (lambda: token_overlay(FRAME, torch.arange(4), 16, opacity=2), "opacity: expected 0 to 1, got 2"),
        (lambda: code_colors(0), "codebook_size: .* got 0"),
        (lambda: codebook_atlas(FRAME[None], torch.ones(2)), "counts: expected 1 numbers"),
        (lambda: codebook_atlas(FRAME[None], -torch.ones(1)), "at least 0"),
        (lambda: entropy_map(FRAME, torch.tensor([float("nan")] * 4), max_entropy=1.0), "entropy: .*finite"),
        (lambda: entropy_map(FRAME, torch.ones(4), max_entropy=0.0), "max_entropy: .* got 0"),
        (lambda: attention_map(FRAME[None], torch.ones(2, 4)), r"shape \(1, K\)"),
        (lambda: attention_map(FRAME[None], torch.ones(1, 4), steps=[1, 2]), "steps: expected 1 numbers"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
