"""How the world model is trained."""

from dataclasses import dataclass, field

from iris_wm.optimization import OptimizationConfig
from iris_wm.world.loss import WorldLossConfig
from iris_wm.world.network import WorldConfig


@dataclass(frozen=True)
class WorldLearnerConfig(WorldConfig):
    """The transformer, its loss and its optimization."""

    loss: WorldLossConfig = field(default_factory=WorldLossConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(start_after_epoch=25, weight_decay=0.01)
    )
