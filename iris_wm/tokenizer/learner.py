"""How a tokenizer learns: an autoencoder from single frames by reconstruction, commitment and an optional perceptual
term; a table of squares by taking them in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_wm.config import Config, NonNegativeFloat
from iris_wm.data.replay import Batches
from iris_wm.data.segment import Segment
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Learner, Named, Pieces
from iris_wm.streams import Draw
from iris_wm.tokenizer.patches import AnyTokenizer, PatchesConfig, PatchTokenizer
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.tokenizer.tokenizer import Tokenizer, TokenizerConfig, TokenizerOutput, codebook_usage


@dataclass(frozen=True)
class TokenizerLossConfig(Config):
    """Weights of the reconstruction terms, on frames in [-1, 1]."""

    l1: NonNegativeFloat = 0.1
    """Mean absolute error; the paper's only pixel term (1.0)."""
    l2: NonNegativeFloat = 1.0
    """Mean squared error."""
    max_pixel: NonNegativeFloat = 0.01
    """Mean over frames of the worst pixel's squared error: keeps small objects alive (delta-IRIS)."""
    moving_pixels: NonNegativeFloat = 0.0
    """Mean squared error over pixels unlike the batch's median frame, on top: what moves in the game. Every frame
    counts the same: one where everything changes, a flash, does not drown the small objects of all others."""
    perceptual: Literal["none", "lpips"] = "none"
    """lpips needs perceptual_weights and the extra iris-wm[perceptual]."""
    perceptual_weights: str = ""
    """File with LPIPS (VGG16) weights, safetensors or a state dict."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.perceptual == "lpips" and not Path(self.perceptual_weights).is_file():
            raise ValueError(
                f'perceptual_weights: no file "{self.perceptual_weights}"; perceptual: lpips needs '
                "the LPIPS weights (VGG16); without them use perceptual: none, l1: 0.1, l2: 1.0, max_pixel: 0.01"
            )


def tokenizer_loss(
    output: TokenizerOutput, targets: Tensor, config: TokenizerLossConfig, perceptual: nn.Module | None = None
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss (IRIS, equation 1).

    Args:
        output: of Tokenizer.forward.
        targets: (B, 3, H, W) float in [-1, 1].
        config: weights; a term of weight 0 is left out.
        perceptual: maps (reconstructions, targets) to a scalar.
    """
    errors = output.reconstructions - targets
    losses = {"commitment_loss": output.commitment_loss}
    pixel = targets.new_zeros(())
    if config.l1:
        pixel = pixel + config.l1 * errors.abs().mean()
    if config.l2:
        pixel = pixel + config.l2 * errors.square().mean()
    if config.max_pixel:
        pixel = pixel + config.max_pixel * errors.square().flatten(1).amax(1).mean()
    if config.moving_pixels:
        moving = (targets - targets.median(0, keepdim=True).values).abs().amax(1) > 0.1
        squares = (errors.square().mean(1) * moving).sum((1, 2)) / moving.sum((1, 2)).clamp_min(1)
        pixel = pixel + config.moving_pixels * squares.mean()
    losses["reconstruction_loss"] = pixel
    if perceptual is not None:
        losses["perceptual_loss"] = perceptual(output.reconstructions, targets)
    return losses


class LPIPS(nn.Module):
    """Learned perceptual distance on VGG16 features (Zhang et al., 2018); frozen, always in eval mode.

    Weights: a state dict with VGG16's `features.N.weight|bias` and `lin{0..4}.model.1.weight` (1, C, 1, 1).
    """

    _TAPS = (3, 8, 15, 22, 29)
    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        try:
            from torchvision.models import vgg16
        except ImportError as error:
            raise ValueError("perceptual: lpips needs torchvision; install iris-wm[perceptual]") from error
        state = _read_state(weights)
        self.features = vgg16(weights=None).features[: self._TAPS[-1] + 1]
        try:
            needed = (f"features.{key}" for key in self.features.state_dict())
            self.features.load_state_dict({key.removeprefix("features."): state[key] for key in needed})
            self.linear = nn.ParameterList(state[f"lin{i}.model.1.weight"] for i in range(len(self._TAPS)))
        except (KeyError, RuntimeError) as error:
            reason = (
                f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[-1].strip()
            )
            raise ValueError(f'perceptual_weights: "{weights}" is not LPIPS VGG16: {reason}') from None
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, reconstructions: Tensor, targets: Tensor) -> Tensor:
        """Mean distance of frames in [-1, 1], (B, 3, H, W) each."""
        first, second = ((frames - self.shift) / self.scale for frames in (reconstructions, targets))
        total = reconstructions.new_zeros(())
        taps = iter(self.linear)
        for i, layer in enumerate(self.features):
            first, second = layer(first), layer(second)
            if i in self._TAPS:
                difference = F.normalize(first, eps=1e-10) - F.normalize(second, eps=1e-10)
                total = total + F.conv2d(difference.square(), next(taps)).mean()
        return total


def _read_state(path: str) -> dict[str, Tensor]:
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage has its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f'perceptual_weights: cannot read "{path}": {reason}') from None
    if not isinstance(state, dict):
        raise ValueError(f'perceptual_weights: "{path}": expected a state dict, got {type(state).__name__}')
    return state


BACKGROUND_FRAMES = 1000


@dataclass(frozen=True)
class TokenizerLearnerConfig(TokenizerConfig):
    """The discrete autoencoder, its loss and its optimization."""

    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(start_after_epoch=5, batch_size=256)
    )


class TokenizerLearner:
    """A Learner. cache: holds the tokens of frames for whoever learns from them."""

    name = "tokenizer"

    def __init__(self, config: TokenizerLearnerConfig, network: Tokenizer, cache: TokenCache) -> None:
        self.config, self.network, self.cache = config, network, cache
        self.optimization = config.optimization
        self.pieces = Pieces(config.optimization.batch_size, 1)
        self._perceptual = (
            LPIPS(config.loss.perceptual_weights) if config.loss.perceptual == "lpips" else None
        )

    def begin_phase(self, batches: Batches, epoch: int) -> None:
        """Tokens are no longer valid; a background that nothing has been learned of is the mean of the first frames."""
        self.cache.invalidate()
        if self.network.config.has_background and not bool(self.network.background.any()):
            first = torch.arange(min(batches.source.num_steps, BACKGROUND_FRAMES))[None]
            self.network.set_background(batches.source.gather(first, torch.ones_like(first) > 0).frames[0])

    def losses(self, segment: Segment, draw: Draw) -> Iterator[tuple[Named, Named]]:
        """See Learner."""
        frames = segment.frames.flatten(0, 1)
        output = self.network(frames)
        perceptual = self._perceptual.to(frames.device) if self._perceptual is not None else None
        losses = tokenizer_loss(output, self.network.normalize(frames), self.config.loss, perceptual)
        with torch.no_grad():
            used, perplexity = codebook_usage(output.obs_tokens, self.network.quantizer.codebook_size)
            are_finite = torch.isfinite(output.latents).all()  # of a NaN the nearest code is code 0
        yield losses, {"codes_used": used, "perplexity": perplexity, "latents": are_finite}


@dataclass(frozen=True)
class PatchesLearnerConfig(PatchesConfig):
    """The same: there is nothing to train."""


class PatchesLearner:
    """A Learner that takes in new squares at the beginning of its one step an epoch, and trains nothing."""

    name = "tokenizer"
    optimization = OptimizationConfig(steps_per_epoch=1, batch_size=1)
    pieces = Pieces(1, 1)

    def __init__(self, network: PatchTokenizer, cache: TokenCache) -> None:
        self.network, self.cache, self._known = network, cache, 1.0

    def begin_phase(self, batches: Batches, epoch: int) -> None:
        """Codes in use stay, but squares that had none may have one now."""
        self.cache.invalidate()
        self._known = self.network.grow(batches.source)

    def losses(self, segment: Segment, draw: Draw) -> Iterator[tuple[Named, Named]]:
        """None; told are the codes in use, and which share of the new squares has one."""
        yield {}, {"codes_used": self.network.num_codes, "known_squares": torch.tensor(self._known)}


def new_learner(
    config: TokenizerLearnerConfig | PatchesLearnerConfig, network: AnyTokenizer, cache: TokenCache
) -> Learner:
    """Of the kind that the tokenizer is of; one of the user's own takes the autoencoder's, or another in its place."""
    if isinstance(network, PatchTokenizer):
        return PatchesLearner(network, cache)
    assert isinstance(config, TokenizerLearnerConfig)
    return TokenizerLearner(config, network, cache)
