"""`iris-wm dream`: dream an episode and write it as GIF and MP4."""

import argparse
import sys
from pathlib import Path

from iris_wm.checkpoint.run_folder import existing_run

HELP = "dream an episode: GIF and MP4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--steps", type=int, default=64, help="dreamed steps")
    parser.add_argument("--burn-in", type=int, default=8, help="real steps before")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--policy", action="store_true", help="the agent acts in the dream (default: real actions)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of the dream; 0: most likely tokens")
    parser.add_argument("--output", metavar="FOLDER", help="(default: RUN/dreams)")


def run(options: argparse.Namespace) -> int:
    """Play to a real moment, dream on from it, write the pictures."""
    existing_run(options.run)
    from iris_wm.data.episode import Episode
    from iris_wm.reports.run_report import dream_beside, real_episode
    from iris_wm.runs.open import open_dreamer
    from iris_wm.visualization.video import dream_frames, write_gif, write_mp4
    from iris_wm.world.token_world import SamplingConfig

    for name, value, least in (("steps", options.steps, 1), ("burn-in", options.burn_in, 0)):
        if value < least:
            raise ValueError(f"--{name}: got {value}, expected at least {least}")
    sampling = SamplingConfig(options.temperature)
    folder = Path(options.output or Path(options.run) / "dreams")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: expected a folder, got a file")
    run = open_dreamer(options.run)
    real = real_episode(run.agent, run.config.env, options.burn_in + options.steps, options.seed)
    burn_in = min(options.burn_in, len(real) - 1)
    if options.policy:
        context = real.slice(0, burn_in)
        first_frame = real.frames[burn_in]
        dream = run.agent.dream(first_frame, options.steps, options.seed, context=context, sampling=sampling)
        dream = Episode.concatenate([context, dream])
    else:
        dream = dream_beside(run.agent, real, burn_in, options.seed, sampling)
    folder.mkdir(parents=True, exist_ok=True)
    images = dream_frames(
        dream,
        real=None if options.policy else real,
        burn_in=burn_in,
        action_names=run.agent.actions.names,
    )
    written = [write_gif(images, folder / f"dream-{options.seed}.gif", frames_per_second=10)]
    try:
        written.append(write_mp4(images, folder / f"dream-{options.seed}.mp4", frames_per_second=10))
    except ValueError as error:
        print(f"iris-wm dream: no MP4: {error}", file=sys.stderr)
    print(f"{len(dream)} steps, return {dream.episode_return:g}: " + ", ".join(map(str, written)))
    return 0
