"""World models beside each other after equal processor seconds: one tokenizer, one replay, held-out episodes.

python benchmarks/learning/worlds.py configs/demo.yaml --games Breakout Freeway MsPacman --seconds 60 --seeds 0 1 2 \
    --variant parallel --variant "block+rotary --world.prediction block --world.positions rotary" --output FILE.json

A variant is a name and options of `iris-wm fit`. Nothing but the time of the updates counts: not playing, the
tokenizer, encoding or measuring.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from iris_wm.acting import Explorer, RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.config import apply_overrides, build_config
from iris_wm.data.replay import Batches, Replay
from iris_wm.envs import make_env
from iris_wm.optimization import build_optimizer
from iris_wm.protocols import Learner, Pieces
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import current_commit
from iris_wm.streams import Draw, row_seeds, stream_generator
from iris_wm.strict_yaml import read_yaml
from iris_wm.training.schedule import iris_learners
from iris_wm.world.learner import world_loss

PARTS = 4
"""Of the seconds; after each the world is measured."""


def play(config: RunConfig, num_steps: int, seed: int) -> Replay:
    """Random play, actions held as the config says; seeds from seed on, one an episode."""
    env = make_env(config.env)
    replay = Replay(
        num_steps, env.actions, (3, config.env.resolution, config.env.resolution), config=config.replay
    )
    actor = Explorer(RandomActor(env.actions), 1.0, config.collection.max_action_hold)
    while replay.num_steps < num_steps:
        left = num_steps - replay.num_steps
        replay.extend(play_episode(actor, env, num_steps=left, seed=seed + replay.num_episodes))
    env.close()
    return replay


def updates(learner: Learner, batches: Batches, epoch: int) -> Any:
    """Do a learner's updates of an epoch, yielding after each the processor seconds it took."""
    is_trained = any(True for _ in learner.network.parameters())
    optimizer = build_optimizer(learner.network, learner.optimization) if is_trained else None
    while True:
        learner.begin_phase(batches, epoch)
        for index in range(learner.optimization.num_steps(epoch)):
            segment = batches.segment(learner, epoch, index)
            torch.manual_seed(index)
            started = time.process_time()
            for losses, _ in learner.losses(segment, Draw.start(row_seeds(index, len(segment)))):
                if optimizer is not None:
                    optimizer.zero_grad()
                    torch.stack(list(losses.values())).sum().backward()
                    norm = learner.optimization.max_grad_norm
                    torch.nn.utils.clip_grad_norm_(learner.network.parameters(), norm)
                    optimizer.step()
            yield time.process_time() - started
        epoch += 1


@torch.no_grad()
def held_out(agent: Agent, config: RunConfig, replay: Replay) -> dict[str, float]:
    """Losses on other episodes, in nats; of the frame's tokens in nats a token and a frame."""
    network, generator, seen = agent.world.eval(), stream_generator(0, "held out"), config.world.context_steps
    pieces, sums = Pieces(32, config.world.segment_steps), Counter[str]()
    for _ in range(8):
        segment = replay.gather(*replay.indices(pieces, generator))
        tokens = agent.tokenizer.encode(segment.frames)
        output = network(tokens[:, :seen], segment.actions[:, :seen])
        told = segment.rewards, segment.terminations, segment.is_real
        losses = world_loss(network, output, tokens, *told, config.world.loss)
        sums.update({name: float(value) / 8 for name, value in losses.items()})  # type: ignore[arg-type]
    network.train()
    per_token = sums.pop("observation_loss")
    return {
        "nats a token": per_token,
        "nats a frame": per_token * agent.tokenizer.tokens_per_frame,
        **sums,
    }


def main() -> None:
    """Train, measure, write one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--games", nargs="+", required=True)
    parser.add_argument("--variant", action="append", required=True, metavar='"NAME --KEY VALUE ..."')
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--env-steps", type=int, default=4000)
    parser.add_argument("--output", type=Path, required=True)
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for game in options.games:
        for seed in options.seeds:
            tokenizer: dict[str, torch.Tensor] | None = None
            for variant in options.variant:
                name, *changes = variant.split()
                mapping = apply_overrides(read_yaml(options.config), [*overrides, *changes, "--env.id", game])
                config = build_config(RunConfig, mapping)
                if tokenizer is None:
                    replay, other = (
                        play(config, options.env_steps, 1000 * seed),
                        play(config, 1000, 500_000 + seed),
                    )
                torch.manual_seed(seed)
                agent = Agent(config.agent_config(replay.actions)).train()
                batches = Batches(replay, seed)
                first, world, *_ = iris_learners(config, agent, lambda what, done, total: None)
                if tokenizer is None:
                    epoch = first.optimization.start_after_epoch + 1
                    steps = updates(first, batches, epoch)
                    for _ in range(first.optimization.num_steps(epoch)):
                        next(steps)
                    tokenizer = agent.tokenizer.state_dict()
                agent.tokenizer.load_state_dict(tokenizer)
                agent.tokenizer.eval()
                seconds, num, curve = 0.0, 0, []
                for took in updates(world, batches, world.optimization.start_after_epoch + 1):
                    seconds, num = seconds + took, num + 1
                    if seconds >= options.seconds * (len(curve) + 1) / PARTS:
                        curve.append({"seconds": seconds, "updates": num, **held_out(agent, config, other)})
                        print(
                            game,
                            seed,
                            name,
                            {key: round(value, 4) for key, value in curve[-1].items()},
                            flush=True,
                        )
                    if seconds >= options.seconds:
                        break
                results.append({"game": game, "seed": seed, "variant": variant, "curve": curve})
    about = {
        "commit": current_commit(),
        "config": options.config,
        "overrides": overrides,
        "torch": torch.__version__,
    }
    options.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
