"""The head and the sampler on a CPU: frequencies, cuts, the custom ops, `torch.compile`; and on a GPU."""

from typing import Any

import iris_kernels
import pytest
import torch
import torch.nn.functional as F
from iris_kernels.reference import head_sample as reference
from torch import Tensor

SEED = torch.tensor([2**40 + 3])


def number(value: int, dtype: torch.dtype = torch.int64, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor([value], dtype=dtype, device=device)


def head_inputs(
    groups: int = 2, rows: int = 5, width: int = 16, hidden: int = 24, codes: int = 12
) -> list[Tensor]:
    return [
        torch.randn(groups, rows, width),
        torch.randn(groups, width),
        torch.randn(groups, width),
        torch.randn(groups, hidden, width) / width**0.5,
        torch.randn(groups, hidden),
        torch.randn(groups, codes, hidden) / hidden**0.5,
        torch.randn(groups, codes),
        torch.randn(groups, codes, width),
        torch.randn(groups, 9, width),
    ]


def test_head_equals_its_parts() -> None:
    x, *norm, w1, b1, w2, b2, table, places = head_inputs()
    with torch.no_grad():
        tokens, next_x, logits = iris_kernels.head_sample(
            x,
            *norm,
            w1,
            b1,
            w2,
            b2,
            table,
            places,
            number(4, torch.int32),
            SEED,
            number(1),
            return_logits=True,
        )
    for group in range(2):
        normed = F.layer_norm(x[group], (16,), norm[0][group], norm[1][group])
        wanted = F.linear(F.linear(normed, w1[group], b1[group]).relu(), w2[group], b2[group])
        torch.testing.assert_close(logits[group], wanted, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(next_x[group], table[group][tokens[group]] + places[group, 4])
    drawn = iris_kernels.sample_tokens(logits.flatten(0, 1), SEED, number(1))
    assert torch.equal(tokens.flatten(), drawn)


def test_temperature_zero_takes_the_likeliest_and_a_late_position_the_last_row() -> None:
    inputs = head_inputs()
    tokens, next_x, logits = iris_kernels.head_sample(
        *inputs, number(100, torch.int32), SEED, number(0), temperature=0.0, return_logits=True
    )
    assert torch.equal(tokens, logits.argmax(-1))
    chosen = inputs[7].gather(1, tokens[:, :, None].expand(-1, -1, 16))
    assert torch.equal(next_x, chosen + inputs[8][:, 8:9])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    rows, codes = 50_000, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    tokens = iris_kernels.sample_tokens(logits.repeat(rows, 1), SEED, number(11), temperature)
    expected = (logits / temperature).softmax(0) * rows
    chi_square = ((tokens.bincount(minlength=codes) - expected).square() / expected).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_steps_rows_streams_and_seeds_draw_differently() -> None:
    logits = torch.zeros(64, 256)
    draws = [
        iris_kernels.sample_tokens(logits, seed, number(step), stream=stream)
        for seed, step, stream in (
            (SEED, 0, 0),
            (SEED, 1, 0),
            (SEED, 2**32, 0),
            (SEED, 0, 1),
            (SEED + 1, 0, 0),
        )
    ]
    for index, draw in enumerate(draws):
        assert draw.unique().numel() > 40
        for other in draws[:index]:
            assert (draw == other).float().mean() < 0.1
    assert torch.equal(draws[0][:7], iris_kernels.sample_tokens(logits[:7], SEED, number(0)))


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
    numbers = number(2, torch.int32), SEED, number(1)
    arguments = (*head_inputs(), *numbers, *cut)
    torch.library.opcheck(torch.ops.iris_kernels.head_sample.default, arguments)
    arguments = (torch.randn(5, 12), SEED, number(1), *cut, 7)
    torch.library.opcheck(torch.ops.iris_kernels.sample_tokens.default, arguments)


def test_compiles_whole_and_agrees_with_eager() -> None:
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        tokens, next_x, logits = iris_kernels.head_sample(*inputs, 0.9, 5, 0.9, return_logits=True)
        return tokens, next_x, iris_kernels.sample_tokens(logits[0], *inputs[-2:], stream=1)

    inputs = (*head_inputs(), number(2, torch.int32), SEED, number(1))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(*inputs), run(*inputs))


LOGITS = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"logits is \(3,\) float32, expected \(M, V\) of a floating dtype"),
        ({"seed": torch.zeros(1)}, r"seed is \(1,\) float32, expected \(1,\) int64 on cpu"),
        ({"step": torch.tensor(3)}, r"step is \(\) int64, expected \(1,\) int64 on cpu"),
        ({"temperature": -1.0}, "temperature is -1.0, expected a number >= 0"),
        ({"top_k": -1}, "top_k is -1, expected >= 0"),
        ({"top_p": 0.0}, r"top_p is 0.0, expected a number in \(0, 1\]"),
        ({"stream": 2**16}, "stream is 65536, expected 0 to 65535"),
    ],
)
def test_sample_contract(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iris_kernels.sample_tokens(**({"logits": LOGITS, "seed": SEED, "step": SEED} | change))


def test_head_contract() -> None:
    inputs = head_inputs()
    inputs[5] = inputs[5][..., 1:]
    with pytest.raises(ValueError, match=r"head_sample: w2 is \(2, 12, 23\) float32, expected \(2, 12, 24\)"):
        iris_kernels.head_sample(*inputs, number(0, torch.int32), SEED, SEED)
    with pytest.raises(
        ValueError, match=r"head_sample: position is \(1,\) int64, expected \(1,\) int32 on cpu"
    ):
        iris_kernels.head_sample(*head_inputs(), SEED, SEED, SEED)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("cut", [(1.0, 0, 1.0), (0.9, 50, 0.9), (0.0, 0, 1.0)])
def test_head_on_a_gpu(cuda: torch.device, cut: tuple[float, int, float], dtype: torch.dtype) -> None:
    inputs = head_inputs(groups=2, rows=70, width=256, hidden=256, codes=512)
    inputs = [inputs[0], *(tensor.to(dtype) for tensor in inputs[1:])]
    numbers = (number(4, torch.int32), SEED, number(9))
    on_gpu = [tensor.to(cuda) for tensor in (*inputs, *numbers)]
    with torch.no_grad():
        tokens, next_x, logits = iris_kernels.head_sample(*on_gpu, *cut, return_logits=True)
    exact = reference.head_sample(*(tensor.float() for tensor in inputs), *numbers, *cut)[2]
    limit = 1e-5 if dtype == torch.float32 else 5e-3
    assert (logits.cpu() - exact).norm() / exact.norm() < limit
    # Given the kernel's own logits the draws are the reference's, but for rounding at the edge of a cut.
    drawn = reference.sample_tokens(logits.cpu().flatten(0, 1), *numbers[1:], *cut, 0)
    assert (tokens.cpu().flatten() == drawn).float().mean() > 0.98
    chosen = inputs[7].gather(1, tokens.cpu()[:, :, None].expand(-1, -1, 256)).float()
    torch.testing.assert_close(next_x.cpu(), chosen + inputs[8][:, 4:5].float())


@pytest.mark.gpu
def test_frequencies_on_a_gpu(cuda: torch.device) -> None:
    rows, codes = 200_000, 16
    logits = torch.linspace(-1.5, 1.5, codes)
    drawn = iris_kernels.sample_tokens(
        logits.to(cuda).repeat(rows, 1), SEED.to(cuda), number(11, device=cuda)
    )
    expected = logits.softmax(0) * rows
    chi_square = ((drawn.cpu().bincount(minlength=codes) - expected).square() / expected).sum()
    assert chi_square < 37.7
