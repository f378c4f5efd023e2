"""`iris-wm evaluate`: play the real game and print the score."""

import argparse
from pathlib import Path

from iris_wm.checkpoint.run_folder import check_writable, existing_run

HELP = "play the real game and print the score"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--policy-temperature", type=float, help="of its draws of actions (default: the run's)"
    )
    parser.add_argument(
        "--actor",
        default="policy",
        help="who plays: policy, random, or constant:N (action N always), to see what a trivial one earns; only the "
        "policy's score is written to a file",
    )
    parser.add_argument("--envs", type=int, help="played side by side (default: the run's)")
    parser.add_argument("--preset", default="", help="name kept in the result file")
    parser.add_argument("--output", metavar="FILE", help="result file (default: RUN/result.json)")


def run(options: argparse.Namespace) -> int:
    """Play, print, write the result file."""
    existing_run(options.run)
    from rich.console import Console
    from rich.progress import Progress

    from iris_wm.acting import AtTemperature, ConstantActor, RandomActor
    from iris_wm.evaluation.evaluate import evaluate
    from iris_wm.evaluation.result import RESULT_FILE
    from iris_wm.evaluation.scores import summarize_returns
    from iris_wm.runs.open import make_result, open_run

    run = open_run(options.run)
    settings = run.config.evaluation
    path = Path(options.output or run.path / RESULT_FILE)
    if path.exists() and not path.is_file():
        raise ValueError(
            f"--output {path}: expected a file, got {'a folder' if path.is_dir() else 'something else'}"
        )
    check_writable(path.parent)  # not only after hours of playing
    own = options.policy_temperature
    temperature = settings.policy_temperature if own is None else own
    kind, _, action = options.actor.partition(":")
    if kind == "constant" and action.isdecimal():
        actor: AtTemperature | RandomActor = ConstantActor(run.agent.actions, int(action))
    elif options.actor in ("policy", "random"):
        is_policy = kind == "policy"
        actor = AtTemperature(run.agent, temperature) if is_policy else RandomActor(run.agent.actions)
    else:
        raise ValueError(f"--actor: got {options.actor!r}, expected policy, random or constant:N")
    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=options.episodes)
        played = evaluate(
            actor,
            run.config.env,
            num_episodes=options.episodes,
            seed=options.seed,
            num_envs=settings.num_envs if options.envs is None else options.envs,
            max_steps=settings.max_steps,
            on_progress=lambda finished: bar.update(task, completed=finished),
        )
    console = Console(highlight=False, soft_wrap=True)
    if kind != "policy":
        console.print(f"{run.config.env.id}, {options.actor}: {summarize_returns(played.returns)}")
        return 0
    result = make_result(
        run, played, seed=options.seed, policy_temperature=temperature, preset=options.preset
    )
    score = result.human_normalized_score
    text = (
        f"{result.game}: {summarize_returns(played.returns)}"
        + (f"; human-normalised {score:.3f}" if score is not None else "")
        + f"; after {result.env_steps} env steps"
    )
    try:
        result.save(path)
    except OSError:
        console.print(text)  # the measurement is not lost
        raise
    console.print(f"{text}; written to {path}")
    return 0
