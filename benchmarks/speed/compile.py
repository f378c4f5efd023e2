"""What torch.compile gains on this machine's CPU, and what it costs: tokenizer encode and decode, a world-model step.

python benchmarks/speed/compile.py [--output benchmarks/speed/cpu-compile.json] [--batch 16]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from clock import Clock, machine
from rows import SIZES, Bench

from iris_wm.runs.config import RunConfig

ROUNDS = 3


def works(bench: Bench, batch: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], bool]]:
    """By name: what to call, with what, and whether gradients are computed."""
    agent = bench.agents["autoregressive"]
    frames, tokens = bench.frames(batch), bench.tokens(batch)
    segment, actions = bench.tokens(4, 20), bench.actions(4, 20)

    def step(segment: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        output = agent.world(segment, actions)
        return output.observation_logits.square().mean() + output.reward_logits.square().mean()

    return {
        "tokenizer: latents": (agent.tokenizer.latents, (frames,), False),
        "tokenizer: decode": (agent.tokenizer.decode, (tokens,), False),
        "world model: forward and backward, 4 x 20": (step, (segment, actions), True),
    }


def run(
    work: Callable[..., Any], arguments: tuple[Any, ...], has_gradients: bool, dtype: torch.dtype
) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    with (
        torch.set_grad_enabled(has_gradients),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        result = work(*arguments)
    if has_gradients:
        result.backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("cpu-compile.json"))
    options = parser.parse_args()
    clock = Clock()
    bench = Bench(RunConfig(), SIZES["full"], clock)
    for agent in bench.agents.values():
        agent.world.train()  # with dropout
    rows = []
    for name, (work, arguments, has_gradients) in works(bench, options.batch).items():
        for dtype in (torch.float32, torch.bfloat16):
            torch.compiler.reset()
            compiled = torch.compile(work)
            run(work, arguments, has_gradients, dtype)
            first = run(compiled, arguments, has_gradients, dtype)
            times: dict[str, list[float]] = {"eager": [], "compiled": []}
            for _ in range(ROUNDS):
                times["eager"].append(run(work, arguments, has_gradients, dtype))
                times["compiled"].append(run(compiled, arguments, has_gradients, dtype))
            row = {side: min(each) for side, each in times.items()} | {"compiling": first}
            rows.append({"name": f"{name}, {str(dtype).removeprefix('torch.')}"} | row)
            print(rows[-1], flush=True)
    options.output.write_text(json.dumps({"machine": machine(clock), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
