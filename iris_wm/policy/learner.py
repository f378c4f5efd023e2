"""How the policy is trained."""

from dataclasses import dataclass, field

from iris_wm.optimization import OptimizationConfig
from iris_wm.policy.actor_critic import PolicyConfig
from iris_wm.policy.loss import PolicyLossConfig


@dataclass(frozen=True)
class PolicyLearnerConfig(PolicyConfig):
    """The actor-critic, its loss and its optimization."""

    loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    optimization: OptimizationConfig = field(default_factory=lambda: OptimizationConfig(start_after_epoch=50))
