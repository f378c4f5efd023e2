"""How the world model is trained: on segments of tokens."""

from dataclasses import dataclass, field

from iris_wm.data.batches import Batches
from iris_wm.data.segment import Segment
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Named, Pieces
from iris_wm.streams import Draw
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.world.loss import WorldLossConfig, world_loss
from iris_wm.world.network import WorldConfig, WorldNetwork


@dataclass(frozen=True)
class WorldLearnerConfig(WorldConfig):
    """The transformer, its loss and its optimization."""

    loss: WorldLossConfig = field(default_factory=WorldLossConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(start_after_epoch=25, weight_decay=0.01)
    )


class WorldLearner:
    """A Learner."""

    name = "world"

    def __init__(self, config: WorldLearnerConfig, network: WorldNetwork, cache: TokenCache) -> None:
        self.config, self.network, self.cache = config, network, cache
        self.optimization = config.optimization
        self.pieces = Pieces(config.optimization.batch_size, config.segment_steps)
        cache.add_reader(self)

    def begin_phase(self, batches: Batches, epoch: int) -> None:
        """Encode the epoch's frames."""
        self.cache.prepare(batches, epoch)

    def losses(self, segment: Segment, draw: Draw) -> tuple[Named, Named]:
        """See Learner."""
        obs_tokens, num_steps = self.cache.obs_tokens(segment.frame_indices), self.config.context_steps
        output = self.network(obs_tokens[:, :num_steps], segment.actions[:, :num_steps])
        losses = world_loss(
            self.network,
            output,
            obs_tokens,
            segment.rewards,
            segment.terminations,
            segment.is_real,
            self.config.loss,
        )
        return losses, {}
