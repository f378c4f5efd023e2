"""The report of a run: pictures of what the tokenizer sees and the world model dreams, curves, scores, one page."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from iris_wm.agent import Agent
from iris_wm.collection import play_episode
from iris_wm.config import dump_yaml
from iris_wm.data.episode import Episode
from iris_wm.dream.token_env import SamplingConfig
from iris_wm.envs import EnvConfig, make_env
from iris_wm.envs.atari100k import HUMAN_SCORES
from iris_wm.evaluation.evaluate import PlayedEpisodes, evaluate
from iris_wm.evaluation.result import human_normalized_or_none
from iris_wm.runs.open import Run
from iris_wm.tokenizer.tokenizer import to_uint8
from iris_wm.visualization.curves import draw_curves, read_metrics
from iris_wm.visualization.film_strip import film_strip
from iris_wm.visualization.page import Picture, ReturnSummary, RunSummary, write_page
from iris_wm.visualization.video import dream_frames, write_gif

CONTEXT_STEPS = 8
DREAM_STEPS = 56


def write_report(
    run: Run, *, num_episodes: int, seed: int = 0
) -> tuple[Path, PlayedEpisodes, PlayedEpisodes]:
    """Measure the agent and a random policy, draw everything, and write RUN/report/index.html.

    Args:
        run: opened.
        num_episodes: of the real game, for the agent and for the random policy each.
        seed: of games and dreams.

    Returns:
        The page's path, the agent's and the random policy's episodes.
    """
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    config = run.config
    steps = config.evaluation.max_steps
    played, random = (
        evaluate(
            agent,
            config.env,
            num_episodes=num_episodes,
            num_envs=config.evaluation.num_envs,
            seed=config.seed + 10**6 + seed,
            temperature=config.evaluation.temperature,
            max_steps=steps,
        )
        for agent in (run.agent, None)
    )
    pictures = [*draw_dream(run, folder, seed=seed), *_draw_curves(run, folder, random)]
    score = human_normalized_or_none(config.env.id, played.mean_return)
    networks = ("tokenizer", "world", "policy")
    summary = RunSummary(
        title=f"{config.env.id}: {run.path.name}",
        game=config.env.id,
        env_steps=run.progress.env_steps,
        epochs=run.progress.epoch - 1,
        seed=config.seed,
        agent=summarize_returns(played.returns),
        random_policy=summarize_returns(random.returns),
        human_return=HUMAN_SCORES.get(config.env.id),
        human_normalized_score=score,
        seconds=run.progress.seconds,
        num_parameters={
            name.replace("_", " "): sum(
                parameter.numel() for parameter in getattr(run.agent, name).parameters()
            )
            for name in networks
        },
        hardware=f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        config=dump_yaml(config),
        pictures=pictures,
        commands=[
            (
                "Train on",
                f"iris-wm fit --run {run.path} --training.num_epochs {2 * config.training.num_epochs}",
            ),
            ("Dream again", f"iris-wm dream {run.path} --seed 1"),
            ("Measure it", f"iris-wm evaluate {run.path} --episodes 100"),
        ],
    )
    return write_page(summary, folder / "index.html"), played, random


def draw_dream(run: Run, folder: Path, *, seed: int) -> list[Picture]:
    """A strip of real over reconstructed frames, and a dream beside the real episode it started from."""
    real = real_episode(run.agent, run.config.env, CONTEXT_STEPS + DREAM_STEPS, seed)
    reconstructed = to_uint8(run.agent.tokenizer.reconstruct(real.frames))
    strip = film_strip(
        {"real": real.frames, "reconstructed": reconstructed},
        num_frames=10,
        scale=2,
        difference=("real", "reconstructed"),
    )
    strip.save(folder / "reconstructions.png")
    dreamed = dream_beside(run.agent, real, CONTEXT_STEPS, seed)
    names = make_env(run.config.env).action_names
    write_gif(
        dream_frames(dreamed, real=real, context_steps=CONTEXT_STEPS, action_names=names),
        folder / "dream.gif",
        frames_per_second=8,
    )
    film_strip(
        {"real": real.frames, "dreamed": dreamed.frames},
        num_frames=12,
        scale=2,
        dream_starts_at=CONTEXT_STEPS,
    ).save(folder / "dream.png")
    return [
        Picture(
            folder / "dream.gif",
            "A dream beside the game",
            f"Left the real game, right the dream. The world model sees {CONTEXT_STEPS} real steps, then imagines "
            "on its own; both sides play the same actions.",
        ),
        Picture(folder / "dream.png", "The same as a strip", "The line marks where the dream begins."),
        Picture(
            folder / "reconstructions.png",
            "What the tokens keep",
            f"Real frames, and the same after {run.agent.tokenizer.tokens_per_frame} tokens each.",
        ),
    ]


def real_episode(agent: Agent, env_config: EnvConfig, num_steps: int, seed: int) -> Episode:
    """The agent playing the real game for up to num_steps steps, from a moment when things move."""
    config = replace(env_config, terminal_on_life_loss=False)
    env = make_env(config)
    warm_up = 30
    episode = play_episode(agent, env, num_steps=warm_up + num_steps, seed=seed)
    env.close()
    return episode.slice(max(0, len(episode) - num_steps), len(episode))


def dream_beside(
    agent: Agent, real: Episode, context_steps: int, seed: int, sampling: SamplingConfig | None = None
) -> Episode:
    """The real episode's first context_steps as they were, and from there a dream under the same actions.

    sampling: of the world model; by default temperature 1, and the context slides when it is full.
    """
    context_steps = min(context_steps, len(real) - 1)
    context = real.slice(0, context_steps)
    dream = agent.dream(
        real.frames[context_steps],
        len(real) - context_steps,
        seed,
        context=context,
        actions=real.actions[context_steps:],
        sampling=sampling,
    )
    return Episode.concatenate([context, dream])


def summarize_returns(returns: Sequence[float]) -> ReturnSummary:
    """Mean with a 95% percentile-bootstrap interval (10,000 resamples, fixed seed)."""
    values = np.asarray(returns, dtype=float)
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return ReturnSummary(
        mean=float(values.mean()),
        num_episodes=len(values),
        std=float(values.std()),
        low=float(low),
        high=float(high),
    )


def _draw_curves(run: Run, folder: Path, random: PlayedEpisodes) -> list[Picture]:
    image = draw_curves(read_metrics(run.path / "metrics.csv"), random_return=random.mean_return)
    image.save(folder / "curves.png")
    return [
        Picture(folder / "curves.png", "Curves", "Every logged number against the steps taken in the game.")
    ]
