"""Lightning's door to our checkpoints: what the Trainer saves becomes a verified folder, and back."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.io import CheckpointIO

from iris_wm.checkpoint.folder import load_checkpoint, save_checkpoint
from iris_wm.checkpoint.replay_segments import ReplaySource
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import to_mapping
from iris_wm.runs.progress import STATE_KEY


class RunCheckpointIO(CheckpointIO):
    """Writes the Trainer's checkpoint dict as a checkpoint of the run folder, replay included.

    Lightning's loop counters are left out: our own place in the schedule (STATE_KEY) says where to go on.
    run: None where another process writes.
    """

    def __init__(self, run: RunFolder | None, agent_config: Any) -> None:
        self.run = run
        self.agent_config = to_mapping(agent_config)
        self.replay: ReplaySource | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """The folder's name follows from the step; path is only Lightning's name for it."""
        assert self.run is not None, "only rank 0 saves"
        training = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "loops")}
        state = checkpoint[STATE_KEY]
        save_checkpoint(
            self.run,
            step=state["total_steps"],
            env_steps=state["env_steps"],
            epoch=state["epoch"],
            agent=checkpoint["state_dict"],
            agent_config=self.agent_config,
            training=training,
            replay=self.replay,
            score=state["score"],
        )

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A verified checkpoint as the Trainer's dict, and the replay's parts under "replay"."""
        loaded = load_checkpoint(Path(path))
        checkpoint = dict(loaded.training)
        checkpoint["state_dict"] = loaded.agent
        checkpoint["replay"] = loaded.replay_parts()
        checkpoint.setdefault("pytorch-lightning_version", pl.__version__)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Checkpoints are pruned by the save itself."""
