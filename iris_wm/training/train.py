"""fit: from a config and a run folder to a trained agent; the same call continues what was stopped."""

import logging
import os
import signal
import sys
import traceback
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from iris_wm.agent import Agent, check_size
from iris_wm.checkpoint.errors import NumericFailure, ResourceError, Stopped
from iris_wm.checkpoint.folder import Checkpoint, load_newest, resume
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import dump_yaml
from iris_wm.envs import make_env
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.runs.config import RunConfig, TrainerConfig
from iris_wm.runs.operating_system import end_with_parent
from iris_wm.runs.progress import STATE_KEY, InterruptedStep, RunProgress, StopRequest
from iris_wm.training.datamodule import ReplayDataModule
from iris_wm.training.display import Display, RunConsole
from iris_wm.training.distributed import is_lost_peer, own_rank
from iris_wm.training.loggers import EventFiles, MetricsLogger, silent_writer
from iris_wm.training.module import IrisModule
from iris_wm.training.saving import RunCheckpointIO, RunKeeper
from iris_wm.training.schedule import MakeAgent, MakeLearners, iris_learners
from iris_wm.training.watch import CodebookWatch

Parts = tuple[MakeLearners, MakeAgent]


@dataclass(frozen=True)
class FitResult:
    """The trained agent and where the run stands."""

    agent: Agent
    progress: RunProgress


def fit(
    config: RunConfig,
    run_path: str | Path,
    *,
    is_quiet: bool = False,
    make_learners: MakeLearners = iris_learners,
    make_agent: MakeAgent = Agent,
) -> FitResult:
    """Train until the schedule is done, or continue a run that was stopped.

    Args:
        config: of the run; for an existing run folder it must be the run's own, but for how long and on what
            machine it trains.
        run_path: the run folder, made if it does not exist.
        is_quiet: print nothing.
        make_learners: the list of what is trained, from the config, the agent and a callable that a long step tells how
            far it is.
        make_agent: from its config; for an agent with a part of your own.

    Raises:
        ValueError: the config does not fit the environment or the machine.
        DamagedState, NumericFailure, ResourceError, Stopped: see iris_wm.checkpoint.errors.
    """
    check_machine(config.trainer)
    if config.trainer.num_threads:
        torch.set_num_threads(config.trainer.num_threads)
    rank = own_rank(config.trainer)
    if rank:
        end_with_parent()
    console = RunConsole(quiet=is_quiet or rank > 0)
    stop, parts = StopRequest(config.training.max_minutes), (make_learners, make_agent)
    envs = [make_env(config.env) for _ in range(config.collection.num_envs)]
    check_size(config.agent_config(envs[0].actions))
    with stop.listening():
        if rank:
            return _follow(config, Path(run_path), envs, console, stop, parts)
        with RunFolder(run_path, config.identity(), dump_yaml(config), RunConfig().identity()) as run:
            checkpoint = resume(run)
            if checkpoint is None and not run.is_new:
                console.print(
                    f"{run.path} has no checkpoint: starting from the beginning",
                    style="yellow",
                    soft_wrap=True,
                )
            return _train(config, run.path, run, checkpoint, envs, console, stop, parts)


def _follow(
    config: RunConfig,
    path: Path,
    envs: list[SnapshotEnv],
    console: Console,
    stop: StopRequest,
    parts: Parts,
) -> FitResult:
    """What a process that rank 0 has started does: the same, but it writes nothing, and its end is rank 0's."""
    checkpoint = load_newest(path)
    try:
        return _train(config, path, None, checkpoint, envs, console, stop, parts)
    except (Stopped, NumericFailure):  # raised in all processes; what rank 0 says counts
        sys.exit(0)
    except BaseException:
        traceback.print_exc()
        os.kill(os.getppid(), signal.SIGKILL)  # rank 0 may hang
        raise


def _train(
    config: RunConfig,
    path: Path,
    run: RunFolder | None,
    checkpoint: Checkpoint | None,
    envs: list[SnapshotEnv],
    console: Console,
    stop: StopRequest,
    parts: Parts,
) -> FitResult:
    for folder, reason in checkpoint.skipped if checkpoint else []:
        console.print(f"skipped {folder.name}: {reason}", style="yellow", soft_wrap=True)
    module = IrisModule(config, envs[0].actions, *parts)
    progress, data = module.progress, ReplayDataModule(config, module.agent, envs)
    io = RunCheckpointIO(run, module.agent.config)
    if checkpoint and checkpoint.manifest.epoch > config.training.num_epochs:
        module.agent.load_weights(checkpoint.agent)
        progress.load_state_dict(checkpoint.training[STATE_KEY])
        console.print(f"{path} has finished its {config.training.num_epochs} epochs already", soft_wrap=True)
        return FitResult(module.agent.eval(), progress)
    with silent_writer(), Display(config, console, console.quiet) as display:
        callbacks: list[pl.Callback] = [display, CodebookWatch(console), RunKeeper(path, stop)]

        def report(what: str, done: int, total: int) -> None:
            display.work(what, done, total)
            stop.check()

        module.report = report
        loggers = (
            [MetricsLogger(run.metrics), EventFiles(path, name="", version="tensorboard")] if run else []
        )
        trainer = build_trainer(config, path, callbacks, io, loggers)
        if checkpoint:
            manifest = checkpoint.manifest
            console.print(
                f"continuing {path} at epoch {manifest.epoch}, {manifest.env_steps} env steps", soft_wrap=True
            )
        try:
            trainer.fit(module, data, ckpt_path=str(checkpoint.folder) if checkpoint else None)
        except InterruptedStep as interruption:
            raise Stopped(f"{interruption}; saved, the same command continues the run") from None
        except RuntimeError as error:
            if trainer.world_size > 1 and is_lost_peer(error):
                raise ResourceError(
                    f"rank {trainer.global_rank}: another process of this run died or did not answer for "
                    f"{config.trainer.timeout_minutes:g} minutes; the same command continues from the last checkpoint"
                ) from None
            raise
        except SIGTERMException:  # saved by then; too late to stop anything after the last step
            if progress.epoch <= config.training.num_epochs:
                raise Stopped("received SIGTERM; saved, the same command continues the run") from None
    return FitResult(module.agent.eval(), progress)


def build_trainer(
    config: RunConfig, path: Path, callbacks: list[pl.Callback], io: RunCheckpointIO, loggers: list[Logger]
) -> pl.Trainer:
    """Lightning's Trainer with our persistence, our progress display and no validation loop."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore",
        message=".*(does not have many workers|val_dataloader|litlogger|LeafSpec|Grad strides|srun).*",
    )
    return pl.Trainer(
        default_root_dir=path,
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=DDPStrategy(
            find_unused_parameters=True, timeout=timedelta(minutes=config.trainer.timeout_minutes)
        )
        if config.trainer.devices > 1
        else "auto",
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        max_epochs=-1,
        callbacks=callbacks,
        plugins=[io, LightningEnvironment()],  # whatever a scheduler has put into the environment
        logger=loggers,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def check_machine(config: TrainerConfig) -> None:
    """Refuse a machine that is not there, before anything else is done."""
    num_gpus = torch.cuda.device_count()
    if config.accelerator == "gpu" and config.devices > num_gpus:
        raise ValueError(
            f"trainer.accelerator: asked for {config.devices} GPU, found {num_gpus}; use trainer.accelerator: cpu"
        )
    available = (num_gpus if config.accelerator != "cpu" else 0) or os.cpu_count() or 1
    if config.devices > available:
        raise ValueError(f"trainer.devices: asked for {config.devices}, found {available}")
