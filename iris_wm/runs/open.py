"""A run folder, opened to look at: its config, its agent, where it stands; and to dream in."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import iris_wm
from iris_wm.agent import Agent, AgentConfig
from iris_wm.checkpoint.folder import Checkpoint, load_newest
from iris_wm.checkpoint.run_folder import RUN_CONFIG_FILE, existing_run, refuse_foreign
from iris_wm.config import build_config
from iris_wm.data.segment import Segment
from iris_wm.dream.env import DreamEnv, DreamVectorEnv
from iris_wm.evaluation.evaluate import PlayedEpisodes
from iris_wm.evaluation.result import (
    DEVICE_SHARE_VARIABLE,
    CurvePoint,
    EvaluationRecord,
    RunResult,
)
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, RunProgress
from iris_wm.streams import stream_generator
from iris_wm.strict_yaml import read_yaml


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


def load_dreamer(path: str | Path, num_starts: int = 256, seed: int = 0) -> tuple[Agent, Segment]:
    """The agent of a run and real frames of its replay to begin from, each with the steps before it.

    Raises:
        ValueError: no run folder with a checkpoint, a world model that was never trained, or no frames.
        DamagedState: no checkpoint can be used.
    """
    if isinstance(num_starts, bool) or not isinstance(num_starts, int) or num_starts < 1:
        raise ValueError(f"num_starts: got {num_starts}, expected a positive integer")
    run = open_dreamer(path)
    return run.agent, _choose_starts(run, num_starts, seed)


def make_dream(run: str | Path, *, num_starts: int = 256, starts_seed: int = 0, **options: Any) -> DreamEnv:
    """A DreamEnv of a run's newest checkpoint that verifies: what Gymnasium makes of iris_wm/Dream-v0.

    Args:
        run: the run folder.
        num_starts: real frames of the run to begin from, at most.
        starts_seed: which frames these are.
        options: as of DreamEnv.
    """
    return DreamEnv(*load_dreamer(run, num_starts, starts_seed), **options)


def make_dreams(
    run: str | Path, num_envs: int = 1, *, num_starts: int = 256, starts_seed: int = 0, **options: Any
) -> DreamVectorEnv:
    """A DreamVectorEnv in the same way."""
    return DreamVectorEnv(*load_dreamer(run, num_starts, starts_seed), num_envs, **options)


def _choose_starts(run: Run, num_starts: int, seed: int) -> Segment:
    """Steps drawn uniformly, each with the steps before it in the same episode and padding in front.

    Never more than one part of the replay is in memory, so what lies in an earlier part is padding, too.
    """
    replay = run.checkpoint.manifest.replay
    if not replay:
        raise ValueError(f'run "{run.path}": its replay is empty, there are no real frames to dream from')
    generator = stream_generator(seed, "dream starts")
    drawn = torch.randperm(replay[-1].stop, generator=generator)[:num_starts].sort().values
    num_past = run.agent.world.config.context_steps // 2
    frames, actions, is_real = [], [], []
    offset = 0
    for part in run.checkpoint.replay_parts():
        for rows in _episodes(part):
            here = drawn[(drawn >= offset) & (drawn < offset + len(rows))] - offset
            for step in here.tolist():
                places = torch.arange(step - num_past, step + 1)
                piece = rows[places.clamp(min=0)]
                frames.append(part["frames"][piece])
                actions.append(part["actions"][piece])
                is_real.append(places >= 0)
            offset += len(rows)
    return Segment.seen(torch.stack(frames), torch.stack(actions), torch.stack(is_real))


def _episodes(part: dict[str, Tensor]) -> list[Tensor]:
    """Rows of a part of the replay, for each episode in it, in the episode's order."""
    episode_ids = part["episode_ids"]
    return [(episode_ids == episode_id).nonzero().squeeze(1) for episode_id in episode_ids.unique()]


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
