"""fit: from a config and a run folder to a trained agent; the same call continues what was stopped."""

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from iris_wm.agent import Agent
from iris_wm.checkpoint.errors import Stopped
from iris_wm.checkpoint.folder import resume
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config_file import dump_yaml, to_mapping
from iris_wm.envs import make_env
from iris_wm.training.callbacks import EpochWork, Metrics, Saver
from iris_wm.training.checkpoint_io import STATE_KEY, RunCheckpointIO
from iris_wm.training.config import RunConfig, TrainerConfig
from iris_wm.training.datamodule import ReplayDataModule
from iris_wm.training.display import Display
from iris_wm.training.loggers import MetricsLogger
from iris_wm.training.module import IrisModule
from iris_wm.training.progress import InterruptedStep, RunProgress, StopRequest
from iris_wm.training.watch import CodebookWatch, FailureReport


@dataclass(frozen=True)
class FitResult:
    """The trained agent and where the run stands."""

    agent: Agent
    progress: RunProgress


def fit(config: RunConfig, run_path: str | Path, *, is_quiet: bool = False) -> FitResult:
    """Train until the schedule is done, or continue a run that was stopped.

    Args:
        config: of the run; for an existing run folder it must be the run's own, but for how long and on what
            machine it trains.
        run_path: the run folder, made if it does not exist.
        is_quiet: print nothing.

    Raises:
        ValueError: the config does not fit the environment or the machine.
        DamagedState, NumericFailure, ResourceError, Stopped: see iris_wm.checkpoint.errors.
    """
    check_machine(config.trainer)
    if config.trainer.num_threads:
        torch.set_num_threads(config.trainer.num_threads)
    console = Console(quiet=is_quiet)
    stop = StopRequest(config.training.max_minutes)
    progress = RunProgress()
    envs = [make_env(config.env) for _ in range(config.collection.num_envs)]
    num_actions = len(envs[0].action_names)
    with stop.listening(), RunFolder(run_path, identity(config), dump_yaml(config)) as run:
        checkpoint = resume(run)
        for folder, reason in checkpoint.skipped if checkpoint else []:
            console.print(f"skipped {folder.name}: {reason}", style="yellow", soft_wrap=True)
        module = IrisModule(config, num_actions)
        data = ReplayDataModule(config, module.agent, progress, envs)
        io = RunCheckpointIO(run, module.agent.config)
        with Display(config, console, is_quiet) as display:
            callbacks: list[pl.Callback] = [
                FailureReport(run.path),
                EpochWork(config, data, progress, stop, display),
                Metrics(progress),
                CodebookWatch(console),
                Saver(config, data, progress, stop, io),
            ]
            trainer = build_trainer(config, run, callbacks, io)
            if checkpoint and checkpoint.manifest.epoch > config.training.num_epochs:
                module.agent.load_weights(checkpoint.agent)
                progress.load_state_dict(checkpoint.training[STATE_KEY])
                console.print(
                    f"{run.path} has finished its {config.training.num_epochs} epochs already", soft_wrap=True
                )
                return FitResult(module.agent.eval(), progress)
            if checkpoint:
                manifest = checkpoint.manifest
                console.print(
                    f"continuing {run.path} at epoch {manifest.epoch}, {manifest.env_steps} env steps",
                    soft_wrap=True,
                )
            try:
                trainer.fit(module, data, ckpt_path=str(checkpoint.folder) if checkpoint else None)
            except InterruptedStep as interruption:
                raise Stopped(f"{interruption}; saved, the same command continues the run") from None
            except SIGTERMException:  # saved by then; too late to stop anything after the last step
                if progress.epoch <= config.training.num_epochs:
                    raise Stopped("received SIGTERM; saved, the same command continues the run") from None
    return FitResult(module.agent.eval(), progress)


def build_trainer(
    config: RunConfig, run: RunFolder, callbacks: list[pl.Callback], io: RunCheckpointIO
) -> pl.Trainer:
    """Lightning's Trainer with our persistence, our progress display and no validation loop."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", message=".*(does not have many workers|val_dataloader|litlogger|LeafSpec|srun).*"
    )
    return pl.Trainer(
        default_root_dir=run.path,
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy="ddp_find_unused_parameters_true" if config.trainer.devices > 1 else "auto",
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        max_epochs=-1,
        callbacks=callbacks,
        plugins=[io],
        logger=[
            MetricsLogger(run.metrics),
            TensorBoardLogger(run.path, name="", version="tensorboard"),
        ],
        reload_dataloaders_every_n_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def identity(config: RunConfig) -> dict[str, Any]:
    """What must not change in a run: all but how long it trains, what is measured, and on which machine."""
    mapping = to_mapping(config)
    for name in ("trainer", "evaluation"):
        del mapping[name]
    for name in ("num_epochs", "checkpoint_every_minutes", "checkpoint_every_epochs", "max_minutes"):
        del mapping["training"][name]
    return mapping


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
