"""`iris-wm play`: play the dream in a browser."""

import argparse
import contextlib

from iris_wm.checkpoint.run_folder import existing_run

HELP = "play the dream in a browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument("--host", default="127.0.0.1", help="another address opens the page to the network")
    parser.add_argument(
        "--name", action="append", default=[], help="a further name of this host; may be given again"
    )
    parser.add_argument("--speed", type=float, default=15.0, help="frames a second, 1 to 60")
    parser.add_argument("--starts", type=int, default=16, help="real moments to start from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--open", action="store_true", help="open the browser")


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    existing_run(options.run)
    from iris_wm.envs import make_env
    from iris_wm.play.agent_dream import AgentDream
    from iris_wm.play.server import serve
    from iris_wm.runs.open import open_dreamer

    run = open_dreamer(options.run)
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
