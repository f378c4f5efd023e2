"""Roll-outs for learning, for every way to predict and rule for the context: a replayed graph is the eager one."""

import typing
from typing import Any

import torch
from presets import preset
from stage import Stage
from works import new_imagination

from iris_wm.agent import Agent
from iris_wm.dream.rollout import Imagination, Rollout
from iris_wm.runs.config import RunConfig
from iris_wm.spaces import ActionSpace
from iris_wm.streams import row_seeds
from iris_wm.world.network import WorldConfig

PREDICTIONS = [kind.kind for kind in typing.get_args(typing.get_type_hints(WorldConfig)["prediction"])]
CONTEXTS = {
    "paper": "imagination.context=frame world.window=restart",
    "restart": "imagination.context=burn_in world.window=restart",
    "slide": "imagination.context=burn_in world.window=slide",
}
NUM_ACTIONS = 6


def run(stage: Stage) -> None:
    """Each variant on the debug networks, whose context of four steps overflows in the roll-out; then the presets'."""
    for prediction in PREDICTIONS:
        for inputs in ("frames", "tokens"):
            for context, rule in list(CONTEXTS.items())[-1 if stage.is_small else 0 :]:
                way = (f"world.prediction={prediction}", f"policy.inputs={inputs}", "imagination.burn_in=2")
                name = f"{prediction}, {inputs}, {context}"
                stage.case(name, _check, stage, torch.float32, "debug", *way, *rule.split())
        rotary = ("world.positions=rotary", f"world.prediction={prediction}", "policy.inputs=tokens")
        stage.case(f"{prediction}, rotary", _check, stage, torch.float32, "debug", *rotary)
    if not stage.is_small:
        for name in ("demo", "fast", "iris"):
            for dtype in (torch.float32, torch.bfloat16):
                stage.case(f"preset {name}, {str(dtype)[6:]}", _check, stage, dtype, name)


def _check(stage: Stage, dtype: torch.dtype, name: str, *overrides: str) -> dict[str, Any]:
    config = preset(name, *overrides)
    torch.manual_seed(0)
    batch = 3 if stage.is_small else 64
    agent = Agent(config.agent_config(ActionSpace.discrete(NUM_ACTIONS))).to(stage.device).eval()
    with torch.no_grad():  # fresh weights make all codes nearly equally likely
        for parameter in agent.world.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    eager, captured = (
        new_imagination(agent, config.imagination, batch, dtype, is_graph=is_graph)
        for is_graph in (False, True)
    )
    start = _start(agent, config, batch)
    first = _roll_out(captured, start, 1)
    found = {"captured": _share(first, _roll_out(eager, start, 1))}
    assert bool(first.is_finite), "logits are not finite"
    assert _share(_roll_out(captured, start, 1), first) == 1, "the same seed brings another roll-out"
    assert _share(_roll_out(captured, start, 2), first) < 1, "another seed brings the same roll-out"
    with torch.no_grad():
        for parameter in agent.world.parameters():
            parameter.add_(
                torch.randn_like(parameter), alpha=float(parameter.std()) if parameter.numel() > 1 else 0.0
            )
    later = _roll_out(captured, start, 1)
    assert _share(later, first) < 1, "new weights bring the same roll-out"
    found["captured with new weights"] = _share(later, _roll_out(eager, start, 1))
    if stage.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            for imagination in (eager, captured):
                imagination.imagine(*start, row_seeds(3, batch, stage.device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Draws on the edge between two codes may fall either way where a graph's kernels round otherwise.
    assert min(found.values()) > 0.95, f"captured and eager roll-outs agree in {found} of their draws"
    return found


def _start(agent: Agent, config: RunConfig, batch: int) -> tuple[Any, ...]:
    """Tokens of the real frames, what was done in all but the last, and the policy's memory."""
    burn_in = config.imagination.burn_in if config.imagination.context == "burn_in" else 0
    shape = (batch, burn_in + 1, agent.tokenizer.tokens_per_frame)
    tokens = torch.randint(agent.tokenizer.quantizer.codebook_size, shape, device=agent.device)
    actions = torch.randint(NUM_ACTIONS, (batch, burn_in, 1), device=agent.device)
    return tokens, actions, agent.start(batch)


def _roll_out(imagination: Imagination, start: tuple[Any, ...], seed: int) -> Rollout:
    """A roll-out that stays as it is: a graph's next replay writes over its own."""
    rollout = imagination.imagine(*start, row_seeds(seed, len(start[0]), start[0].device))
    names = ("actions", "rewards", "terminations", "is_finite")
    kept = {name: getattr(rollout, name).clone() for name in names}
    return rollout._replace(measures={"tokens": rollout.measures["tokens"].clone()}, **kept)


def _share(first: Rollout, second: Rollout) -> float:
    """Of the draws of the first two imagined steps, those that are equal; a later one may follow from another one."""
    pairs = [
        (first.actions[:, :2], second.actions[:, :2]),
        (first.measures["tokens"][:, :2], second.measures["tokens"][:, :2]),
    ]
    return float(torch.cat([(one == other).flatten().float() for one, other in pairs]).mean())
