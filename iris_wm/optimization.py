"""How one network is trained: when, from how much, and by which optimizer."""

from dataclasses import dataclass

import torch
from torch import nn

from iris_wm.config import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class OptimizationConfig(Config):
    """How one network is trained in each epoch."""

    start_after_epoch: NonNegativeInt = 0
    """Epochs before its first training."""
    steps_per_epoch: NonNegativeInt = 200
    """Batches it learns from in an epoch."""
    first_epoch_steps: NonNegativeInt = 0
    """Steps in its first epoch of training, where that should be more than steps_per_epoch; 0: the same."""
    batch_size: PositiveInt = 64
    """Frames for the tokenizer, segments for the others."""
    learning_rate: PositiveFloat = 1e-4
    """Of AdamW."""
    final_learning_rate: NonNegativeFloat = 0.0
    """Of the last epoch of num_epochs, reached in equal steps an epoch; 0: learning_rate throughout."""
    max_grad_norm: PositiveFloat = 10.0
    """Gradients longer than this are scaled down to it."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled, on the weights of linear layers only."""

    def num_steps(self, epoch: int) -> int:
        """Steps in an epoch, counted from 1."""
        if epoch <= self.start_after_epoch:
            return 0
        if epoch == self.start_after_epoch + 1 and self.first_epoch_steps:
            return self.first_epoch_steps
        return self.steps_per_epoch

    def rate(self, epoch: int, num_epochs: int) -> float:
        """The learning rate in an epoch, counted from 1, of a run of num_epochs."""
        if not self.final_learning_rate:
            return self.learning_rate
        first = self.start_after_epoch + 1
        done = min(max(0, epoch - first) / max(1, num_epochs - first), 1.0)
        return self.learning_rate + done * (self.final_learning_rate - self.learning_rate)


def build_optimizer(network: nn.Module, config: OptimizationConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on the weights of linear layers only, never on biases, norms or embeddings."""
    decayed = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    groups = [
        {
            "params": [p for p in network.parameters() if id(p) in decayed],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in network.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, fused=True
    )
