"""`iris-wm evaluate-dream`: measure the dreams of one run, or compare several of one game."""

import argparse
from pathlib import Path

from iris_wm.checkpoint.run_folder import check_writable, existing_run

HELP = "measure the dreams: JSON, plots and a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="several runs of one game are compared")
    parser.add_argument("--episodes", type=int, default=16, help="new real episodes, played by the first run")
    parser.add_argument("--max-steps", type=int, default=500, help="of an episode")
    parser.add_argument("--horizon", type=int, default=50, help="dreamed steps")
    parser.add_argument("--starts", type=int, default=128, help="dreams")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the dreams")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="FOLDER", help="(default: dream-quality in the first RUN)")


def run(options: argparse.Namespace) -> int:
    """Play new real episodes, dream beside them, write the page."""
    for path in options.runs:
        existing_run(path)
    from rich.progress import Progress

    from iris_wm.evaluation.dream_quality import collect_held_out, evaluate_dream
    from iris_wm.reports.dream_report import describe, write_dream_report
    from iris_wm.runs.open import open_dreamer
    from iris_wm.world.token_world import SamplingConfig

    sampling = SamplingConfig(options.temperature)
    output = Path(options.output or Path(options.runs[0]) / "dream-quality")
    check_writable(output)
    runs = [open_dreamer(path) for path in options.runs]
    env = runs[0].config.env
    for run in runs[1:]:
        if run.config.env != env:
            raise ValueError(f'run "{run.path}": expected the game and frames of {runs[0].path}, got others')
    episodes = collect_held_out(
        runs[0].agent, env, num_episodes=options.episodes, max_steps=options.max_steps, seed=options.seed
    )
    qualities = []
    with Progress(transient=True) as bar:
        for run in runs:
            task = bar.add_task(run.path.name, total=options.starts)
            qualities.append(
                evaluate_dream(
                    run.agent,
                    episodes,
                    horizon=options.horizon,
                    num_starts=options.starts,
                    seed=options.seed,
                    sampling=sampling,
                    name=run.path.name,
                    game=env.id,
                    on_progress=lambda finished, task=task: bar.update(task, completed=finished),  # type: ignore[misc]
                )
            )
    page = write_dream_report(qualities, output)
    for quality in qualities:
        print(describe(quality))
    print(f"report: {page}")
    return 0
