"""What happens around the training steps: collecting, encoding, evaluating, logging, saving, stopping."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from iris_wm.acting import AtTemperature
from iris_wm.checkpoint.errors import NumericFailure, Stopped
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, InterruptedStep, RunProgress, StopRequest
from iris_wm.streams import stream_seed
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.training.batches import Step
from iris_wm.training.checkpoint_io import RunCheckpointIO
from iris_wm.training.datamodule import ReplayDataModule
from iris_wm.training.display import Display
from iris_wm.training.distributed import agree, check_same_experience
from iris_wm.training.module import IrisModule
from iris_wm.training.schedule import COLLECTION_CHUNK, num_collection_steps, num_steps
from iris_wm.training.watch import check_weights

BACKGROUND_FRAMES = 1000


def log(trainer: pl.Trainer, values: dict[str, float], epoch: int, env_steps: int) -> None:
    """Tell every logger; the x axis is always env_steps."""
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": epoch}, step=env_steps)


class EpochWork(pl.Callback):
    """Does the steps that train nothing, and fills the token cache before the first step that reads it.

    A step that is interrupted has changed nothing: the run is saved as of before it, and it is done again.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ReplayDataModule,
        progress: RunProgress,
        stop: StopRequest,
        display: Display,
    ) -> None:
        self.config, self.data, self.progress, self.stop, self.display = config, data, progress, stop, display

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the module what it reads from."""
        assert isinstance(pl_module, IrisModule)
        pl_module.sampler = self.data.sampler
        pl_module.token_cache = TokenCache(self.data.replay, pl_module.agent.tokenizer.tokens_per_frame)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Step, batch_idx: int
    ) -> None:
        """Prepare or do the step."""
        assert isinstance(pl_module, IrisModule)
        assert pl_module.token_cache is not None
        self.display.begin_step(self.progress, batch)
        self._started = time.monotonic()
        try:
            self._prepare(pl_module, batch)
        except FloatingPointError as error:
            raise NumericFailure(
                f"{batch.component}: {error} at epoch {batch.epoch}, step {batch.index}",
                tensor=str(error).split()[0],
            ) from None

    def _prepare(self, pl_module: IrisModule, batch: Step) -> None:
        assert pl_module.token_cache is not None
        if batch.component == "collection":
            self._collect(pl_module, batch)
        elif batch.component == "tokenizer" and batch.index == 0:
            pl_module.token_cache.invalidate()
            tokenizer = pl_module.agent.tokenizer
            is_first = batch.epoch == self.config.tokenizer.optimization.start_after_epoch + 1
            if tokenizer.config.has_background and is_first:
                first_frames = torch.arange(min(self.data.replay.num_steps, BACKGROUND_FRAMES))
                tokenizer.set_background(self.data.replay.frames_at(first_frames))
        elif batch.component in ("world", "policy") and not pl_module.token_cache.is_fresh:
            self._fill_cache(pl_module, batch.epoch)
        elif batch.component == "evaluation":
            self._evaluate(pl_module, batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Count the step."""
        self.progress.position += 1
        self.progress.total_steps += 1
        if batch.component == "collection":
            check_same_experience(trainer, self.data.replay, self.progress.env_steps)
        self.progress.env_steps = self.data.replay.num_steps
        self.progress.add_seconds(batch.component, time.monotonic() - self._started)
        self.display.end_step(self.progress, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn the page."""
        assert isinstance(pl_module, IrisModule)
        assert pl_module.token_cache is not None
        pl_module.token_cache.invalidate()
        self.display.end_epoch(self.progress, pl_module.metrics)
        self.progress.epoch += 1
        self.progress.position = 0

    def _collect(self, module: IrisModule, step: Step) -> None:
        collector, config = self.data.collector, self.config.collection
        if step.index == 0:
            with module.autocast():
                collector.refresh_memory()
        total = num_collection_steps(self.config, step.epoch)
        chunk = COLLECTION_CHUNK * config.num_envs
        is_trained = step.epoch > self.config.policy.optimization.start_after_epoch + 1
        epsilon = config.epsilon if is_trained else config.epsilon_before_policy
        with module.autocast():
            finished = collector.collect(min(chunk, total - step.index * chunk), epsilon)
        for episode in finished:
            row = {"collection/return": episode.episode_return, "collection/length": episode.length}
            log(module.trainer, row, step.epoch, self.data.replay.num_steps)
            module.metrics |= row

    def _fill_cache(self, module: IrisModule, epoch: int) -> None:
        assert module.token_cache is not None
        decode = self.data.sampler.frames_needed(epoch, "policy")
        encode = decode | self.data.sampler.frames_needed(epoch, "world")
        if not self.config.policy.sees_frames or not self.config.imagination.burn_in:
            decode = torch.zeros_like(decode)

        def on_progress(done: int, total: int) -> None:
            self.display.work("encoding", done, total)
            self.stop.check()

        with module.autocast():
            module.token_cache.fill(module.agent.tokenizer, encode, decode, on_progress)

    def _evaluate(self, module: IrisModule, step: Step) -> None:
        config = self.config.evaluation

        def on_progress(finished: int) -> None:
            self.display.work("evaluating", finished, config.num_episodes)
            self.stop.check()

        played = evaluate(
            AtTemperature(module.agent, config.temperature),
            self.config.env,
            num_episodes=config.num_episodes,
            num_envs=config.num_envs,
            seed=stream_seed(self.config.seed, "evaluation", step.epoch) % 2**31,
            max_steps=config.max_steps,
            on_progress=on_progress,
        )
        module.metrics["evaluation/return"] = played.mean_return
        module.metrics["evaluation/length"] = sum(played.lengths) / len(played.lengths)
        self.progress.score = played.mean_return
        self.progress.curve.append(
            {"env_steps": self.progress.env_steps, "epoch": step.epoch, "returns": played.returns}
        )


class Metrics(pl.Callback):
    """Logs the mean of every metric over a phase, when the phase ends, against env_steps."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self._sums: dict[str, list[float]] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Add up; at the phase's last step, write."""
        assert isinstance(pl_module, IrisModule)
        for name, value in pl_module.metrics.items():
            if name.startswith(batch.component) and batch.component != "collection":
                total = self._sums.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1
        if batch.is_last and self._sums:
            means = {name: total / count for name, (total, count) in self._sums.items()}
            pl_module.metrics |= means
            self._sums.clear()
            log(trainer, means, batch.epoch, self.progress.env_steps)

    def state_dict(self) -> dict[str, Any]:
        """The unfinished phase's sums."""
        return {"sums": {name: list(total) for name, total in self._sums.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on adding."""
        self._sums = {name: list(total) for name, total in state_dict["sums"].items()}


class Saver(pl.Callback):
    """Saves by time and by epochs and when asked to stop, always between two steps; restores at the start."""

    def __init__(
        self,
        config: RunConfig,
        data: ReplayDataModule,
        progress: RunProgress,
        stop: StopRequest,
        io: RunCheckpointIO,
    ) -> None:
        self.config, self.data, self.progress, self.stop, self.io = config, data, progress, stop, io
        self._last_save = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is where it belongs; from now on the replay's new steps go into checkpoints."""
        self.io.replay = self.data.replay

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back where Lightning's own handler would communicate in the middle of anything."""
        if trainer.world_size > 1:
            self.stop.is_shared = True
            self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Save where it is due; after the last step of an epoch that is left to the epoch's end."""
        if self.progress.position == num_steps(self.config, batch.epoch):
            return
        is_due, should_stop = self._decide(trainer)
        if should_stop:
            self.save_and_stop(trainer)
        elif is_due:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save every few epochs, after an evaluation, when time is up or a stop asked for, and at the run's end."""
        finished = self.progress.epoch - 1
        is_over = finished >= self.config.training.num_epochs
        curve = self.progress.curve
        was_evaluated = bool(curve) and curve[-1]["epoch"] == finished
        is_due, should_stop = self._decide(trainer)
        if should_stop and not is_over:
            self.save_and_stop(trainer)
        is_due = is_due or finished % self.config.training.checkpoint_every_epochs == 0
        if is_over or was_evaluated or is_due:
            self.save(trainer)
        trainer.should_stop = is_over

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save as of before a step that was interrupted, or where Lightning heeds a SIGTERM between two steps."""
        if not isinstance(exception, InterruptedStep | SIGTERMException):
            return
        if self.progress.position and self.progress.position == num_steps(self.config, self.progress.epoch):
            self.progress.epoch += 1
            self.progress.position = 0
        self.save(trainer)

    def save_and_stop(self, trainer: pl.Trainer) -> None:
        """Leave the run so that the same command continues it."""
        self.save(trainer)
        raise Stopped(
            f"{self.stop.reason or 'another process was asked to stop'}; saved at {self.progress.env_steps} "
            "env steps, same command continues"
        )

    def _decide(self, trainer: pl.Trainer) -> tuple[bool, bool]:
        """Whether a save is due, and whether to stop; the same in all processes."""
        minutes = (time.monotonic() - self._last_save) / 60
        is_due = minutes >= self.config.training.checkpoint_every_minutes
        decision = agree(trainer, 2 if self.stop.reason is not None else int(is_due))
        return decision == 1, decision == 2

    def save(self, trainer: pl.Trainer) -> None:
        """One checkpoint of everything; refused if a weight is not finite."""
        module = trainer.lightning_module
        assert isinstance(module, IrisModule)
        check_weights(module.agent, "not saved, the last checkpoint is kept")
        trainer.save_checkpoint(f"step-{self.progress.total_steps}")
        self._last_save = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Our own state."""
        state = self.progress.state_dict()
        self.data.save_to(state)
        checkpoint[STATE_KEY] = state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Our own state, back."""
        state = dict(checkpoint[STATE_KEY])
        collector = {name: state.pop(name) for name in ("collector", "num_episodes")}
        self.data.load_from(collector, checkpoint.pop("replay"))
        self.progress.load_state_dict(state)
