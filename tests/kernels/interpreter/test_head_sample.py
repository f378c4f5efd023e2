"""The head and the sampler: the same numbers and the very same draws as the reference."""

import pytest
import torch
from iris_kernels.reference import head_sample as reference
from iris_kernels.triton_kernels import head_sample as kernels
from torch import Tensor

SEED = -987654321987
CUTS = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.6), (0.9, 10, 0.5), (0.0, 0, 1.0), (2.0, 1, 1.0)]


def games(num: int, step: int) -> tuple[Tensor, Tensor]:
    """Seeds and steps of games, no two alike."""
    return SEED + torch.arange(num) * 2**33, step + torch.arange(num)


def head_inputs(groups: int, rows: int, width: int, hidden: int, codes: int) -> list[Tensor]:
    return [
        torch.randn(groups, rows, width),
        torch.randn(groups, width),
        torch.randn(groups, width),
        torch.randn(groups, hidden, width) / width**0.5,
        torch.randn(groups, hidden),
        2 * torch.randn(groups, codes, hidden) / hidden**0.5,
        torch.randn(groups, codes),
        torch.randn(groups, codes, width),
        torch.randn(groups, 9, width),
    ]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("groups", "rows", "width", "hidden", "codes", "position"),
    [(1, 3, 256, 256, 512, 0), (2, 17, 48, 40, 33, 8), (1, 1, 16, 16, 4, 4), (1, 3, 16, 20, 300, 100)],
)
def test_head_sample(
    arena,
    groups: int,
    rows: int,
    width: int,
    hidden: int,
    codes: int,
    position: int,
    cut: tuple[float, int, float],
) -> None:
    inputs = head_inputs(groups, rows, width, hidden, codes)
    numbers = [torch.arange(position, position + rows, dtype=torch.int32), *games(rows, 2**40 + 7)]
    tokens, next_x, logits = kernels.launch_head_sample(
        *(arena.input(tensor) for tensor in (*inputs, *numbers)), 65535, 3, *cut,
        arena.output(groups, rows, dtype=torch.int64), arena.output(groups, rows, width),
        arena.output(groups, rows, codes),
    )  # fmt: skip
    wanted_tokens, wanted_next_x, _ = reference.head_sample(*inputs, *numbers, 65535, 3, *cut)
    assert torch.equal(tokens, wanted_tokens)
    assert torch.equal(next_x, wanted_next_x)
    exact = reference.head_sample(*(tensor.double() for tensor in inputs), *numbers, 65535, 3, *cut)[2]
    torch.testing.assert_close(logits, exact.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("num_games", "rows_a_game", "codes"), [(1, 1, 2), (3, 1, 512), (8, 5, 18), (1, 40, 18), (2, 1, 3000)]
)
def test_sample_tokens(
    arena, num_games: int, rows_a_game: int, codes: int, cut: tuple[float, int, float]
) -> None:
    rows = num_games * rows_a_game
    logits = 3 * torch.randn(rows, codes)
    for step, stream, place in ((0, 0, 0), (5, 3, 1), (2**33, 65535, 2**31 - 50)):
        numbers = games(num_games, step)
        got = kernels.launch_sample_tokens(
            *(arena.input(tensor) for tensor in (logits, *numbers)), stream, place, *cut,
            arena.output(rows, dtype=torch.int64),
        )  # fmt: skip
        assert torch.equal(got, reference.sample_tokens(logits, *numbers, stream, place, *cut))


def test_equal_logits_and_minus_infinity_are_cut_as_in_the_reference() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, -float("inf"), 0.0, 2.0, -1.0, -0.0]]).repeat(64, 1)
    numbers = games(64, 0)
    for cut in ((1.0, 2, 1.0), (1.0, 0, 0.5), (1.0, 5, 0.999999)):
        got = kernels.launch_sample_tokens(
            logits, *numbers, 0, 0, *cut, torch.full((64,), -1, dtype=torch.int64)
        )
        assert torch.equal(got, reference.sample_tokens(logits, *numbers, 0, 0, *cut))
        assert (got != 3).all()
        if cut[1] == 2:
            assert set(got.tolist()) == {1, 2, 5}


@pytest.mark.parametrize("num_games", [1, 64, 4096])
def test_frequencies_follow_the_softmax(num_games: int) -> None:
    rows, codes = 4096, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    tokens = kernels.launch_sample_tokens(
        logits.repeat(rows, 1), *games(num_games, 11), 0, 0, 1.0, 0, 1.0, torch.empty(rows, dtype=torch.int64)
    )
    expected = logits.softmax(0) * rows
    chi_square = ((tokens.bincount(minlength=codes) - expected).square() / expected).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_weights(dtype: torch.dtype) -> None:
    inputs = head_inputs(1, 5, 64, 64, 32)
    numbers = [torch.ones(5, dtype=torch.int32), *games(5, 3), 0, 0]
    exact = reference.head_sample(*inputs, *numbers, 0.0, 0, 1.0)[2]
    cast = [inputs[0], *(tensor.to(dtype) for tensor in inputs[1:])]
    _, _, logits = kernels.launch_head_sample(
        *cast, *numbers, 0.0, 0, 1.0, torch.empty(1, 5, dtype=torch.int64), torch.empty(1, 5, 64),
        torch.empty(1, 5, 32),
    )  # fmt: skip
    assert (logits - exact).square().mean().sqrt() / exact.square().mean().sqrt() < 1e-2
