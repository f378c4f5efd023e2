"""A run folder, opened to look at: its config, its agent, where it stands."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

import iris_wm
from iris_wm.agent import Agent, AgentConfig
from iris_wm.checkpoint.folder import Checkpoint, load_newest
from iris_wm.checkpoint.opening import RUN_CONFIG_FILE, existing_run
from iris_wm.checkpoint.run_folder import refuse_foreign
from iris_wm.config import build_config, read_yaml
from iris_wm.evaluation.evaluate import PlayedEpisodes
from iris_wm.evaluation.result import (
    DEVICE_SHARE_VARIABLE,
    CurvePoint,
    EvaluationRecord,
    RunResult,
)
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, RunProgress


@dataclass(frozen=True)
class Run:
    """What a run folder holds now; nothing in it is changed by looking."""

    path: Path
    config: RunConfig
    agent: Agent
    progress: RunProgress
    checkpoint: Checkpoint


def open_run(path: str | Path) -> Run:
    """The newest checkpoint of a run that verifies; the agent on the GPU where there is one.

    Raises:
        ValueError: the path is no run folder, or it has no checkpoint yet.
        DamagedState: no checkpoint of the run can be used, or its config.yaml is no longer the run's.
    """
    folder = existing_run(path)
    try:
        config = build_config(RunConfig, read_yaml(folder / RUN_CONFIG_FILE))
    except ValueError as error:
        raise ValueError(
            f"{folder / RUN_CONFIG_FILE}: made by another version of iris_wm, or edited ({error}); open the run "
            "with the version that made it"
        ) from None
    refuse_foreign(folder, config.identity(), RunConfig().identity())  # where config.yaml was edited
    checkpoint = load_newest(folder)
    if checkpoint is None:
        raise ValueError(
            f'"{path}": the run has no checkpoint yet; continue it with iris-wm fit --run {path}'
        )
    progress = RunProgress()
    progress.load_state_dict(checkpoint.training[STATE_KEY])
    agent = Agent.from_weights(build_config(AgentConfig, checkpoint.agent_config), checkpoint.agent)
    if torch.cuda.is_available() and config.trainer.accelerator != "cpu":
        agent = agent.cuda()
    return Run(folder, config, agent, progress, checkpoint)


def open_dreamer(path: str | Path) -> Run:
    """The same, of a run whose world model has learned something; ValueError otherwise."""
    run = open_run(path)
    if "world" not in run.progress.seconds:
        first = run.config.world.optimization.start_after_epoch + 1
        raise ValueError(
            f'run "{path}": its world model is not trained yet (checkpoint of epoch {run.progress.epoch}, its '
            f"training starts in epoch {first}); go on with iris-wm fit --run {path}"
        )
    return run


def make_result(
    run: Run, played: PlayedEpisodes, *, seed: int, policy_temperature: float, preset: str
) -> RunResult:
    """The result file of a run whose agent was evaluated: the measurement and its whole protocol."""
    env = run.config.env
    return RunResult(
        game=env.id,
        seed=run.config.seed,
        preset=preset,
        config_hash=run.checkpoint.manifest.config_hash,
        package_version=iris_wm.__version__,
        commit=current_commit(),
        env_steps=run.progress.env_steps,
        epochs=run.progress.epoch - 1,
        wall_seconds=sum(run.progress.seconds.values()),
        device=torch.cuda.get_device_name() if run.agent.device.type == "cuda" else "cpu",
        evaluation=EvaluationRecord(
            episodes=len(played.returns),
            returns=played.returns,
            lengths=played.lengths,
            policy_temperature=policy_temperature,
            epsilon=0.0,
            sticky_actions=env.sticky,
            noop_max=min(1, env.noop_max),  # a test game begins with exactly one
            max_emulator_frames=min(
                env.max_emulator_frames_test, run.config.evaluation.max_steps * env.frame_skip
            ),
            life_loss_terminal=env.terminal_on_life_loss,
            resize=env.resize,
            seed=seed,
            full_games=True,
        ),
        curve=[
            CurvePoint(
                env_steps=point["env_steps"],
                epoch=point["epoch"],
                mean_return=sum(point["returns"]) / len(point["returns"]),
                returns=point["returns"],
            )
            for point in run.progress.curve
        ],
        device_share=float(os.environ.get(DEVICE_SHARE_VARIABLE, "1")),
    )


def current_commit() -> str | None:
    """The commit of the package's own source tree, None where it is installed without one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None
