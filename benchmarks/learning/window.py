"""When the context is full: begun anew from its last half, or rolled on by one step, as rotary positions allow?

A cache that forgets its oldest step needs no pass over the kept ones: their keys turn back by one step, and that is
all. But what it keeps was computed in sight of steps that are gone. One world is trained and asked for the next frame
of held-out episodes in three ways: after a refill (`window: slide`), rolled, and all of the window computed anew at
every step.

python benchmarks/learning/window.py --updates 600
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from iris_kernels.reference.decode_layers import rotate
from torch import Tensor

from iris_wm.agent import Agent
from iris_wm.config import apply_overrides, build_config
from iris_wm.envs import make_env
from iris_wm.runs.config import RunConfig
from iris_wm.runs.operating_system import keep_freed_memory
from iris_wm.streams import Draw, row_seeds
from iris_wm.strict_yaml import read_yaml
from iris_wm.world.token_world import TokenState, TokenWorld

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from prediction_quality import encode, fill, play, train_tokenizer, train_world


class Refilled(TokenWorld):
    """As in the product, but that it keeps the logits of the last frame's tokens."""

    logits: Tensor

    def _outcome(self, at_action: Tensor, obs_tokens: Tensor, logits: list[Tensor], draw: Draw) -> Any:
        self.logits = logits[0]
        return super()._outcome(at_action, obs_tokens, logits, draw)


class Rolled(Refilled):
    """Forgets the oldest step and turns the keys of the others back by one; all rows are full at once."""

    def _make_room(self, state: TokenState, needs_frame: bool) -> TokenState:
        if state.num_steps[0] <= self.max_past:
            return state
        cache, step = state.cache, self.layout.tokens_per_step
        one_step = self.network.turns[step]  # of the first cell, where x and y are 0
        back = torch.stack([one_step[::2], -one_step[1::2]], dim=-1).flatten()
        cache.keys[:, :, :, :-step] = rotate(cache.keys[:, :, :, step:], back)
        cache.values[:, :, :, :-step] = cache.values[:, :, :, step:].clone()
        cache.position.sub_(step)
        return replace(state, num_steps=state.num_steps - 1)


class Anew(Refilled):
    """Computes the whole window at every step."""

    def _make_room(self, state: TokenState, needs_frame: bool) -> TokenState:
        num_past = state.past_tokens.shape[1]
        kept = state.num_steps.clip(max=min(num_past, self.max_past))
        past = state.past_tokens, state.past_actions
        return self._fill(state.cache, state.obs_tokens, *past, kept)


@torch.no_grad()
def judge(world: Refilled, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Nats and share right of each next frame's tokens (B, T - 1), after all frames before; tokens (B, T, K)."""
    state, draw = world.observe_tokens(tokens[:, :1], actions[:, :0]), Draw.start(row_seeds(0, len(tokens)))
    nats, right = [], []
    for t in range(tokens.shape[1] - 1):
        state, _ = world.step(state, actions[:, t], draw)
        of_tokens = world.logits.view(len(tokens), -1, world.logits.shape[-1])
        real = tokens[:, t + 1]
        nats.append(torch.nn.functional.cross_entropy(of_tokens.mT, real, reduction="none").mean(1))
        right.append((of_tokens.argmax(-1) == real).float().mean(1))
        state = replace(state, obs_tokens=real)
    return torch.stack(nats, dim=1), torch.stack(right, dim=1)


def main() -> None:
    """Train, judge, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--tokenizer-updates", type=int, default=400)
    parser.add_argument("--context", type=int, default=8)
    parser.add_argument("--env-steps", type=int, default=4000)
    parser.add_argument("--prediction", choices=("parallel", "block"), default="block")
    options = parser.parse_args()
    keep_freed_memory()
    rules = ["world.positions=rotary", "world.window=slide", f"world.context_steps={options.context}"]
    rules += [f"world.prediction={options.prediction}"]
    config = build_config(RunConfig, apply_overrides(read_yaml(Path("configs/catch.yaml")), rules))
    seen, held_out = play(config, options.env_steps, 0), play(config, options.env_steps, 10_000)
    torch.manual_seed(0)
    agent = Agent(config.agent_config(make_env(config.env).actions))
    replay = fill(seen, agent.actions)
    train_tokenizer(agent, config, replay, options.tokenizer_updates)
    train_world(agent, config, replay, encode(agent, replay), options.updates)

    length = 4 * options.context
    long = [episode.slice(0, length) for episode in held_out if len(episode) >= length]
    tokens = torch.stack([agent.tokenizer.encode(episode.frames) for episode in long])
    actions = torch.stack([episode.actions for episode in long])
    print(
        f"{len(long)} episodes of {length} steps; nats a token (share right) by steps before; processor time"
    )
    for kind in (Refilled, Rolled, Anew):
        world = kind(agent.world, agent.tokenizer, agent.actions)
        if kind is Anew:
            world.num_kept = world.max_past
        started = time.process_time()
        nats, right = judge(world, tokens, actions)
        seconds = time.process_time() - started
        parts = zip(nats.split(options.context, 1), right.split(options.context, 1), strict=True)
        cells = [f"{float(loss.mean()):.4f} ({float(share.mean()):.4f})" for loss, share in parts]
        print(f"{kind.__name__:<8}", *cells, f"{seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
