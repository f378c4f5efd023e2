"""The head and the sampler: the same numbers and the very same draws as the reference."""

import pytest
import torch
from iris_kernels.arguments import Draws, HeadWeights
from iris_kernels.reference import head_sample as reference
from iris_kernels.triton_kernels import head_sample as kernels
from torch import Tensor

SEED = -987654321987
CUTS = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.6), (0.9, 10, 0.5), (0.0, 0, 1.0), (2.0, 1, 1.0)]


def with_cuts(shapes: list[tuple[int, ...]]) -> list:
    """Every shape with every cut; quick are those pairs in which each shape and each cut stands once or twice."""
    return [
        pytest.param(*shape, cut, marks=() if (i - j) % len(shapes) == 0 else pytest.mark.slow)
        for i, shape in enumerate(shapes)
        for j, cut in enumerate(CUTS)
    ]


def games(num: int, step: int) -> tuple[Tensor, Tensor]:
    """Seeds and steps of games, no two alike."""
    return SEED + torch.arange(num) * 2**33, step + torch.arange(num)


def head_inputs(rows: int, width: int, hidden: int, codes: int) -> tuple[Tensor, HeadWeights]:
    return torch.randn(rows, width), HeadWeights(
        torch.randn(width),
        torch.randn(width),
        torch.randn(hidden, width) / width**0.5,
        torch.randn(hidden),
        2 * torch.randn(codes, hidden) / hidden**0.5,
        torch.randn(codes),
        torch.randn(codes, width),
        torch.randn(9, width),
    )


@pytest.mark.parametrize(
    ("rows", "width", "hidden", "codes", "position", "cut"),
    with_cuts([(3, 256, 256, 512, 0), (17, 48, 40, 33, 8), (1, 16, 16, 4, 4), (3, 16, 20, 300, 100)]),
)
def test_head_sample(
    arena, rows: int, width: int, hidden: int, codes: int, position: int, cut: tuple[float, int, float]
) -> None:
    x, weights = head_inputs(rows, width, hidden, codes)
    where = torch.arange(position, position + rows, dtype=torch.int32)
    numbers = games(rows, 2**40 + 7)
    tokens, next_x, logits = kernels.launch_head_sample(
        arena.input(x), HeadWeights(*map(arena.input, weights)), arena.input(where),
        Draws(*map(arena.input, numbers), 65535, 3, *cut), arena.output(rows, dtype=torch.int64),
        arena.output(rows, width), arena.output(rows, codes),
    )  # fmt: skip
    draws = Draws(*numbers, 65535, 3, *cut)
    wanted_tokens, wanted_next_x, _ = reference.head_sample(x, weights, where, draws)
    assert torch.equal(tokens, wanted_tokens)
    assert torch.equal(next_x, wanted_next_x)
    in_float64 = HeadWeights(*(weight.double() for weight in weights))
    exact = reference.head_sample(x.double(), in_float64, where, draws)[2]
    torch.testing.assert_close(logits, exact.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_games", "rows_a_game", "codes", "cut"),
    with_cuts([(1, 1, 2), (8, 5, 18), (1, 40, 18), (2, 1, 3000), (3, 1, 512)]),
)
def test_sample_tokens(
    arena, num_games: int, rows_a_game: int, codes: int, cut: tuple[float, int, float]
) -> None:
    rows = num_games * rows_a_game
    logits = 3 * torch.randn(rows, codes)
    for step, stream, place in ((0, 0, 0), (5, 3, 1), (2**33, 65535, 2**31 - 50)):
        draws = Draws(*map(arena.input, games(num_games, step)), stream, place, *cut)
        got = kernels.launch_sample_tokens(arena.input(logits), draws, arena.output(rows, dtype=torch.int64))
        assert torch.equal(got, reference.sample_tokens(logits, draws))


def test_equal_logits_and_minus_infinity_are_cut_as_in_the_reference() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, -float("inf"), 0.0, 2.0, -1.0, -0.0]]).repeat(64, 1)
    for cut in ((1.0, 2, 1.0), (1.0, 0, 0.5), (1.0, 5, 0.999999)):
        draws = Draws(*games(64, 0), 0, 0, *cut)
        got = kernels.launch_sample_tokens(logits, draws, torch.full((64,), -1, dtype=torch.int64))
        assert torch.equal(got, reference.sample_tokens(logits, draws))
        assert (got != 3).all()
        if cut[1] == 2:
            assert set(got.tolist()) == {1, 2, 5}


@pytest.mark.parametrize("num_games", [1, 512])
def test_frequencies_follow_the_softmax(num_games: int) -> None:
    """512 draws, at least 7 expected of each code: enough to see noise shared between rows or of a wrong shape."""
    rows, codes = 512, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    draws = Draws(*games(num_games, 11), 0, 0, 1.0, 0, 1.0)
    tokens = kernels.launch_sample_tokens(logits.repeat(rows, 1), draws, torch.empty(rows, dtype=torch.int64))
    expected = logits.softmax(0) * rows
    chi_square = ((tokens.bincount(minlength=codes) - expected).square() / expected).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_weights(dtype: torch.dtype) -> None:
    x, weights = head_inputs(5, 64, 64, 32)
    where, draws = torch.ones(5, dtype=torch.int32), Draws(*games(5, 3), 0, 0, 0.0, 0, 1.0)
    exact = reference.head_sample(x, weights, where, draws)[2]
    cast = HeadWeights(*(weight.to(dtype) for weight in weights))
    _, _, logits = kernels.launch_head_sample(
        x, cast, where, draws, torch.empty(5, dtype=torch.int64), torch.empty(5, 64), torch.empty(5, 32)
    )
    assert (logits - exact).square().mean().sqrt() / exact.square().mean().sqrt() < 1e-2
