"""The command line: one function a command. Heavy imports wait until a command needs them."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import iris_wm

if TYPE_CHECKING:
    from iris_wm.run import Run

_FIT_HELP = """\
Train an agent in its dreams, or continue a run: the same command does both.

  iris-wm fit --config configs/demo.yaml --run runs/demo
  iris-wm fit --config configs/atari100k/fast.yaml --run runs/pong-0 --env.id Pong --seed 0
  iris-wm fit --run runs/demo                       (continues with the run's own config)

Any key of the config is an option: --section.key value. Later --config files go over earlier ones.
"""
# Told at once, before the heavy imports, that a folder is no run.
_LOOK_AT_RUNS = ("evaluate", "evaluate-dream", "dream", "report", "play")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. 0 done, 2 bad input, 3 damaged or foreign state, 4 numeric failure,
    5 resources, 143 stopped by a signal after a verified save."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    if is_debug:
        arguments.remove("--debug")
    parser = build_parser()
    # Config overrides of fit are not known to argparse.
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "fit":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    _tune_allocator()
    try:
        if options.command in _LOOK_AT_RUNS:
            from iris_wm.checkpoint.opening import existing_run

            for path in getattr(options, "runs", None) or [options.run]:
                existing_run(path)
        return options.run_command(options, rest)
    except Exception as error:
        from iris_wm.checkpoint.errors import RunError, exit_code

        is_expected = isinstance(error, RunError | ValueError | OSError | MemoryError | FloatingPointError)
        if is_debug or not is_expected:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"iris-wm {options.command}: {message}", file=sys.stderr)
        return exit_code(error)


def build_parser() -> argparse.ArgumentParser:
    """All commands; config overrides of fit are not among them."""
    parser = argparse.ArgumentParser(
        prog="iris-wm",
        description="A discrete-token transformer world model for Atari 100k: train it, measure it, dream with it.",
        epilog="--debug shows the traceback of an error.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"iris-wm {iris_wm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser(
        "fit",
        help="train, or continue a run",
        description=_FIT_HELP,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML; may be given again")
    fit.add_argument("--run", required=True, metavar="FOLDER", help="the run folder, made if missing")
    fit.add_argument("--quiet", action="store_true", help="print nothing")
    fit.add_argument("--print-config", action="store_true", help="print the whole config and stop")
    fit.set_defaults(run_command=_fit)

    evaluate = commands.add_parser(
        "evaluate", help="play the real game and print the score", allow_abbrev=False
    )
    evaluate.add_argument("run", metavar="RUN")
    evaluate.add_argument("--episodes", type=int, default=100)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--temperature", type=float, help="of the policy (default: the run's)")
    evaluate.add_argument("--envs", type=int, help="played side by side (default: the run's)")
    evaluate.add_argument("--preset", default="", help="name kept in the result file")
    evaluate.add_argument("--output", metavar="FILE", help="result file (default: RUN/result.json)")
    evaluate.set_defaults(run_command=_evaluate)

    dream = commands.add_parser("dream", help="dream an episode: GIF and MP4", allow_abbrev=False)
    dream.add_argument("run", metavar="RUN")
    dream.add_argument("--steps", type=int, default=64, help="dreamed steps")
    dream.add_argument("--context", type=int, default=8, help="real steps before")
    dream.add_argument("--seed", type=int, default=0)
    dream.add_argument(
        "--policy", action="store_true", help="the agent acts in the dream (default: real actions)"
    )
    dream.add_argument("--output", metavar="FOLDER", help="(default: RUN/dreams)")
    dream.set_defaults(run_command=_dream)

    report = commands.add_parser("report", help="pictures, curves and scores on one page", allow_abbrev=False)
    report.add_argument("run", metavar="RUN")
    report.add_argument("--episodes", type=int, default=16, help="of the agent and of a random policy each")
    report.add_argument("--seed", type=int, default=0)
    report.set_defaults(run_command=_report)

    play = commands.add_parser("play", help="play the dream in a browser", allow_abbrev=False)
    play.add_argument("run", metavar="RUN")
    play.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    play.add_argument("--host", default="127.0.0.1", help="another address opens the page to the network")
    play.add_argument(
        "--name", action="append", default=[], help="a further name of this host; may be given again"
    )
    play.add_argument("--speed", type=float, default=15.0, help="frames a second, 1 to 60")
    play.add_argument("--starts", type=int, default=16, help="real moments to start from")
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--open", action="store_true", help="open the browser")
    play.set_defaults(run_command=_play)

    quality = commands.add_parser(
        "evaluate-dream", help="measure the dreams: JSON, plots and a page", allow_abbrev=False
    )
    quality.add_argument("runs", metavar="RUN", nargs="+", help="several runs of one game are compared")
    quality.add_argument(
        "--episodes", type=int, default=16, help="new real episodes, played by the first run"
    )
    quality.add_argument("--max-steps", type=int, default=500, help="of an episode")
    quality.add_argument("--horizon", type=int, default=50, help="dreamed steps")
    quality.add_argument("--starts", type=int, default=128, help="dreams")
    quality.add_argument("--temperature", type=float, default=1.0, help="of the dreams")
    quality.add_argument("--seed", type=int, default=0)
    quality.add_argument("--output", metavar="FOLDER", help="(default: dream-quality in the first RUN)")
    quality.set_defaults(run_command=_evaluate_dream)

    checkpoint = commands.add_parser("checkpoint", help="verify, list, prune, export", allow_abbrev=False)
    actions = checkpoint.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("verify", "check every file"), ("list", "show a run's checkpoints")):
        actions.add_parser(name, help=text, allow_abbrev=False).add_argument("run", metavar="RUN")
    prune = actions.add_parser("prune", help="remove old checkpoints", allow_abbrev=False)
    prune.add_argument("run", metavar="RUN")
    prune.add_argument("--keep", type=int, default=2, help="the newest to keep, besides the best")
    prune.add_argument("--damaged", action="store_true", help="remove damaged ones, too")
    export = actions.add_parser("export", help="copy the agent into a folder of its own", allow_abbrev=False)
    export.add_argument("run", metavar="RUN")
    export.add_argument("target", metavar="FOLDER")
    export.add_argument("--which", choices=("newest", "best"), default="newest")
    checkpoint.set_defaults(run_command=_checkpoint)

    import_ = commands.add_parser("import", help="read a published IRIS checkpoint", allow_abbrev=False)
    import_.add_argument("file", metavar="FILE", help="state dict (.pt)")
    import_.add_argument("target", metavar="FOLDER", help="agent folder to write")
    import_.add_argument("--heads", type=int, default=4, help="attention heads, which the file does not tell")
    import_.set_defaults(run_command=_import)

    to_published = commands.add_parser("export", help="write the published IRIS format", allow_abbrev=False)
    to_published.add_argument("run", metavar="RUN", help="run or agent folder")
    to_published.add_argument("file", metavar="FILE", help="state dict (.pt) to write")
    to_published.set_defaults(run_command=_export)

    benchmark = commands.add_parser("benchmark", help="Atari 100k: run and report", allow_abbrev=False)
    from iris_wm.benchmark.commands import add_arguments

    add_arguments(benchmark)
    benchmark.set_defaults(run_command=_benchmark)
    return parser


def _fit(options: argparse.Namespace, overrides: list[str]) -> int:
    from iris_wm.checkpoint.opening import CONFIG_FILE, refuse_in_use
    from iris_wm.config_file import apply_overrides, build_config, dump_yaml, merge, read_yaml

    own = Path(options.run) / CONFIG_FILE
    files = options.config or ([own] if own.is_file() else [])
    if not files:
        raise ValueError("expected --config FILE for a new run, for example --config configs/demo.yaml")
    mapping: dict = {}
    for file in files:
        mapping = merge(mapping, read_yaml(file))
    mapping = apply_overrides(mapping, overrides)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # Lightning reads them when it is imported
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise ValueError(f"environment variable {name}: got {value!r}, expected an integer; or unset it")
    is_first_process = os.environ.get("LOCAL_RANK", "0") == "0"  # the one that locks, where several train
    if is_first_process and not options.print_config:
        refuse_in_use(options.run)
    from iris_wm.envs.make import check_id
    from iris_wm.training.config import RunConfig

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


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from iris_wm.checkpoint.opening import check_writable
    from iris_wm.evaluation.evaluate import evaluate
    from iris_wm.evaluation.result import RESULT_FILE
    from iris_wm.report import summarize_returns
    from iris_wm.run import make_result, open_run

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


def _dream(options: argparse.Namespace, rest: list[str]) -> int:
    from iris_wm.data.episode import Episode
    from iris_wm.envs import make_env
    from iris_wm.report import dream_beside, real_episode
    from iris_wm.visualization.video import dream_frames, write_gif, write_mp4

    for name, least in (("steps", 1), ("context", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: got {getattr(options, name)}, expected at least {least}")
    folder = Path(options.output or Path(options.run) / "dreams")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: expected a folder, got a file")
    run = _open_dreamer(options.run)
    real = real_episode(run.agent, run.config.env, options.context + options.steps, options.seed)
    context_steps = min(options.context, len(real) - 1)
    if options.policy:
        context = real.slice(0, context_steps)
        dream = run.agent.dream(real.frames[context_steps], options.steps, options.seed, context=context)
        dream = Episode.concatenate([context, dream])
    else:
        dream = dream_beside(run.agent, real, context_steps, options.seed)
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


def _report(options: argparse.Namespace, rest: list[str]) -> int:
    from iris_wm.report import summarize_returns, write_report
    from iris_wm.run import open_run

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


def _play(options: argparse.Namespace, rest: list[str]) -> int:
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


def _evaluate_dream(options: argparse.Namespace, rest: list[str]) -> int:
    from rich.progress import Progress

    from iris_wm.checkpoint.opening import check_writable
    from iris_wm.dream_report import describe, write_dream_report
    from iris_wm.evaluation.dream_quality import collect_held_out, evaluate_dream
    from iris_wm.imagination.token_env import SamplingConfig

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
    from iris_wm.registration import check_is_trained
    from iris_wm.run import open_run

    run = open_run(path)
    check_is_trained(path, run.checkpoint)
    return run


def _checkpoint(options: argparse.Namespace, rest: list[str]) -> int:
    from iris_wm.checkpoint import commands

    if options.action == "verify":
        return commands.verify_command(options.run)
    if options.action == "list":
        return commands.list_command(options.run)
    if options.action == "prune":
        return commands.prune_command(options.run, options.keep, options.damaged)
    return commands.export_command(options.run, options.target, options.which)


def _import(options: argparse.Namespace, rest: list[str]) -> int:
    from iris_wm.interop.published_iris import load_published

    agent = load_published(options.file, num_heads=options.heads)
    print(f"agent with {agent.num_actions} actions written to {agent.save(options.target)}")
    return 0


def _export(options: argparse.Namespace, rest: list[str]) -> int:
    import torch

    from iris_wm.agent import Agent
    from iris_wm.interop.published_iris import published_state

    torch.save(published_state(Agent.load(options.run)), options.file)
    print(f"published IRIS state dict written to {options.file}")
    return 0


def _benchmark(options: argparse.Namespace, rest: list[str]) -> int:
    from iris_wm.benchmark.commands import run

    return run(options)


def _tune_allocator() -> None:
    """Keep freed memory instead of giving every large tensor back to the system: glibc only, and only here.

    Stock glibc maps each tensor over 32 MB afresh; on a CPU the page faults then take a large part of the time.
    """
    if sys.platform != "linux" or os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
