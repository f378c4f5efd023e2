"""A local encoder: each token depends on its own square of the frame alone."""

import pytest
import torch

from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import FiniteScalarQuantizerConfig, Tokenizer, TokenizerConfig


def make_tokenizer(has_local_encoder: bool, patch_size: int) -> Tokenizer:
    torch.manual_seed(0)
    multipliers = {4: (1, 1, 1), 2: (1, 1, 1, 1)}[patch_size]
    autoencoder = AutoencoderConfig(
        channels=32,
        channel_multipliers=multipliers,
        num_residual_blocks=1,
        attention_resolutions=(4,),
        latent_dim=32,
        patch_size=patch_size,
        has_local_encoder=has_local_encoder,
    )
    return Tokenizer(TokenizerConfig(autoencoder, FiniteScalarQuantizerConfig())).eval()


@pytest.mark.parametrize("patch_size", [2, 4])
@pytest.mark.parametrize("has_local_encoder", [True, False])
def test_a_token_sees_its_square_alone(has_local_encoder: bool, patch_size: int):
    tokenizer = make_tokenizer(has_local_encoder, patch_size)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    frames[1, :, 16:32, 32:48] = frames[0, :, 16:32, 32:48]  # the square of token 1 * 4 + 2
    with torch.no_grad():
        latents = tokenizer.latents(frames).flatten(2)
    difference = (latents[0] - latents[1]).abs().amax(0)
    others = torch.arange(16) != 6
    assert difference[others].min() > 1e-3
    assert (difference[6] < 1e-5) == has_local_encoder


def test_it_learns_and_keeps_its_shapes():
    tokenizer = make_tokenizer(True, 4).train()
    frames = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    output = tokenizer(frames)
    assert output.obs_tokens.shape == (2, 16)
    assert output.reconstructions.shape == (2, 3, 64, 64)
    output.reconstructions.square().mean().backward()
    assert all(parameter.grad is not None for parameter in tokenizer.encoder.parameters())
