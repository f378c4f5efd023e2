"""Frames to tokens and back, over any leading dimensions."""

import pytest
import torch

from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import (
    FiniteScalarQuantizerConfig,
    Tokenizer,
    TokenizerConfig,
    VectorQuantizerConfig,
    to_uint8,
)

SMALL = AutoencoderConfig(
    channels=8, channel_multipliers=(1, 1, 1), num_residual_blocks=1, attention_resolutions=(4,), latent_dim=8,
    patch_size=4,
)  # fmt: skip


VQ, FSQ = VectorQuantizerConfig(16, 8), FiniteScalarQuantizerConfig((4, 4))


@pytest.fixture(scope="module", params=[VQ, FSQ], ids=["vq", "fsq"])
def tokenizer(request) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(SMALL, request.param))


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.randint(
        256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_shapes_and_dtypes(tokenizer, frames):
    tokens = tokenizer.encode(frames)
    assert tokenizer.tokens_per_frame == tokenizer.config.tokens_per_frame == 16
    assert tokens.shape == (2, 3, 16)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < 16
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.float32
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert torch.equal(tokenizer.reconstruct(frames), decoded)


def test_leading_dimensions_do_not_matter(tokenizer, frames):
    tokens = tokenizer.encode(frames)
    assert torch.equal(tokenizer.encode(frames.flatten(0, 1)), tokens.flatten(0, 1))
    assert torch.equal(tokenizer.encode(frames[1, 2]), tokens[1, 2])
    assert torch.allclose(tokenizer.decode(tokens[1, 2]), tokenizer.decode(tokens)[1, 2], atol=1e-5)
    assert tokenizer.encode(frames[:, None]).shape == (2, 1, 3, 16)


def test_normalize():
    values = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    assert Tokenizer.normalize(values).tolist() == pytest.approx(
        [-1, 127 / 127.5 - 1, 128 / 127.5 - 1, 1], abs=1e-6
    )
    assert values.dtype == torch.uint8
    assert values[3] == 255


def test_to_uint8_inverts_normalize():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(Tokenizer.normalize(values).add(1).div(2)), values)
    assert to_uint8(torch.tensor([-0.1, 1.1, 0.5])).tolist() == [0, 255, 128]


def test_forward_agrees_with_encode_and_decode(tokenizer, frames):
    output = tokenizer(frames[0])
    tokens = tokenizer.encode(frames[0])
    assert torch.equal(output.obs_tokens, tokens)
    in_unit_range = output.reconstructions.add(1).div(2).clamp(0, 1)
    assert torch.allclose(in_unit_range, tokenizer.decode(tokens), atol=1e-5)
    assert output.latents.shape == (3, tokenizer.quantizer.embedding_dim, 4, 4)


def test_encode_and_decode_build_no_graph_and_change_nothing(tokenizer, frames):
    tokenizer.train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokens = tokenizer.encode(frames)
    assert not tokens.requires_grad
    assert not tokenizer.decode(tokens).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_gradient_reaches_the_encoder(tokenizer, frames):
    tokenizer.zero_grad()
    tokenizer(frames[0]).reconstructions.sum().backward()
    assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
    tokenizer.zero_grad()


def test_background(frames):
    """It is taken off before encoding and put under what is decoded; without it nothing has changed."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(SMALL, VQ, has_background=True))
    plain = Tokenizer(TokenizerConfig(SMALL, VQ))
    plain.load_state_dict(
        {name: value for name, value in tokenizer.state_dict().items() if name != "background"}
    )
    assert torch.equal(tokenizer.encode(frames), plain.encode(frames))  # it is zero so far
    still = frames[0, 0].expand(4, -1, -1, -1)
    tokenizer.set_background(still)
    assert torch.allclose(tokenizer.background, tokenizer.normalize(frames[0, 0]), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(
            tokenizer.latents(still), plain.to_codes(plain.encoder(torch.zeros(4, 3, 64, 64))), atol=1e-5
        )
    tokens = tokenizer.encode(frames[0])
    added = plain.decode(tokens) + tokenizer.background.detach() / 2
    inside = (plain.decode(tokens) > 0) & (plain.decode(tokens) < 1)
    assert torch.allclose(tokenizer.decode(tokens)[inside], added.clamp(0, 1)[inside], atol=1e-5)
    output = tokenizer(frames[0])
    output.reconstructions.sum().backward()
    assert tokenizer.background.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VectorQuantizerConfig(0), "codebook_size: got 0, expected a whole number of at least 1"),
        (
            lambda: VectorQuantizerConfig(4, -2),
            "embedding_dim: got -2, expected a whole number of at least 1",
        ),
        (
            lambda: FiniteScalarQuantizerConfig((8, 1)),
            r"levels\[1\]: got 1, expected a whole number of at least 3",
        ),
        (lambda: FiniteScalarQuantizerConfig(()), r"levels: got none, expected at least one"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
