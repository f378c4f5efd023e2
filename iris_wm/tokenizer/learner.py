"""How a tokenizer learns: an autoencoder from single frames; a table of squares by taking them in."""

from dataclasses import dataclass, field

import torch

from iris_wm.data.batches import Batches
from iris_wm.data.segment import Segment
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Learner, Named, Pieces
from iris_wm.streams import Draw
from iris_wm.tokenizer.loss import LPIPS, TokenizerLossConfig, tokenizer_loss
from iris_wm.tokenizer.patches import AnyTokenizer, PatchesConfig, PatchTokenizer
from iris_wm.tokenizer.quantizer import codebook_usage
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.tokenizer.tokenizer import Tokenizer, TokenizerConfig

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

    def losses(self, segment: Segment, draw: Draw) -> tuple[Named, Named]:
        """See Learner."""
        frames = segment.frames.flatten(0, 1)
        output = self.network(frames)
        perceptual = self._perceptual.to(frames.device) if self._perceptual is not None else None
        losses = tokenizer_loss(output, self.network.normalize(frames), self.config.loss, perceptual)
        with torch.no_grad():
            used, perplexity = codebook_usage(output.obs_tokens, self.network.quantizer.codebook_size)
            are_finite = torch.isfinite(output.latents).all()  # of a NaN the nearest code is code 0
        return losses, {"codes_used": used, "perplexity": perplexity, "latents": are_finite}


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

    def losses(self, segment: Segment, draw: Draw) -> tuple[Named, Named]:
        """None; told are the codes in use, and which share of the new squares has one."""
        return {}, {"codes_used": self.network.num_codes, "known_squares": torch.tensor(self._known)}


def new_learner(
    config: TokenizerLearnerConfig | PatchesLearnerConfig, network: AnyTokenizer, cache: TokenCache
) -> Learner:
    """Of the kind that the tokenizer is of; one of the user's own takes the autoencoder's, or another in its place."""
    if isinstance(network, PatchTokenizer):
        return PatchesLearner(network, cache)
    assert isinstance(config, TokenizerLearnerConfig)
    return TokenizerLearner(config, network, cache)
