"""The quantizer: same tokens as the library, IRIS's gradients, and nothing that changes behind one's back."""

import pytest
import torch
import torch.nn.functional as F

from iris_wm.tokenizer.tokenizer import FiniteScalarQuantizer, VectorQuantizer, codebook_usage


@pytest.fixture
def quantizer() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(codebook_size=64, embedding_dim=12)


def latents_near(quantizer: VectorQuantizer, scale: float = 1.0) -> torch.Tensor:
    """(3, E, 4, 4); about as far from each other as the codes are."""
    return torch.randn(3, quantizer.embedding_dim, 4, 4) * quantizer.codebook.detach().std() * scale


def test_codes_begin_uniform_within_one_over_v(quantizer):
    codebook = quantizer.codebook
    assert codebook.shape == (64, 12)
    assert codebook.abs().max() <= 1 / 64
    assert codebook.abs().max() > 0.9 / 64
    assert codebook.mean().abs() < 0.1 / 64


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
@pytest.mark.parametrize("training", [True, False])
def test_encode_equals_the_librarys_tokens(quantizer, scale, training):
    quantizer.train(training)
    for seed in range(20):
        torch.manual_seed(seed)
        latents = latents_near(quantizer, scale)
        tokens = quantizer.encode(latents)
        assert tokens.dtype == torch.int64
        with torch.no_grad():
            _, indices, _ = quantizer.library(latents, freeze_codebook=True)
        assert torch.equal(tokens, indices.flatten(1))
        assert torch.equal(tokens, quantizer(latents).obs_tokens)


def test_encode_finds_the_nearest_code_by_hand(quantizer):
    latents = latents_near(quantizer)
    points = latents.flatten(2).transpose(1, 2)
    distances = (points[:, :, None].double() - quantizer.codebook.double()).square().sum(-1)
    tokens = quantizer.encode(latents)
    chosen = distances.gather(2, tokens[..., None]).squeeze(-1)
    assert torch.allclose(chosen, distances.amin(2), rtol=1e-4)


def test_encode_never_changes_the_codebook_in_train_mode(quantizer):
    quantizer.train()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for _ in range(5):
        quantizer.encode(latents_near(quantizer, 10.0))
    after = quantizer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_training_pass_leaves_the_codebook_to_the_optimizer(quantizer):
    quantizer.train()
    before = quantizer.codebook.clone()
    for _ in range(5):
        quantizer(latents_near(quantizer, 10.0))
    assert torch.equal(quantizer.codebook, before)


def test_gradients_equal_the_rule_of_iris(quantizer):
    """z_q = z + sg(e - z), loss = |sg(z) - e|^2 + |z - sg(e)|^2, both means over all elements."""
    quantizer.train()
    latents = latents_near(quantizer).requires_grad_()
    codebook = quantizer.library._codebook.embed
    weights = torch.randn_like(latents)
    output = quantizer(latents)
    ((output.latents * weights).sum() + output.commitment_loss).backward()
    ours = latents.grad.clone(), codebook.grad.clone()

    z = latents.detach().clone().requires_grad_()
    table = codebook.detach()[0].clone().requires_grad_()
    points = z.flatten(2).transpose(1, 2)
    tokens = (points.detach()[:, :, None] - table.detach()).square().sum(-1).argmin(-1)
    codes = table[tokens].transpose(1, 2).unflatten(2, (4, 4))
    straight_through = z + (codes - z).detach()
    loss = F.mse_loss(z.detach(), codes) + F.mse_loss(z, codes.detach())
    ((straight_through * weights).sum() + loss).backward()

    assert torch.equal(output.obs_tokens, tokens)
    assert torch.allclose(output.latents, straight_through, atol=1e-6)
    assert output.commitment_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(ours[0], z.grad, rtol=1e-4, atol=1e-7)
    assert torch.allclose(ours[1][0], table.grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_of_low_precision_latents_are_those_of_the_same_numbers_in_float32(quantizer, dtype):
    """Only the latents are rounded; the distances never are."""
    latents = latents_near(quantizer).to(dtype)
    assert torch.equal(quantizer.encode(latents), quantizer.encode(latents.float()))
    assert torch.equal(quantizer(latents).obs_tokens, quantizer.encode(latents.float()))


def test_autocast_changes_no_token(quantizer):
    latents = torch.randn(3, 12, 4, 4)  # far from the codes: the hard case for rounded distances
    expected = quantizer.encode(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(latents), expected)
        output = quantizer(latents)
    assert torch.equal(output.obs_tokens, expected)
    assert output.latents.dtype == torch.float32
    assert output.commitment_loss.dtype == torch.float32
    assert expected.unique().numel() > 8


def test_lookup_is_the_codebooks_rows(quantizer):
    tokens = torch.randint(64, (2, 5, 16))
    assert torch.equal(quantizer.lookup(tokens), quantizer.codebook[tokens])
    assert torch.equal(quantizer.encode(quantizer.codebook.T[None, :, :, None])[0], torch.arange(64))


def test_fsq_tokens_and_codes_belong_together():
    quantizer = FiniteScalarQuantizer((5, 4, 3))
    assert (quantizer.codebook_size, quantizer.embedding_dim) == (60, 3)
    assert quantizer.codebook.shape == (60, 3)
    torch.manual_seed(0)
    latents = (torch.randn(4, 3, 4, 4) * 2).requires_grad_()
    output = quantizer(latents)
    assert output.obs_tokens.shape == (4, 16)
    assert output.obs_tokens.dtype == torch.int64
    assert torch.equal(quantizer.encode(latents), output.obs_tokens)
    codes = quantizer.lookup(output.obs_tokens).transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(codes, output.latents, atol=1e-6)
    assert output.commitment_loss.item() == 0
    output.latents.sum().backward()
    assert latents.grad.abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(latents.detach()), output.obs_tokens)


def test_codebook_usage_by_hand():
    used, perplexity = codebook_usage(torch.tensor([[0, 0, 1, 1]]), 8)
    assert used.item() == 2
    assert perplexity.item() == pytest.approx(2.0)
    used, perplexity = codebook_usage(torch.tensor([3, 3, 3]), 8)
    assert (used.item(), perplexity.item()) == (1, pytest.approx(1.0))
    _, perplexity = codebook_usage(torch.tensor([0, 0, 0, 1]), 2)
    assert perplexity.item() == pytest.approx(4 / 27**0.25, rel=1e-5)  # exp of the entropy of (3/4, 1/4)
