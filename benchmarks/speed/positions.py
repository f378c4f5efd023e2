"""What rotary positions cost: an update of the world and imagined steps with learned and with rotary ones, in turn.

taskset -c 0 python benchmarks/speed/positions.py --config configs/demo.yaml
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch
import works
from clock import Clock

from iris_wm.agent import Agent
from iris_wm.config import build_config
from iris_wm.runs.config import RunConfig
from iris_wm.runs.operating_system import keep_freed_memory
from iris_wm.spaces import ActionSpace
from iris_wm.strict_yaml import read_yaml
from iris_wm.world.token_layout import LearnedPositions, RotaryPositions

HORIZON = 10


def works_of(config: RunConfig, batch: int) -> tuple[works.Work, works.Work]:
    """An update on segments of the context's length, and a roll-out of HORIZON steps in tokens."""
    torch.manual_seed(0)
    agent = Agent(config.agent_config(ActionSpace.discrete(3))).eval()
    num_steps, num_tokens = config.world.context_steps, agent.tokenizer.tokens_per_frame
    tokens = torch.randint(agent.world.codebook_size, (batch, num_steps, num_tokens))
    actions = torch.randint(3, (batch, num_steps, 1))
    rewards, ends = torch.zeros(batch, num_steps), torch.zeros(batch, num_steps, dtype=torch.bool)
    update = works.world_update(agent, config, tokens, actions, rewards, ends)
    taken = torch.randint(3, (HORIZON, batch, 1))
    return update, works.token_roll_out(agent, tokens[:, 0], taken, torch.float32)


def main() -> None:
    """Print medians of the rounds, and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config, clock = build_config(RunConfig, read_yaml(Path(options.config))), Clock(options.clock)
    sides = [
        works_of(replace(config, world=replace(config.world, positions=positions)), options.batch)
        for positions in (LearnedPositions(), RotaryPositions())
    ]
    works_by_name = {"update": [side[0] for side in sides], "roll-out": [side[1] for side in sides]}
    for what, column in works_by_name.items():
        seconds = [[clock.seconds(work) for work in column] for _ in range(options.rounds + 1)][1:]
        learned, rotary = (statistics.median(side) for side in zip(*seconds, strict=True))
        ratio = statistics.median(row[1] / row[0] for row in seconds)
        print(
            f"{what}, batch {options.batch}: learned {learned:.3f} s, rotary {rotary:.3f} s, ratio {ratio:.2f}",
            flush=True,
        )
        if what == "roll-out":
            steps = options.batch * HORIZON
            print(f"imagined steps/s: learned {steps / learned:.0f}, rotary {steps / rotary:.0f}")


if __name__ == "__main__":
    main()
