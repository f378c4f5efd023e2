"""The LightningDataModule: the replay, the collector that fills it, and the steps that learn from it."""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from iris_wm.agent import Agent
from iris_wm.collection import Collector
from iris_wm.data.replay import Replay
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.runs.config import RunConfig
from iris_wm.training.schedule import EpochSteps, Step

if TYPE_CHECKING:
    from iris_wm.training.module import IrisModule


class ReplayDataModule(pl.LightningDataModule):
    """Owns the real experience. Built before the trainer, moved to the training device by setup."""

    def __init__(self, config: RunConfig, agent: Agent, envs: list[SnapshotEnv]) -> None:
        super().__init__()
        self.config, self.agent, self.envs = config, agent, envs

    def setup(self, stage: str) -> None:
        """Allocate the replay where the networks are."""
        assert self.trainer is not None
        size = self.config.env.resolution
        capacity = max(1, self.config.total_env_steps)
        device = self.trainer.strategy.root_device
        self.replay = Replay(capacity, self.agent.actions, (3, size, size), device, self.config.replay)
        self.collector = Collector(
            self.agent, self.envs, self.replay, self.config.collection, self.config.seed
        )

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def train_dataloader(self) -> EpochSteps:
        """The rest of the epoch that the run stands in; the Trainer asks anew at every epoch."""
        assert self.trainer is not None
        module: IrisModule = self.trainer.lightning_module  # type: ignore[assignment]
        return module.steps()

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """A step holds no tensors; its data is gathered on the training device."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The collector, and the replay itself, whose steps RunCheckpointIO saves as segments of their own."""
        return {
            "collector": self.collector.state_dict(),
            "num_episodes": self.replay.num_episodes,
            "replay": self.replay,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild replay and collector; "replay" are then the saved segments, in order."""
        for part in state["replay"]:
            self.replay.extend_from_steps(part)
        self.replay.extend_from_steps(self.replay.export_steps(0, 0), state["num_episodes"])
        self.collector.load_state_dict(state["collector"])
