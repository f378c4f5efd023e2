"""What the policy learns from: a batch of imagined roll-outs, and how they come to be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from iris_wm.config import Config, NonNegativeFloat, NonNegativeInt, Range
from iris_wm.protocols import S, World
from iris_wm.streams import Draw
from iris_wm.world.token_world import TokenState, TokenWorld

Memory = TypeVar("Memory", bound=tuple[Tensor, ...])


class Choice(NamedTuple):
    """What B policies do: actions (B, n) int64; is_finite (B,) bool, whether every logit they were drawn from is."""

    actions: Tensor
    is_finite: Tensor


Look = Callable[[S], Tensor]
"""What the policy sees of a world's state, (B, ...)."""
Choose = Callable[[Tensor, Memory, Draw], tuple[Choice, Memory]]
"""What the policy does where it sees that, with its memory."""


@dataclass(frozen=True)
class ImaginationConfig(Config):
    """Roll-outs for learning."""

    horizon: Annotated[int, Range(2)] = 20
    """Imagined steps."""
    burn_in: NonNegativeInt = 20
    """Real steps the policy's memory sees before."""
    context: Literal["frame", "burn_in"] = "frame"
    """What the world starts from. frame: the last real frame alone (the paper's). burn_in: the real steps too."""
    temperature: NonNegativeFloat = 1.0
    """Of the world's draws."""
    rewards: Literal["sampled", "expected"] = "sampled"
    """What the policy is given. sampled: -1, 0 or 1, as drawn (the paper's). expected: the mean of the distribution,
    from which rare rewards are learned without the noise of the draws."""


class Rollout(NamedTuple):
    """B roll-outs of H steps; row t holds what the policy saw, what it did, and what that brought.

    inputs: (B, H, ...) as the policy takes them. actions: (B, H, n) int64. rewards: (B, H) float32.
    terminations: (B, H) bool. measures: what the world told of each step, (B, H, ...) by name. memory: the policy's,
    before the first step. is_finite: () bool, whether every logit that anything was drawn from is; of a NaN the draws
    would show nothing.
    """

    inputs: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    measures: dict[str, Tensor]
    memory: Any
    is_finite: Tensor


@torch.no_grad()
def roll_out(
    world: World[S],
    state: S,
    look: "Look[S]",
    choose: "Choose[Memory]",
    memory: Memory,
    horizon: int,
    draw: Draw,
    *,
    rewards: Literal["sampled", "expected"] = "sampled",
    first_inputs: Tensor | None = None,
    should_stop: Callable[[Tensor], bool] = lambda terminations: False,
) -> Rollout:
    """Let the policy act in a world.

    Args:
        world, state: where; the state is spent.
        look, choose, memory: the policy.
        horizon: H, steps at most.
        draw: of the first step; every later step draws by the next.
        rewards: see `ImaginationConfig`.
        first_inputs: look(state), where the caller has it already.
        should_stop: asked after each step with its terminations (B,), for dreams that nobody watches further.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in ("inputs", "actions", "rewards", "terminations")}
    measures: dict[str, list[Tensor]] = {}
    first_memory, checks = memory, []
    inputs = look(state) if first_inputs is None else first_inputs
    for t in range(horizon):
        is_last = t + 1 == horizon
        choice, memory = choose(inputs, memory, draw.of("action"))
        state, outcome = world.step(state, choice.actions, draw, needs_frame=not is_last)
        draw = draw.next()
        given = outcome.rewards if rewards == "sampled" else outcome.reward_mean
        row = (inputs, choice.actions, given, outcome.terminations)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        for name, value in outcome.measures.items():
            measures.setdefault(name, []).append(value)
        checks.append(choice.is_finite)
        if is_last or should_stop(outcome.terminations):
            break
        inputs = look(state)
    stacked = {name: torch.stack(values, dim=1) for name, values in columns.items()}
    told = {name: torch.stack(values, dim=1) for name, values in measures.items()}
    is_finite = torch.stack(checks).all()
    if "is_finite" in told:
        is_finite = is_finite & told["is_finite"].all()
    return Rollout(**stacked, measures=told, memory=first_memory, is_finite=is_finite)


class Imagination:
    """Roll-outs of one policy in one token world, batch after batch: on CUDA each is one graph replay."""

    def __init__(
        self,
        world: TokenWorld,
        look: "Look[TokenState]",
        choose: "Choose[Memory]",
        config: ImaginationConfig,
        batch_size: int,
        *,
        should_use_cuda_graph: bool = True,
    ) -> None:
        self.world, self.look, self.choose, self.config = world, look, choose, config
        self.batch_size = batch_size
        self._cache = world.new_cache(batch_size)
        self._should_use_cuda_graph = should_use_cuda_graph and world.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._output: Rollout | None = None

    @torch.no_grad()
    def imagine(
        self,
        obs_tokens: Tensor,
        actions: Tensor,
        memory: Memory,
        seeds: Tensor,
        first_inputs: Tensor | None = None,
    ) -> Rollout:
        """Roll out the policy from real frames, in the weights as they are now.

        Args:
            obs_tokens: (B, T, K) int64, the frames to start from and the T - 1 before them.
            actions: (B, T - 1, n) int64, what was done in those before.
            memory: the policy's, of what came before.
            seeds: (B,) int64, of all draws of a row.
            first_inputs: what the policy sees of the last frames, where the caller has it; looked up here otherwise.
        """
        self.world.refresh()
        inputs = {"obs_tokens": obs_tokens, "actions": actions, "seeds": seeds.to(self.world.device)}
        inputs |= {f"memory_{i}": part for i, part in enumerate(memory)}
        if first_inputs is not None:
            inputs["first_inputs"] = first_inputs
        kind = type(memory)
        if not self._should_use_cuda_graph:
            return self._roll_out(inputs, kind)
        if self._graph is None:
            self._capture(inputs, kind)
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        assert self._graph is not None
        assert self._output is not None
        self._graph.replay()
        return self._output

    def _capture(self, inputs: dict[str, Tensor], kind: type) -> None:
        """Record one roll-out on static copies of the inputs."""
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        # Weights that autocast has cast and kept belong to this step: a later replay would read what they were.
        autocast = torch.autocast(
            "cuda",
            torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), autocast:  # compile every kernel before the capture
            self._roll_out(self._inputs, kind)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), autocast:
            self._output = self._roll_out(self._inputs, kind)

    def _roll_out(self, inputs: dict[str, Tensor], kind: type) -> Rollout:
        parts = [inputs[name] for name in inputs if name.startswith("memory_")]
        seeds = inputs["seeds"]
        return roll_out(
            self.world,
            self.world.observe_tokens(inputs["obs_tokens"], inputs["actions"], cache=self._cache),
            self.look,
            self.choose,
            kind(*parts),
            self.config.horizon,
            Draw(seeds, torch.zeros_like(seeds)),
            rewards=self.config.rewards,
            first_inputs=inputs.get("first_inputs"),
        )
