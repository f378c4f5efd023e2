"""Shapes of the encoder and decoder, and what their config refuses."""

import pytest
import torch

from iris_wm.tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder, Upsample


def small(**values) -> AutoencoderConfig:
    defaults = {
        "resolution": 32,
        "channels": 8,
        "channel_multipliers": (1, 1, 1),
        "num_residual_blocks": 1,
        "attention_resolutions": (8,),
        "latent_dim": 6,
    }
    return AutoencoderConfig(**{**defaults, **values})


@pytest.mark.parametrize(
    ("config", "latent_resolution", "stage_resolutions"),
    [
        (small(), 8, (32, 16, 8)),
        (small(patch_size=2), 4, (16, 8, 4)),
        (small(patch_size=4, channel_multipliers=(1,)), 8, (8,)),
        (small(channels=32, channel_multipliers=(1, 2, 3, 1)), 4, (32, 16, 8, 4)),
        (small(channels=4, num_residual_blocks=3, attention_resolutions=()), 8, (32, 16, 8)),
    ],
)
def test_shapes(config, latent_resolution, stage_resolutions):
    assert config.latent_resolution == latent_resolution
    assert config.stage_resolutions == stage_resolutions
    frames = torch.rand(2, 3, config.resolution, config.resolution) * 2 - 1
    maps = Encoder(config)(frames)
    assert maps.shape == (2, config.latent_dim, latent_resolution, latent_resolution)
    assert Decoder(config)(maps).shape == frames.shape


def test_the_papers_shape():
    config = AutoencoderConfig()
    assert config.stage_resolutions == (64, 32, 16, 8, 4)
    encoder, decoder = Encoder(config), Decoder(config)
    attending = [[type(each).__name__ for each in stage.attentions] for stage in encoder.stages]
    expected = [["Identity"] * 2] * 2 + [["SpatialAttention"] * 2] * 2 + [["Identity"] * 2]
    assert attending == expected
    # One block more in the decoder, from the lowest resolution up.
    assert [len(stage.blocks) for stage in decoder.stages] == [3] * 5
    assert [len(stage.blocks) for stage in encoder.stages] == [2] * 5


def test_each_frame_of_a_batch_is_on_its_own():
    torch.manual_seed(0)
    encoder = Encoder(small()).eval()
    frames = torch.rand(3, 3, 32, 32)
    together = encoder(frames)
    alone = torch.cat([encoder(frame[None]) for frame in frames])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (1, 1)])
def test_upsampling_before_the_pixels_are_doubled_is_the_same(size):
    torch.manual_seed(0)
    upsample = Upsample(32)
    maps = torch.randn(2, 32, *size).contiguous(memory_format=torch.channels_last)
    plain = upsample(maps)
    with torch.no_grad():
        merged = upsample(maps)
    assert plain.requires_grad
    assert merged.shape == plain.shape
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(merged, plain, atol=1e-5)


def test_upsampling_follows_a_fused_optimizer():
    """Which changes weights without counting up their version."""
    torch.manual_seed(0)
    upsample, maps = Upsample(32), torch.randn(2, 32, 4, 4)
    optimizer = torch.optim.AdamW(upsample.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        plain = upsample(maps)
        with torch.no_grad():
            assert torch.allclose(upsample(maps), plain, atol=1e-5)
        plain.square().sum().backward()
        optimizer.step()


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    encoder, decoder = Encoder(small()), Decoder(small())
    decoder(encoder(torch.rand(1, 3, 32, 32))).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 30}, r"resolution: got 30, expected a multiple of 4"),
        ({"resolution": 0}, r"resolution: got 0"),
        ({"patch_size": 0}, r"patch_size: got 0"),
        ({"patch_size": 16}, r"resolution: got 32, expected a multiple of 64"),
        ({"channels": 0}, r"channels: got 0, expected a whole number of at least 1"),
        ({"channels": 48}, r"channels: 48 feature maps, expected a multiple of 32"),
        ({"latent_dim": -1}, r"latent_dim: got -1, expected a whole number of at least 1"),
        ({"num_residual_blocks": 0}, r"num_residual_blocks: got 0, expected a whole number of at least 1"),
        (
            {"channel_multipliers": ()},
            r"channel_multipliers: got none, expected at least one",
        ),
        (
            {"channel_multipliers": (1, 0)},
            r"channel_multipliers\[1\]: got 0, expected a whole number of at least 1",
        ),
    ],
)
def test_impossible_shapes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        small(**values)
