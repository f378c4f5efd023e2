"""Watches for a codebook that falls asleep."""

from typing import Any

import lightning.pytorch as pl
from rich.console import Console

from iris_wm.tokenizer.patches import PatchTokenizer
from iris_wm.training.module import IrisModule
from iris_wm.training.schedule import Step

LEAST_SHARE, PATIENCE = 0.05, 5


class CodebookWatch(pl.Callback):
    """One line on the terminal when less than 5% of the codes were used in 5 tokenizer phases in a row."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phases_asleep = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Count at the end of a tokenizer phase."""
        assert isinstance(pl_module, IrisModule)
        is_trained = not isinstance(pl_module.agent.tokenizer, PatchTokenizer)
        if batch.component != "tokenizer" or not batch.is_last or not is_trained:
            return
        used = pl_module.numbers["tokenizer/codes_used"]
        size = pl_module.agent.tokenizer.quantizer.codebook_size
        self.phases_asleep = self.phases_asleep + 1 if used < LEAST_SHARE * size else 0
        if self.phases_asleep == PATIENCE and trainer.is_global_zero:
            self.console.print(
                f"codebook collapse: {used:.1f} of {size} codes used a batch (less than {LEAST_SHARE:.0%}) in "
                f"{PATIENCE} tokenizer phases in a row, at epoch {batch.epoch}; the world model sees few distinct "
                "frames: lower tokenizer.optimization.learning_rate, or try tokenizer.quantizer: fsq",
                style="yellow",
                soft_wrap=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """The count, so that a resumed run warns where an undisturbed one does."""
        return {"phases_asleep": self.phases_asleep}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.phases_asleep = state_dict["phases_asleep"]
