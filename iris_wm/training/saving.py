"""Saves a run, stops it, and reports a number that went bad; and Lightning's door to our checkpoints."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import safetensors.torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import NumericFailure, Stopped
from iris_wm.checkpoint.folder import load_checkpoint, save_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import to_mapping
from iris_wm.runs.progress import STATE_KEY, InterruptedStep, StopRequest
from iris_wm.training.datamodule import ReplayDataModule
from iris_wm.training.distributed import agree
from iris_wm.training.module import IrisModule

FAILURE_FOLDER = "failure"
DATA_KEY = ReplayDataModule.__qualname__  # under which Lightning keeps a data module's state


class RunKeeper(Checkpoint):
    """Saves by time and by epochs and when asked to stop, always between two steps.

    On a number that is not finite, RUN/failure/failure.json names the tensor, phase and step; batch.safetensors holds
    what the step had drawn.
    """

    def __init__(self, run: Path, stop: StopRequest) -> None:
        self.run, self.stop = run, stop
        self._last_save = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back where Lightning's own handler would communicate in the middle of anything."""
        if trainer.world_size > 1:
            self.stop.is_shared = True
            self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; after the last step of an epoch that is left to the epoch's end."""
        module = _iris(pl_module)
        if not module.is_epoch_over:
            is_due, should_stop = self._decide(trainer, module)
            if is_due or should_stop:
                self._save(trainer, module)
            if should_stop:
                self._stop(module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save every few epochs, after an evaluation, when time is up or a stop asked for, and at the run's end."""
        module = _iris(pl_module)  # which has turned the page: Lightning calls this kind of callback after it
        progress, config = module.progress, module.config.training
        finished = progress.epoch - 1
        is_over = finished >= config.num_epochs
        was_evaluated = bool(progress.curve) and progress.curve[-1]["epoch"] == finished
        is_due, should_stop = self._decide(trainer, module)
        is_due = is_due or was_evaluated or finished % config.checkpoint_every_epochs == 0
        if is_due or is_over or should_stop:
            self._save(trainer, module)
        if should_stop and not is_over:
            self._stop(module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save as of before a step that was interrupted, or where Lightning heeds a SIGTERM between two steps."""
        module = _iris(pl_module)
        if isinstance(exception, NumericFailure) and trainer.is_global_zero:
            self._report(module, exception)
        if isinstance(exception, InterruptedStep | SIGTERMException):
            if module.is_epoch_over:
                module.on_train_epoch_end()
            self._save(trainer, module)

    def _decide(self, trainer: pl.Trainer, module: IrisModule) -> tuple[bool, bool]:
        """Whether a save is due, and whether to stop; the same in all processes."""
        minutes = (time.monotonic() - self._last_save) / 60
        is_due = minutes >= module.config.training.checkpoint_every_minutes
        decision = agree(trainer, 2 if self.stop.reason is not None else int(is_due))
        return decision == 1, decision == 2

    def _stop(self, module: IrisModule) -> None:
        """Leave the run, saved, so that the same command continues it."""
        raise Stopped(
            f"{self.stop.reason or 'another process was asked to stop'}; saved at {module.progress.env_steps} "
            "env steps, same command continues"
        )

    def _save(self, trainer: pl.Trainer, module: IrisModule) -> None:
        """One checkpoint of everything; refused if a weight is not finite."""
        module.check_weights("not saved, the last checkpoint is kept")
        trainer.save_checkpoint(f"step-{module.progress.total_steps}")
        self._last_save = time.monotonic()

    def _report(self, module: IrisModule, failure: NumericFailure) -> None:
        """Write the report; a full disk must not hide the failure itself."""
        step, segment, folder = module.step, module.segment, self.run / FAILURE_FOLDER
        report: dict[str, Any] = {"message": str(failure), "tensor": failure.tensor}
        if step is not None:
            report |= {"phase": step.component, "epoch": step.epoch, "step": step.index}
        try:
            durable.make_folder(folder)
            if segment is not None:
                columns = vars(segment)
                known = {name: column for name, column in columns.items() if column is not None}
                data = safetensors.torch.save(
                    {name: column.detach().cpu().contiguous() for name, column in known.items()}
                )
                durable.replace_file(folder / "batch.safetensors", data)
            durable.replace_file(folder / "failure.json", json.dumps(report, indent=1).encode())
        except OSError:
            return


def _iris(module: pl.LightningModule) -> IrisModule:
    assert isinstance(module, IrisModule)
    return module


class RunCheckpointIO(CheckpointIO):
    """Writes the Trainer's checkpoint dict as a checkpoint of the run folder, replay included.

    Lightning's loop counters are left out: our own place in the schedule (STATE_KEY) says where to go on.
    run: None where another process writes.
    """

    def __init__(self, run: RunFolder | None, agent_config: Any) -> None:
        self.run = run
        self.agent_config = to_mapping(agent_config)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """The folder's name follows from the step; path is only Lightning's name for it."""
        assert self.run is not None, "only rank 0 saves"
        training = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "loops")}
        data, state = dict(training[DATA_KEY]), checkpoint[STATE_KEY]
        replay = data.pop("replay")
        save_checkpoint(
            self.run,
            step=state["total_steps"],
            env_steps=state["env_steps"],
            epoch=state["epoch"],
            agent=checkpoint["state_dict"],
            agent_config=self.agent_config,
            training={**training, DATA_KEY: data},
            replay=replay,
            score=state["score"],
        )

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A verified checkpoint as the Trainer's dict, the replay's parts among the data module's state."""
        loaded = load_checkpoint(Path(path))
        checkpoint = {**loaded.training, "state_dict": loaded.agent}
        checkpoint[DATA_KEY] = {**checkpoint[DATA_KEY], "replay": loaded.replay_parts()}
        checkpoint.setdefault("pytorch-lightning_version", pl.__version__)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Checkpoints are pruned by the save itself."""
