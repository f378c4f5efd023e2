"""What each command of the command line does. Heavy imports wait until a command needs them."""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iris_wm.runs.open import Run


def fit_command(options: argparse.Namespace) -> int:
    from iris_wm.checkpoint.opening import CONFIG_FILE, refuse_in_use
    from iris_wm.config import apply_overrides, build_config, dump_yaml, merge, read_yaml

    own = Path(options.run) / CONFIG_FILE
    files = options.config or ([own] if own.is_file() else [])
    if not files:
        raise ValueError("expected --config FILE for a new run, for example --config configs/demo.yaml")
    mapping: dict = {}
    for file in files:
        mapping = merge(mapping, read_yaml(file))
    mapping = apply_overrides(mapping, options.overrides)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # Lightning reads them when it is imported
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise ValueError(f"environment variable {name}: got {value!r}, expected an integer; or unset it")
    is_first_process = os.environ.get("LOCAL_RANK", "0") == "0"  # the one that locks, where several train
    if is_first_process and not options.print_config:
        refuse_in_use(options.run)
    from iris_wm.envs.make import check_id
    from iris_wm.runs.config import RunConfig

    config = build_config(RunConfig, mapping)
    check_id(config.env.id)
    if options.print_config:
        print(dump_yaml(config), end="")
        return 0
    from iris_wm.checkpoint.run_folder import refuse_foreign

    refuse_foreign(options.run, config.identity(), RunConfig().identity())
    from iris_wm.training.train import fit

    fit(config, options.run, is_quiet=options.quiet)
    return 0


def evaluate_command(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from iris_wm.checkpoint.opening import check_writable
    from iris_wm.evaluation.evaluate import evaluate
    from iris_wm.evaluation.result import RESULT_FILE
    from iris_wm.reports.run import summarize_returns
    from iris_wm.runs.open import make_result, open_run

    run = open_run(options.run)
    settings = run.config.evaluation
    path = Path(options.output or run.path / RESULT_FILE)
    if path.exists() and not path.is_file():
        raise ValueError(
            f"--output {path}: expected a file, got {'a folder' if path.is_dir() else 'something else'}"
        )
    check_writable(path.parent)  # not only after hours of playing
    temperature = settings.temperature if options.temperature is None else options.temperature
    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=options.episodes)
        played = evaluate(
            run.agent,
            run.config.env,
            num_episodes=options.episodes,
            seed=options.seed,
            temperature=temperature,
            num_envs=settings.num_envs if options.envs is None else options.envs,
            max_steps=settings.max_steps,
            on_progress=lambda finished: bar.update(task, completed=finished),
        )
    result = make_result(run, played, seed=options.seed, temperature=temperature, preset=options.preset)
    summary = summarize_returns(played.returns)
    score = result.human_normalized_score
    text = (
        f"{result.game}: mean return {summary.mean:.2f} (95% {summary.low:.2f} to {summary.high:.2f}) over "
        f"{summary.num_episodes} episodes"
        + (f"; human-normalised {score:.3f}" if score is not None else "")
        + f"; after {result.env_steps} env steps"
    )
    console = Console(highlight=False, soft_wrap=True)
    try:
        result.save(path)
    except OSError:
        console.print(text)  # the measurement is not lost
        raise
    console.print(f"{text}; written to {path}")
    return 0


def dream_command(options: argparse.Namespace) -> int:
    from iris_wm.data.episode import Episode
    from iris_wm.dream.token_env import SamplingConfig
    from iris_wm.envs import make_env
    from iris_wm.reports.run import dream_beside, real_episode
    from iris_wm.visualization.video import dream_frames, write_gif, write_mp4

    for name, least in (("steps", 1), ("context", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: got {getattr(options, name)}, expected at least {least}")
    sampling = SamplingConfig(temperature=options.temperature, context_overflow="slide")
    folder = Path(options.output or Path(options.run) / "dreams")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: expected a folder, got a file")
    run = _open_dreamer(options.run)
    real = real_episode(run.agent, run.config.env, options.context + options.steps, options.seed)
    context_steps = min(options.context, len(real) - 1)
    if options.policy:
        context = real.slice(0, context_steps)
        first_frame = real.frames[context_steps]
        dream = run.agent.dream(first_frame, options.steps, options.seed, context=context, sampling=sampling)
        dream = Episode.concatenate([context, dream])
    else:
        dream = dream_beside(run.agent, real, context_steps, options.seed, sampling)
    folder.mkdir(parents=True, exist_ok=True)
    images = dream_frames(
        dream,
        real=None if options.policy else real,
        context_steps=context_steps,
        action_names=make_env(run.config.env).action_names,
    )
    written = [write_gif(images, folder / f"dream-{options.seed}.gif", frames_per_second=10)]
    try:
        written.append(write_mp4(images, folder / f"dream-{options.seed}.mp4", frames_per_second=10))
    except ValueError as error:
        print(f"iris-wm dream: no MP4: {error}", file=sys.stderr)
    print(f"{len(dream)} steps, return {dream.episode_return:g}: " + ", ".join(map(str, written)))
    return 0


def report_command(options: argparse.Namespace) -> int:
    from iris_wm.reports.run import summarize_returns, write_report
    from iris_wm.runs.open import open_run

    run = open_run(options.run)
    path, played, random = write_report(run, num_episodes=options.episodes, seed=options.seed)
    for name, episodes in (("agent", played), ("random policy", random)):
        summary = summarize_returns(episodes.returns)
        print(
            f"{name + ':':<15} mean return {summary.mean:.2f} (95% {summary.low:.2f} to {summary.high:.2f}) "
            f"over {summary.num_episodes} episodes"
        )
    print(f"report: {path}")
    return 0


def play_command(options: argparse.Namespace) -> int:
    from iris_wm.envs import make_env
    from iris_wm.play.agent_dream import AgentDream
    from iris_wm.play.server import serve

    run = _open_dreamer(options.run)
    dream = AgentDream(
        run.agent,
        make_env(run.config.env),
        title=f"{run.config.env.id} dream",
        num_starts=options.starts,
        seed=options.seed,
    )
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            dream,
            host=options.host,
            port=options.port,
            names=options.name,
            frames_per_second=options.speed,
            seed=options.seed,
            opens_browser=options.open,
            announce=lambda line: print(line, flush=True),
        )
    return 0


def evaluate_dream_command(options: argparse.Namespace) -> int:
    from rich.progress import Progress

    from iris_wm.checkpoint.opening import check_writable
    from iris_wm.dream.token_env import SamplingConfig
    from iris_wm.evaluation.dream_quality import collect_held_out, evaluate_dream
    from iris_wm.reports.dream import describe, write_dream_report

    sampling = SamplingConfig(temperature=options.temperature, context_overflow="slide")
    output = Path(options.output or Path(options.runs[0]) / "dream-quality")
    check_writable(output)
    runs = [_open_dreamer(path) for path in options.runs]
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


def _open_dreamer(path: str) -> "Run":
    """A run whose world model has learned something."""
    from iris_wm.runs.open import open_run
    from iris_wm.runs.registration import check_is_trained

    run = open_run(path)
    check_is_trained(path, run.checkpoint)
    return run


def checkpoint_command(options: argparse.Namespace) -> int:
    from iris_wm.checkpoint import commands

    if options.action == "verify":
        return commands.verify_command(options.run)
    if options.action == "list":
        return commands.list_command(options.run)
    if options.action == "prune":
        return commands.prune_command(options.run, options.keep, options.damaged)
    return commands.export_command(options.run, options.target, options.which)


def import_command(options: argparse.Namespace) -> int:
    from iris_wm.interop.published_iris import load_published

    agent = load_published(options.file, num_heads=options.heads)
    print(f"agent with {agent.num_actions} actions written to {agent.save(options.target)}")
    return 0


def export_command(options: argparse.Namespace) -> int:
    import torch

    from iris_wm.agent import Agent
    from iris_wm.interop.published_iris import published_state

    torch.save(published_state(Agent.load(options.run)), options.file)
    print(f"published IRIS state dict written to {options.file}")
    return 0


def benchmark_command(options: argparse.Namespace) -> int:
    from iris_wm.benchmark.commands import run

    return run(options)
