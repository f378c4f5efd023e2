"""Attention in blocks of rows gives what attention over the whole square gives."""

import pytest
import torch
from iris_kernels.cpu_kernels import attention as module
from iris_kernels.cpu_kernels.attention import attention
from iris_kernels.reference import attention as reference

CASES = [
    ("causal", 0, False, 150),
    ("causal", 17, False, 5 * 17),
    ("block_causal", 17, False, 12 * 17),
    ("parallel", 17, False, 9 * 33),
    ("parallel", 17, True, 5 * 33),
    ("parallel", 2, False, 50 * 3),
    ("parallel", 80, False, 2 * 159),
]


@pytest.mark.parametrize(("mask", "tokens_per_step", "is_block_causal", "num_rows"), CASES)
def test_outputs_and_gradients_are_those_of_the_whole_square(
    mask, tokens_per_step, is_block_causal, num_rows
):
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(2, 3, num_rows, 8, generator=generator, requires_grad=True) for _ in range(3)]
    options = {"mask": mask, "tokens_per_step": tokens_per_step, "is_block_causal": is_block_causal}
    blocks = attention(*qkv, dropout=0.0, **options)
    square = reference.attention(*qkv, **options, dropout=0.0, seed=None)
    assert torch.allclose(blocks, square, atol=1e-5)
    slopes = torch.randn(blocks.shape, generator=generator)
    for ours, expected in zip(
        torch.autograd.grad(blocks, qkv, slopes), torch.autograd.grad(square, qkv, slopes), strict=True
    ):
        assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("mask", "tokens_per_step", "num_rows"), [("causal", 0, 40), ("causal", 0, 150), ("parallel", 17, 5 * 33)]
)
def test_gradients_with_dropout_are_those_of_the_same_draws(mask, tokens_per_step, num_rows, monkeypatch):
    """Against autograd through the plain formula, with the blocks' own decisions put into a square."""
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(2, 3, num_rows, 8, generator=generator, requires_grad=True) for _ in range(3)]
    drawn, draw = [], module.keeps
    monkeypatch.setattr(module, "keeps", lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1])
    options = {"mask": mask, "tokens_per_step": tokens_per_step, "is_block_causal": False}
    blocks = attention(*qkv, dropout=0.3, **options)
    stays = torch.zeros(6, num_rows, num_rows, dtype=torch.bool)
    for (start, stop, num_seen, own, _), kept in zip(
        module._plan(num_rows, mask, tokens_per_step, False), drawn, strict=True
    ):
        stays[:, start:stop, :num_seen] |= kept[:, :, :num_seen]
        if own:
            stays[:, start:stop, start:stop] |= kept[:, :, num_seen:]
    visible = module.visibility(num_rows, mask, tokens_per_step, False, torch.device("cpu"))
    scores = (qkv[0] @ qkv[1].transpose(2, 3) / 8**0.5).masked_fill(~visible, float("-inf"))
    square = (scores.softmax(-1) * stays.view(scores.shape) / 0.7) @ qkv[2]
    assert torch.allclose(blocks, square, atol=1e-5)
    slopes = torch.randn(blocks.shape, generator=generator)
    for ours, expected in zip(
        torch.autograd.grad(blocks, qkv, slopes), torch.autograd.grad(square, qkv, slopes), strict=True
    ):
        assert torch.allclose(ours, expected, atol=1e-4)


def test_dropout_is_repeatable_and_keeps_the_mean():
    qkv = [torch.randn(64, 4, 30, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    options = {"mask": "causal", "tokens_per_step": 0, "is_block_causal": False}
    torch.manual_seed(1)
    first = attention(*qkv, dropout=0.2, **options)
    torch.manual_seed(1)
    assert torch.equal(attention(*qkv, dropout=0.2, **options), first)
    without = attention(*qkv, dropout=0.0, **options)
    assert not torch.allclose(first, without, atol=1e-2)
    torch.manual_seed(2)
    mean = torch.stack([attention(*qkv, dropout=0.2, **options) for _ in range(64)]).mean(0)
    assert (mean - without).abs().mean() < 0.1 * (first - without).abs().mean() * 2


def test_in_bfloat16_it_stays_close():
    qkv = [torch.randn(2, 2, 99, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    options = {"mask": "parallel", "tokens_per_step": 17, "is_block_causal": False}
    exact = attention(*qkv, dropout=0.0, **options)
    rounded = attention(*(rows.bfloat16() for rows in qkv), dropout=0.0, **options)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05
