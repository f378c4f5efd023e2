"""The convolutional encoder and decoder of the tokenizer (Esser et al., 2021, as used by IRIS)."""

from dataclasses import dataclass

import iris_kernels
import torch
import torch.nn.functional as F
from iris_kernels.reference.group_norm_silu import is_small_bfloat16
from torch import Tensor, nn

from iris_wm.config import Config, PositiveInt


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Shape of the encoder and its mirror image, the decoder."""

    resolution: PositiveInt = 64
    """Height and width of a frame, pixels."""
    channels: PositiveInt = 64
    """Feature maps at the first resolution."""
    channel_multipliers: tuple[PositiveInt, ...] = (1, 1, 1, 1, 1)
    """Feature maps at each resolution, as multiples of channels; each resolution halves the one before."""
    num_residual_blocks: PositiveInt = 2
    """Residual blocks a resolution in the encoder; the decoder has one more."""
    attention_resolutions: tuple[int, ...] = (8, 16)
    """Self-attention follows the residual blocks where the feature map has this height."""
    latent_dim: PositiveInt = 512
    """Feature maps between encoder and quantizer."""
    patch_size: PositiveInt = 1
    """Pixels folded into channels before the first convolution; 1 is the paper's, 4 is light enough for a CPU."""
    has_local_encoder: bool = False
    """Each token sees its own square of the frame alone: the same pixels there always give the same token, which a
    world model learns from far fewer steps (as patches do in Dedieu et al., 2025). Not the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers: got none, expected at least one")
        smallest = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        if self.resolution % smallest:
            raise ValueError(
                f"resolution: got {self.resolution}, expected a multiple of {smallest} "
                f"(patch_size {self.patch_size} and {len(self.channel_multipliers)} resolutions)"
            )
        for multiplier in self.channel_multipliers:
            width = self.channels * multiplier
            if width % num_groups(width):
                raise ValueError(f"channels: {width} feature maps, expected a multiple of 32")

    @property
    def latent_resolution(self) -> int:
        """Height and width of the latent map."""
        return self.resolution // (self.patch_size * 2 ** (len(self.channel_multipliers) - 1))

    @property
    def stage_resolutions(self) -> tuple[int, ...]:
        """Height of the feature map at each resolution, largest first."""
        return tuple(
            self.resolution // (self.patch_size * 2**i) for i in range(len(self.channel_multipliers))
        )


def num_groups(channels: int) -> int:
    """Groups of a group norm over this many feature maps."""
    return min(32, channels)


class GroupNormSiLU(nn.GroupNorm):
    """Group norm followed by SiLU, one kernel where there is one. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(num_groups(channels), channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        return iris_kernels.group_norm_silu(maps, self.weight, self.bias, self.num_groups, self.eps)


class PixelNormSiLU(nn.LayerNorm):
    """Layer norm over the feature maps of each position by itself, then SiLU. (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.silu(super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (1x1 where is_local) with a shortcut. (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, is_local: bool = False) -> None:
        super().__init__()
        norm, kernel = (PixelNormSiLU, 1) if is_local else (GroupNormSiLU, 3)
        self.norm_1 = norm(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.norm_2 = norm(out_channels)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, kernel, padding=kernel // 2)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.shortcut(maps) + self.conv_2(self.norm_2(self.conv_1(self.norm_1(maps))))


class SpatialAttention(nn.Module):
    """One head of self-attention over all positions of a feature map. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels, eps=1e-6)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        normed = self.norm(maps.float() if is_small_bfloat16(maps) else maps)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2).unsqueeze(1)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1).transpose(1, 2)
        return maps + self.out(mixed.unflatten(2, maps.shape[2:]))


class Downsample(nn.Module):
    """Halves height and width by a strided convolution: 3x3, padded at the right and the bottom, or 2x2."""

    def __init__(self, channels: int, is_local: bool = False) -> None:
        super().__init__()
        self.padding = 0 if is_local else 1
        self.conv = nn.Conv2d(channels, channels, 2 + self.padding, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(F.pad(maps, (0, self.padding, 0, self.padding)))


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        assert self.conv.bias is not None
        return iris_kernels.upsample_conv(maps, self.conv.weight, self.conv.bias)


class Stage(nn.Module):
    """All layers at one resolution: residual blocks, each followed by attention where asked, then the resampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        has_attention: bool,
        resample: nn.Module,
        is_local: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (num_blocks - 1)
        self.blocks = nn.ModuleList(ResidualBlock(width, out_channels, is_local) for width in widths)
        self.attentions = nn.ModuleList(
            SpatialAttention(out_channels) if has_attention else nn.Identity() for _ in widths
        )
        self.resample = resample

    def forward(self, maps: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            maps = attention(block(maps))
        return self.resample(maps)


def bottleneck(channels: int, is_local: bool = False) -> nn.Sequential:
    """The layers at the lowest resolution, between the stages and the latents; without attention where is_local."""
    return nn.Sequential(
        ResidualBlock(channels, channels, is_local),
        nn.Identity() if is_local else SpatialAttention(channels),
        ResidualBlock(channels, channels, is_local),
    )


class Encoder(nn.Module):
    """Frames in [-1, 1] (B, 3, H, W) -> feature maps (B, latent_dim, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        is_local = config.has_local_encoder
        norm, kernel = (PixelNormSiLU, 1) if is_local else (GroupNormSiLU, 3)
        widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        self.conv_in = nn.Conv2d(3 * config.patch_size**2, config.channels, kernel, padding=kernel // 2)
        self.stages = nn.ModuleList()
        previous = config.channels
        for i, (width, resolution) in enumerate(zip(widths, config.stage_resolutions, strict=True)):
            resample = Downsample(width, is_local) if i + 1 < len(widths) else nn.Identity()
            has_attention = resolution in config.attention_resolutions and not is_local
            num_blocks = config.num_residual_blocks
            self.stages.append(Stage(previous, width, num_blocks, has_attention, resample, is_local))
            previous = width
        self.bottleneck = bottleneck(previous, is_local)
        self.norm_out = norm(previous)
        self.conv_out = nn.Conv2d(previous, config.latent_dim, kernel, padding=kernel // 2)

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.conv_in(
            F.pixel_unshuffle(frames, self.patch_size).contiguous(memory_format=torch.channels_last)
        )
        for stage in self.stages:
            maps = stage(maps)
        return self.conv_out(self.norm_out(self.bottleneck(maps)))


class Decoder(nn.Module):
    """Feature maps (B, latent_dim, h, w) -> frames, about [-1, 1], (B, 3, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        previous = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_dim, previous, 3, padding=1)
        self.bottleneck = bottleneck(previous)
        self.stages = nn.ModuleList()
        for width, resolution in reversed(list(zip(widths, config.stage_resolutions, strict=True))):
            resample = Upsample(width) if resolution != config.stage_resolutions[0] else nn.Identity()
            has_attention = resolution in config.attention_resolutions
            num_blocks = config.num_residual_blocks + 1
            self.stages.append(Stage(previous, width, num_blocks, has_attention, resample))
            previous = width
        self.norm_out = GroupNormSiLU(previous)
        self.conv_out = nn.Conv2d(previous, 3 * config.patch_size**2, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.bottleneck(self.conv_in(maps.contiguous(memory_format=torch.channels_last)))
        for stage in self.stages:
            maps = stage(maps)
        return F.pixel_shuffle(self.conv_out(self.norm_out(maps)), self.patch_size)
