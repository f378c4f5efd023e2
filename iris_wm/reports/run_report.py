"""The report of a run: what the tokenizer keeps and the world dreams, curves and scores, on one page."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from iris_wm.acting import AtTemperature, RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.config import dump_yaml
from iris_wm.data.episode import Episode
from iris_wm.envs import EnvConfig, make_env
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.evaluation.published import published
from iris_wm.evaluation.scores import ReturnSummary, human_normalized_score, summarize_returns
from iris_wm.reports.page import Card, Section, render_page
from iris_wm.runs.open import Run
from iris_wm.streams import stream_seed
from iris_wm.tokenizer.tokenizer import to_uint8
from iris_wm.visualization.film_strip import film_strip
from iris_wm.visualization.metric_curves import draw_curves, read_metrics
from iris_wm.visualization.video import dream_frames, write_gif
from iris_wm.world.token_world import SamplingConfig

BURN_IN = 8
DREAM_STEPS = 56


def write_run_report(
    run: Run, *, num_episodes: int, seed: int = 0
) -> tuple[Path, ReturnSummary, ReturnSummary]:
    """Measure the agent and a random policy, draw everything, and write RUN/report/index.html.

    Args:
        run: opened.
        num_episodes: of the real game, for the agent and for the random policy each.
        seed: of games and dreams.

    Returns:
        The page's path, the agent's and the random policy's returns.
    """
    folder = run.path / "report"
    folder.mkdir(exist_ok=True)
    settings = run.config.evaluation
    agent, random = (
        summarize_returns(
            evaluate(
                actor,
                run.config.env,
                num_episodes=num_episodes,
                num_envs=settings.num_envs,
                seed=stream_seed(run.config.seed, "report", seed) % 2**31,
                max_steps=settings.max_steps,
            ).returns
        )
        for actor in (AtTemperature(run.agent, settings.policy_temperature), RandomActor(run.agent.actions))
    )
    curves = folder / "curves.png"
    draw_curves(read_metrics(run.path / "metrics.csv"), random_return=random.mean).save(curves)
    pictures = [
        *draw_dream(run, folder, seed=seed),
        Section("Curves", "Every logged number against the steps taken in the game.", curves),
    ]
    path = folder / "index.html"
    path.write_text(run_page(run, agent, random, pictures), encoding="utf-8")
    return path, agent, random


def run_page(run: Run, agent: ReturnSummary, random: ReturnSummary, pictures: Sequence[Section]) -> str:
    """The page as HTML text: both policies' returns, the pictures, time, parameters, commands to go on with, config."""
    game, epochs = run.config.env.id, run.config.training.num_epochs
    cards = [
        Card("Agent: mean return", f"{agent.mean:.4g}", _interval(agent), "agent"),
        Card("Random policy: mean return", f"{random.mean:.4g}", _interval(random), "random"),
        Card("Above random", f"{agent.mean - random.mean:+.4g}", "return, measured in this run", "gain"),
    ]
    if game in published()["Human"].scores:
        score = 100 * float(human_normalized_score(game, agent.mean))
        note = f"0 % random, 100 % human ({published()['Human'].scores[game][0]:g})"
        cards.append(Card("Human-normalised", f"{score:.1f} %", note, "human"))
    ends = (0.0, agent.low, agent.high, random.low, random.high)
    return render_page(
        f"{game}: {run.path.name}",
        facts=[
            game,
            f"{run.progress.env_steps:,} environment steps",
            f"{run.progress.epoch - 1:,} epochs",
            f"seed {run.config.seed}",
            f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
            *(
                f"{name}: {sum(p.numel() for p in getattr(run.agent, name).parameters()):,} parameters"
                for name in ("tokenizer", "world", "policy")
            ),
        ],
        cards=cards,
        sections=pictures,
        template="run.html.jinja",
        bars=[("agent", "Agent", agent), ("random", "Random policy", random)],
        low=min(ends),
        high=max(ends) if max(ends) > min(ends) else min(ends) + 1,
        seconds=run.progress.seconds,
        commands=[
            ("Train on", f"iris-wm fit --run {run.path} --training.num_epochs {2 * epochs}"),
            ("Dream again", f"iris-wm dream {run.path} --seed 1"),
            ("Measure it", f"iris-wm evaluate {run.path} --episodes 100"),
        ],
        config=dump_yaml(run.config),
    )


def _interval(returns: ReturnSummary) -> str:
    episodes = f"{returns.num_episodes:,} episode{'' if returns.num_episodes == 1 else 's'}"
    return f"95 % interval {returns.low:.4g} to {returns.high:.4g} · {episodes}"


def draw_dream(run: Run, folder: Path, *, seed: int) -> list[Section]:
    """A strip of real over reconstructed frames, and a dream beside the real episode it started from."""
    real = real_episode(run.agent, run.config.env, BURN_IN + DREAM_STEPS, seed)
    reconstructed = to_uint8(run.agent.tokenizer.reconstruct(real.frames))
    film_strip(
        {"real": real.frames, "reconstructed": reconstructed},
        num_frames=10,
        difference=("real", "reconstructed"),
    ).save(folder / "reconstructions.png")
    dreamed = dream_beside(run.agent, real, BURN_IN, seed)
    names = run.agent.actions.names
    pictures = dream_frames(dreamed, real=real, burn_in=BURN_IN, action_names=names)
    write_gif(pictures, folder / "dream.gif", frames_per_second=8)
    film_strip({"real": real.frames, "dreamed": dreamed.frames}, num_frames=12, dream_starts_at=BURN_IN).save(
        folder / "dream.png"
    )
    return [
        Section(
            "A dream beside the game",
            f"Left the real game, right the dream. The world model sees {BURN_IN} real steps, then imagines "
            "on its own; both sides play the same actions.",
            folder / "dream.gif",
        ),
        Section("The same as a strip", "The line marks where the dream begins.", folder / "dream.png"),
        Section(
            "What the tokens keep",
            f"Real frames, and the same after {run.agent.tokenizer.tokens_per_frame} tokens each.",
            folder / "reconstructions.png",
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
    agent: Agent, real: Episode, burn_in: int, seed: int, sampling: SamplingConfig | None = None
) -> Episode:
    """The real episode's first burn_in steps as they were, and from there a dream under the same actions.

    sampling: of the world model; by default temperature 1.
    """
    burn_in = min(burn_in, len(real) - 1)
    context = real.slice(0, burn_in)
    dream = agent.dream(
        real.frames[burn_in],
        len(real) - burn_in,
        seed,
        context=context,
        actions=real.actions[burn_in:],
        sampling=sampling,
    )
    return Episode.concatenate([context, dream])
