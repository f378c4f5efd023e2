"""How the tokenizer is trained."""

from dataclasses import dataclass, field

from iris_wm.optimization import OptimizationConfig
from iris_wm.tokenizer.loss import TokenizerLossConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig


@dataclass(frozen=True)
class TokenizerLearnerConfig(TokenizerConfig):
    """The discrete autoencoder, its loss and its optimization."""

    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(start_after_epoch=5, batch_size=256)
    )
