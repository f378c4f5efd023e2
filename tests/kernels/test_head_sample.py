"""The head and the sampler on a CPU: frequencies, cuts, the custom ops, `torch.compile`; and on a GPU."""

from typing import Any

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from iris_kernels import HeadWeights
from iris_kernels.arguments import Draws
from iris_kernels.reference import head_sample as reference
from torch import Tensor

SEED = 2**40 + 3


def games(num: int, step: int = 0, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """Seeds and steps of games, no two alike."""
    return seed + torch.arange(num) * 2**33, step + torch.arange(num)


def positions(num: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + num, dtype=torch.int32)


def head_inputs(
    rows: int = 5, width: int = 16, hidden: int = 24, codes: int = 12
) -> tuple[Tensor, HeadWeights]:
    return torch.randn(rows, width), HeadWeights(
        torch.randn(width),
        torch.randn(width),
        torch.randn(hidden, width) / width**0.5,
        torch.randn(hidden),
        torch.randn(codes, hidden) / hidden**0.5,
        torch.randn(codes),
        torch.randn(codes, width),
        torch.randn(9, width),
    )


def test_head_equals_its_parts() -> None:
    x, w = head_inputs()
    with torch.no_grad():
        tokens, next_x, logits = iris_kernels.head_sample(x, w, positions(5, 2), *games(5, 1), 3, place=2)
    normed = F.layer_norm(x, (16,), w.ln_weight, w.ln_bias)
    hidden = F.linear(normed, w.fc_1_weight, w.fc_1_bias).relu()
    torch.testing.assert_close(logits, F.linear(hidden, w.fc_2_weight, w.fc_2_bias), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(next_x, w.token_embedding[tokens] + w.position_embedding[2:7])
    assert torch.equal(tokens, iris_kernels.sample_tokens(logits, *games(5, 1), 3, place=2))


def test_temperature_zero_takes_the_likeliest_and_a_late_position_the_last_row() -> None:
    x, w = head_inputs()
    tokens, next_x, logits = iris_kernels.head_sample(x, w, positions(5, 8), *games(5), temperature=0.0)
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(next_x, w.token_embedding[tokens] + w.position_embedding[8])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    rows, codes = 50_000, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    for num_games in (1, 100, rows):  # rows differ by place alone, by both, by seed and step alone
        tokens = iris_kernels.sample_tokens(
            logits.repeat(rows, 1), *games(num_games, 11), temperature=temperature
        )
        assert_frequencies(tokens, (logits / temperature).softmax(0) * rows)


def assert_frequencies(tokens: Tensor, expected: Tensor) -> None:
    codes = len(expected)
    chi_square = ((tokens.bincount(minlength=codes) - expected).square() / expected).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_steps_places_streams_and_seeds_draw_differently() -> None:
    logits = torch.zeros(256, 256)
    draws = [
        iris_kernels.sample_tokens(logits, torch.tensor([seed]), torch.tensor([step]), stream, place=place)
        for seed, step, stream, place in (
            (SEED, 0, 0, 0),
            (SEED, 1, 0, 0),
            (SEED, 2**32, 0, 0),
            (SEED, 0, 1, 0),
            (SEED + 1, 0, 0, 0),
            (SEED + 2**32, 0, 0, 0),
            (SEED, 0, 0, 256),
        )
    ]
    for index, draw in enumerate(draws):
        assert draw.unique().numel() > 120
        for other in draws[:index]:
            assert (draw == other).float().mean() < 0.05


def test_a_game_draws_the_same_alone_beside_others_and_one_row_after_the_other() -> None:
    num_games, num_places = 5, 4
    logits = torch.randn(num_games * num_places, 30)
    seed, step = games(num_games, 3)
    for cut in ({}, {"top_k": 7, "top_p": 0.9, "temperature": 0.7}):
        together = iris_kernels.sample_tokens(logits, seed, step, 9, place=2, **cut).view(
            num_games, num_places
        )
        others = torch.tensor([3, 1])
        for game in range(num_games):
            own = logits.view(num_games, num_places, 30)[game]
            number = seed[game : game + 1], step[game : game + 1]
            assert torch.equal(iris_kernels.sample_tokens(own, *number, 9, place=2, **cut), together[game])
            for place in range(num_places):
                single = iris_kernels.sample_tokens(
                    own[place : place + 1], *number, 9, place=2 + place, **cut
                )
                assert single.item() == together[game, place]
        fewer = logits.view(num_games, -1)[others].view(-1, 30)
        drawn = iris_kernels.sample_tokens(fewer, seed[others], step[others], 9, place=2, **cut)
        assert torch.equal(drawn.view(2, -1), together[others])


def test_top_k_and_top_p_by_hand() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(top_k: int, top_p: float) -> list[bool]:
        return reference.filter_logits(logits, top_k, top_p).isfinite()[0].tolist()

    assert kept(2, 1.0) == [True, True, False, False]
    assert kept(0, 0.5) == [True, True, False, False]
    assert kept(0, 0.05) == [True, False, False, False]
    assert kept(0, 0.75) == [True, True, True, False]
    assert kept(3, 0.75) == [True, True, False, False]  # of the three kept, 0.4 and 0.3 are 7/9
    assert kept(9, 1.0) == [True] * 4
    ties = reference.filter_logits(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 1, 1.0)
    assert ties.isfinite()[0].tolist() == [False, True, True, False]


@pytest.mark.parametrize("cut", [(1.0, 0, 1.0), (0.8, 3, 0.9)])
def test_custom_ops_are_sound(cut: tuple[float, int, float]) -> None:
    x, weights = head_inputs()
    arguments = (x, list(weights), positions(5, 2), *games(5), 7, 3, *cut)
    torch.library.opcheck(torch.ops.iris_kernels.head_sample.default, arguments)
    arguments = (torch.randn(6, 12), *games(3), 7, 3, *cut)
    torch.library.opcheck(torch.ops.iris_kernels.sample_tokens.default, arguments)


def test_compiles_whole_and_agrees_with_eager() -> None:
    x, weights = head_inputs()

    def run(x: Tensor, position: Tensor, seed: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        cut = {"temperature": 0.9, "top_k": 5, "top_p": 0.9}
        tokens, next_x, logits = iris_kernels.head_sample(x, weights, position, seed, step, **cut)
        return tokens, next_x, iris_kernels.sample_tokens(logits, seed, step, 1)

    inputs = (x, positions(5, 2), *games(5))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(*inputs), run(*inputs))


LOGITS = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"logits is \(3,\) float32, expected \(M, V\) of a floating dtype"),
        ({"seed": torch.zeros(3)}, r"seed is \(3,\) float32, expected \(3,\) int64 on cpu"),
        (
            {"seed": torch.zeros(2, dtype=torch.int64)},
            r"seed is \(2,\) int64, expected \(B,\) int64, B a divisor of 3 rows",
        ),
        ({"step": torch.tensor(3)}, r"step is \(\) int64, expected \(3,\) int64 on cpu"),
        ({"temperature": -1.0}, "temperature is -1.0, expected a number >= 0"),
        ({"top_k": -1}, "top_k is -1, expected >= 0"),
        ({"top_p": 0.0}, r"top_p is 0.0, expected a number in \(0, 1\]"),
        ({"stream": 2**16}, "stream is 65536, expected 0 to 65535"),
        ({"place": -1}, "place is -1, expected 0 to"),
    ],
)
def test_sample_contract(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iris_kernels.sample_tokens(
            **(dict(zip(("logits", "seed", "step"), (LOGITS, *games(3)), strict=True)) | change)
        )


def test_head_contract() -> None:
    x, weights = head_inputs()
    numbers = positions(5), *games(5)
    narrow = weights._replace(fc_2_weight=weights.fc_2_weight[..., 1:])
    with pytest.raises(
        ValueError, match=r"head_sample: fc_2_weight is \(12, 23\) float32, expected \(12, 24\)"
    ):
        iris_kernels.head_sample(x, narrow, *numbers)
    mixed = weights._replace(fc_2_weight=weights.fc_2_weight.half())
    with pytest.raises(ValueError, match=r"fc_2_weight is .* float16, expected fc_1_weight's dtype"):
        iris_kernels.head_sample(x, mixed, *numbers)
    with pytest.raises(ValueError, match=r"position is \(1,\) int32, expected \(5,\) int32 on cpu"):
        iris_kernels.head_sample(x, weights, positions(1), *games(5))
    with pytest.raises(ValueError, match=r"head_sample: seed is \(1,\) int64, expected \(5,\) int64 on cpu"):
        iris_kernels.head_sample(x, weights, positions(5), *games(1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("cut", [(1.0, 0, 1.0), (0.9, 50, 0.9), (0.0, 0, 1.0)])
def test_head_on_a_gpu(cuda: torch.device, cut: tuple[float, int, float], dtype: torch.dtype) -> None:
    x, weights = head_inputs(rows=70, width=256, hidden=256, codes=512)
    weights = HeadWeights(*(weight.to(dtype) for weight in weights))
    on_gpu = HeadWeights(*(weight.to(cuda) for weight in weights))
    numbers = games(70, 9)
    options = dict(zip(("temperature", "top_k", "top_p"), cut, strict=True))
    with torch.no_grad():
        tokens, next_x, logits = iris_kernels.head_sample(
            x.to(cuda), on_gpu, positions(70).to(cuda), *(number.to(cuda) for number in numbers), 5, place=3,
            **options,
        )  # fmt: skip
    in_float32 = HeadWeights(*(weight.float() for weight in weights))
    draws = Draws(*numbers, 5, 3, *cut)
    exact = reference.head_sample(x, in_float32, positions(70), draws)[2]
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    assert (logits.cpu() - exact).norm() / exact.norm() < limit
    # Given the kernel's own logits the draws are the reference's, but for rounding at the edge of a cut.
    assert (tokens.cpu() == reference.sample_tokens(logits.cpu(), draws)).float().mean() > 0.98
    places = weights.position_embedding[positions(70).clamp(max=8).long()]
    torch.testing.assert_close(next_x.cpu(), weights.token_embedding[tokens.cpu()].float() + places.float())


@pytest.mark.gpu
def test_frequencies_on_a_gpu(cuda: torch.device) -> None:
    rows, codes = 200_000, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    for num_games in (1, 200, rows):
        numbers = (number.to(cuda) for number in games(num_games, 11))
        drawn = iris_kernels.sample_tokens(logits.to(cuda).repeat(rows, 1), *numbers)
        assert_frequencies(drawn.cpu(), logits.softmax(0) * rows)
