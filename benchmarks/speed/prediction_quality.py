"""Parallel against autoregressive prediction: one tokenizer, one replay, as many updates, held-out episodes.

python benchmarks/speed/prediction_quality.py --updates 200 --output benchmarks/speed/prediction_quality.json
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from iris_wm.acting import RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.config import build_config
from iris_wm.data.episode import Episode
from iris_wm.data.replay import Replay
from iris_wm.envs import make_env
from iris_wm.evaluation.dream_quality import evaluate_dream
from iris_wm.optimization import build_optimizer
from iris_wm.protocols import Pieces
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import current_commit
from iris_wm.runs.operating_system import keep_freed_memory
from iris_wm.spaces import ActionSpace
from iris_wm.strict_yaml import read_yaml
from iris_wm.tokenizer.learner import tokenizer_loss
from iris_wm.world.learner import world_loss
from iris_wm.world.network import AutoregressivePrediction, BlockPrediction, ParallelPrediction

PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(),
    "block": BlockPrediction(),
}

HORIZON = 10


def play(config: RunConfig, num_steps: int, seed: int) -> list[Episode]:
    """Episodes of random play, num_steps steps in all."""
    env, episodes = make_env(config.env), []
    while (left := num_steps - sum(map(len, episodes))) > 0:
        episodes.append(
            play_episode(RandomActor(env.actions), env, num_steps=left, seed=seed + len(episodes))
        )
    env.close()
    return [episode for episode in episodes if len(episode) > config.world.segment_steps + 2]


def fill(episodes: list[Episode], actions: ActionSpace) -> Replay:
    """A replay of them."""
    replay = Replay(sum(map(len, episodes)), actions)
    for episode in episodes:
        replay.extend(episode)
    return replay


def train_tokenizer(agent: Agent, config: RunConfig, replay: Replay, updates: int) -> None:
    """On random frames."""
    tokenizer, generator = agent.tokenizer.train(), torch.Generator().manual_seed(0)
    optimizer = build_optimizer(tokenizer, config.tokenizer.optimization)
    for _ in range(updates):
        pieces = Pieces(config.tokenizer.optimization.batch_size, 1)
        segment = replay.gather(*replay.indices(pieces, generator))
        frames = segment.frames.flatten(0, 1)
        losses = tokenizer_loss(tokenizer(frames), tokenizer.normalize(frames), config.tokenizer.loss)
        step(optimizer, losses)
    agent.eval()


@torch.no_grad()
def encode(agent: Agent, replay: Replay) -> torch.Tensor:
    """Tokens of the whole replay, (num_steps, K)."""
    chunks = torch.arange(replay.num_steps).split(128)
    return torch.cat([agent.tokenizer.encode(replay.frames_at(chunk)) for chunk in chunks])


def train_world(agent: Agent, config: RunConfig, replay: Replay, tokens: torch.Tensor, updates: int) -> float:
    """On random segments, one step longer where frames are predicted in parallel; the processor seconds it took."""
    model, generator = agent.world.train(), torch.Generator().manual_seed(1)
    optimizer = build_optimizer(model, config.world.optimization)
    torch.manual_seed(2)
    started = time.process_time()
    for _ in range(updates):
        pieces = Pieces(config.world.optimization.batch_size, config.world.segment_steps)
        indices, is_real = replay.indices(pieces, generator)
        segment = replay.gather(indices, is_real)
        seen = config.world.context_steps
        output = model(tokens[indices[:, :seen]], segment.actions[:, :seen])
        losses = world_loss(
            model, output, tokens[indices], segment.rewards, segment.terminations, segment.is_real,
            config.world.loss,
        )  # fmt: skip
        step(optimizer, losses)
    agent.eval()
    return time.process_time() - started


def step(optimizer: torch.optim.Optimizer, losses: dict[str, torch.Tensor]) -> None:
    """One update."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def main() -> None:
    """Train both, judge both, write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/assault.yaml")
    parser.add_argument("--env-steps", type=int, default=2000)
    parser.add_argument("--updates", type=int, default=200, help="of each world model, and of the tokenizer")
    parser.add_argument("--starts", type=int, default=48)
    parser.add_argument("--output", default="benchmarks/speed/prediction_quality.json")
    options = parser.parse_args()
    keep_freed_memory()
    config = build_config(RunConfig, read_yaml(Path(options.config)))
    episodes, held_out = play(config, options.env_steps, 0), play(config, 400, 10_000)
    actions = make_env(config.env).actions
    replay = fill(episodes, actions)
    tokenizer: dict[str, torch.Tensor] = {}
    results = {}
    for name, prediction in PREDICTIONS.items():
        torch.manual_seed(0)
        is_own = prediction.kind == config.world.prediction.kind
        model = config.world if is_own else replace(config.world, prediction=prediction)
        variant = replace(config, world=model)
        agent = Agent(variant.agent_config(actions))
        if tokenizer:
            agent.tokenizer.load_state_dict(tokenizer)
        else:
            train_tokenizer(agent, config, replay, options.updates)
            tokenizer = agent.tokenizer.state_dict()
        agent.eval()
        seconds = train_world(agent, variant, replay, encode(agent, replay), options.updates)
        quality = evaluate_dream(
            agent, held_out, horizon=HORIZON, num_starts=options.starts, name=name, game=config.env.id
        )
        results[name] = {
            "training_cpu_seconds": round(seconds, 1),
            "one_step_nats": quality.one_step_nats,
            "one_step_token_accuracy": quality.one_step_token_accuracy,
            **{
                curve: list(quality.curves[curve].mean)
                for curve in ("frame_l1", "reconstruction_l1", "still_l1", "token_accuracy")
            },
        }
        print(
            name, {key: results[name][key] for key in ("training_cpu_seconds", "one_step_nats")}, flush=True
        )
    Path(options.output).write_text(
        json.dumps(
            {
                "game": config.env.id,
                "updates": options.updates,
                "env_steps": options.env_steps,
                "held_out_steps": sum(map(len, held_out)),
                "torch": torch.__version__,
                "commit": current_commit(),
                "results": results,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
