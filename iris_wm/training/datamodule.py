"""The LightningDataModule: the replay, the collector that fills it, and each epoch's batches."""

from typing import Any

import lightning.pytorch as pl
import torch

from iris_wm.agent import Agent
from iris_wm.collection import Collector
from iris_wm.data.replay import Replay
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import RunProgress
from iris_wm.training.batches import BatchSampler, EpochSteps, Step


class ReplayDataModule(pl.LightningDataModule):
    """Owns the real experience. Built before the trainer, moved to the training device by setup."""

    def __init__(
        self, config: RunConfig, agent: Agent, progress: RunProgress, envs: list[SnapshotEnv]
    ) -> None:
        super().__init__()
        self.config, self.agent, self.progress, self.envs = config, agent, progress, envs

    def setup(self, stage: str) -> None:
        """Allocate the replay where the networks are."""
        assert self.trainer is not None
        size = self.config.env.resolution
        capacity = max(1, self.config.total_env_steps)
        self.replay = Replay(capacity, self.agent.actions, (3, size, size), self.trainer.strategy.root_device)
        self.collector = Collector(
            self.agent, self.envs, self.replay, self.config.collection, self.config.seed
        )
        self.sampler = BatchSampler(self.config, self.replay, self.trainer.global_rank)

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def train_dataloader(self) -> EpochSteps:
        """The rest of the epoch that the run's progress stands in; the Trainer asks anew at every epoch."""
        return EpochSteps(self.config, self.progress.epoch, self.progress.position)

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """A step holds no tensors; its data is gathered on the training device."""
        return batch

    def save_to(self, state: dict[str, Any]) -> None:
        """Add the collector's state; the replay's steps are saved as segments of their own."""
        state["collector"] = self.collector.state_dict()
        state["num_episodes"] = self.replay.num_episodes

    def load_from(self, state: dict[str, Any], parts: Any) -> None:
        """Rebuild replay and collector."""
        for part in parts:
            self.replay.extend_from_steps(part)
        self.replay.extend_from_steps(self.replay.export_steps(0, 0), state["num_episodes"])
        self.collector.load_state_dict(state["collector"])
