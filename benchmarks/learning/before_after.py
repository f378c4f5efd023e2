"""What a choice of tokenizer or world model is worth: the same random play, the same number of steps, held-out loss.

    python benchmarks/learning/before_after.py configs/demo.yaml --output freeway.json

Every variant changes one thing more than the one before. Reported of held-out frames:
  pixels        mean absolute error of reconstructions, in [0, 1]
  moving        the same over pixels that differ from the median frame by more than 0.1
  noise         H(token | square of the frame), nats: how much a token tells of anything but its own square
  next frame    cross-entropy of the next frame's tokens, nats a token
  frame error   mean absolute error of the likeliest next frame, decoded: comparable between tokenizers
"""

import argparse
import itertools
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from iris_wm.acting import Explorer, Game, Players, RandomActor
from iris_wm.config import apply_overrides, build_config
from iris_wm.envs import make_env
from iris_wm.optimization import build_optimizer
from iris_wm.runs.config import RunConfig
from iris_wm.runs.open import current_commit
from iris_wm.spaces import ActionSpace
from iris_wm.strict_yaml import read_yaml
from iris_wm.tokenizer.learner import tokenizer_loss
from iris_wm.tokenizer.tokenizer import Tokenizer
from iris_wm.world.learner import world_loss
from iris_wm.world.network import WorldNetwork

LOCAL, QUERIES, START = (
    "tokenizer.autoencoder.has_local_encoder",
    "world.prediction.queries",
    "world.initialization",
)
VARIANTS = {
    "as in the paper": [f"{LOCAL}=false", f"{QUERIES}=learned", f"{START}=gpt2"],
    "+ local encoder": [f"{LOCAL}=true", f"{QUERIES}=learned", f"{START}=gpt2"],
    "+ queries of the current step": [f"{LOCAL}=true", f"{QUERIES}=current_step", f"{START}=gpt2"],
    "+ initialization by width": [f"{LOCAL}=true", f"{QUERIES}=current_step", f"{START}=width"],
}


def play(config: RunConfig, num_steps: int) -> dict[str, Tensor]:
    """Random play, actions held for 1 to max_action_hold steps: frames, actions, rewards, ends."""
    env, numbers = make_env(config.env), itertools.count()
    actor = Explorer(RandomActor(env.actions), 1.0, config.collection.max_action_hold)

    def next_game(_: int) -> Game:
        number = next(numbers)
        return Game(None if number else 0, number)

    players = Players([env], actor, next_game)
    steps = [step for _ in range(num_steps) for step in players.step()]
    env.close()
    return {
        "frames": torch.stack([step.frame for step in steps]),
        "actions": torch.stack([step.action for step in steps]),
        "rewards": torch.tensor([step.reward for step in steps]),
        "ends": torch.tensor([step.terminated for step in steps]),
    }


def train(network: torch.nn.Module, config: RunConfig, name: str, num_steps: int, loss) -> float:
    """num_steps of AdamW on loss(generator); processor seconds."""
    optimizer, generator = build_optimizer(network, getattr(config, name).optimization), torch.Generator()
    began = time.process_time()
    for step in range(num_steps):
        value = torch.stack(list(loss(generator.manual_seed(step)).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    return time.process_time() - began


def entropy(labels: Tensor) -> float:
    """nats"""
    counts = torch.unique(labels, return_counts=True)[1].double()
    return -(counts / counts.sum() * (counts / counts.sum()).log()).sum().item()


def measure(
    config: RunConfig, data: dict[str, Tensor], steps: tuple[int, int], known: dict
) -> dict[str, float]:
    """One variant. known: tokenizers already trained, by their config."""
    split, key = int(0.8 * len(data["frames"])), repr(config.tokenizer)
    held_out = data["frames"][split:]
    if key not in known:
        torch.manual_seed(0)
        tokenizer = Tokenizer(config.tokenizer)
        if config.tokenizer.has_background:
            tokenizer.set_background(data["frames"][:500])

        def tokenizer_losses(generator: torch.Generator) -> dict[str, Tensor]:
            rows = torch.randint(split, (config.tokenizer.optimization.batch_size,), generator=generator)
            frames = data["frames"][rows]
            return tokenizer_loss(tokenizer(frames), tokenizer.normalize(frames), config.tokenizer.loss)

        seconds = train(tokenizer, config, "tokenizer", steps[0], tokenizer_losses)
        tokenizer.eval()
        tokens = torch.cat([tokenizer.encode(part) for part in data["frames"].split(100)])
        known[key] = tokenizer, tokens, seconds
    tokenizer, tokens, seconds = known[key]
    torch.manual_seed(0)
    actions, length = ActionSpace.discrete(int(data["actions"].max()) + 1), config.world.segment_steps
    seen, size = config.world.context_steps, tokenizer.quantizer.codebook_size
    world = WorldNetwork(config.world, size, tokens.shape[1], actions)

    def segments(generator: torch.Generator, first: int, last: int, num: int) -> Tensor:
        return torch.randint(first, last - length, (num, 1), generator=generator) + torch.arange(length)

    def world_losses(generator: torch.Generator) -> dict[str, Tensor]:
        rows = segments(generator, 0, split, config.world.optimization.batch_size)
        ends = data["ends"][rows]
        is_real = ends.long().cumsum(1) - ends.long() == 0
        output = world(tokens[rows[:, :seen]], data["actions"][rows[:, :seen]])
        losses = config.world.loss
        return world_loss(world, output, tokens[rows], data["rewards"][rows], ends, is_real, losses)

    wm_seconds = train(world, config, "world", steps[1], world_losses)
    world.eval()
    rows = segments(torch.Generator().manual_seed(10**6), split, len(tokens), 100)
    rows = rows[data["ends"][rows][:, :-1].sum(1) == 0]
    with torch.no_grad():
        output = world(tokens[rows[:, :seen]], data["actions"][rows[:, :seen]])
        wanted, labels = world.observation_targets(tokens[rows])
        logits = output.observation_logits[:, wanted]
        # Only the last frame: of it alone every way to predict has seen all the steps before.
        logits, labels = logits[:, -tokens.shape[1] :], labels[:, -tokens.shape[1] :]
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
        real = data["frames"][rows[:, -1]].float() / 255
        frame_error = (tokenizer.decode(logits.argmax(-1)) - real).abs().mean().item()
        truth = held_out.float() / 255
        errors = torch.cat([tokenizer.reconstruct(part) for part in held_out.split(100)]) - truth
        background = (data["frames"][::8].float() / 255).median(0).values
        moving = ((truth - background).abs().amax(1, keepdim=True) > 0.1).expand_as(errors)
    side = config.tokenizer.autoencoder.latent_resolution
    pixels = held_out.shape[-1] // side
    squares = held_out.unfold(2, pixels, pixels).unfold(3, pixels, pixels).permute(0, 2, 3, 1, 4, 5)
    place = torch.arange(side**2).repeat(len(held_out))  # a background differs from place to place
    which = torch.unique(squares.flatten(3).flatten(0, 2), dim=0, return_inverse=True)[1] * side**2 + place
    return {
        "pixels": errors.abs().mean().item(),
        "moving": errors.abs()[moving].mean().item(),
        "noise": entropy(which * size + tokens[split:].flatten()) - entropy(which),
        "next frame": nats,
        "frame error": frame_error,
        "tokenizer CPU s": seconds,
        "world model CPU s": wm_seconds,
    }


def main() -> None:
    """Measure all variants, print them as a table, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "--env-steps", type=int, default=2000, help="of random play; the last fifth is held out"
    )
    parser.add_argument("--tokenizer-steps", type=int, default=400)
    parser.add_argument("--world-model-steps", type=int, default=600)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="key=value, for all variants")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = build_config(RunConfig, apply_overrides(read_yaml(options.config), options.overrides))
    data, known, results = play(base, options.env_steps), {}, {}
    for name, changes in VARIANTS.items():
        mapping = apply_overrides(read_yaml(options.config), [*options.overrides, *changes])
        config = build_config(RunConfig, mapping)
        steps = options.tokenizer_steps, options.world_steps
        results[name] = measure(config, data, steps, known)
        print(
            f"{name:32}", "  ".join(f"{key} {value:.4g}" for key, value in results[name].items()), flush=True
        )
    values = {key: value for key, value in vars(options).items() if key != "output"}
    values["config"] = str(options.config)
    about = {"torch": torch.__version__, "processor": platform.processor(), "commit": current_commit()}
    options.output.write_text(
        json.dumps({"options": values, "machine": about, "variants": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
