"""The rows of the speed table: which sides each has, and how often they run.

The sides of a row run one after the other, round after round, so that whatever else the machine does meets all of
them. Weights and frames are random: no row depends on what the networks know.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import works
from clock import REFERENCE, Clock, Row
from eager import EagerReference
from projection import frames_a_segment
from torch import Tensor
from works import Work, without_gradients

from iris_wm.agent import Agent, AgentConfig
from iris_wm.runs.config import RunConfig
from iris_wm.world.network import AutoregressivePrediction, BlockPrediction, ParallelPrediction
from iris_wm.world.token_layout import LearnedPositions

PREDICTIONS = {
    "autoregressive": AutoregressivePrediction(),
    "parallel": ParallelPrediction(),
    "block": BlockPrediction(),
}

# Our sides: (dtype, prediction).
OURS = {
    "exact": (torch.float32, "autoregressive"),
    "bf16": (torch.bfloat16, "autoregressive"),
    "parallel": (torch.float32, "parallel"),
    "parallel bf16": (torch.bfloat16, "parallel"),
}
AUTOREGRESSIVE = ("exact", "bf16")
NUM_ACTIONS = 6


@dataclass(frozen=True)
class Sizes:
    """How much work the rows do; the networks are those of the config."""

    frames: int = 16
    rollout_batches: tuple[int, ...] = (64,)
    horizon: int = 20
    update_batch: int = 16
    burn_in: int = 20
    context: int = 20
    rounds: int = 5
    """At most; a row that has taken row_seconds is not measured again."""
    row_seconds: float = 30.0
    scaling_batches: tuple[int, ...] = (4, 16, 64, 256)
    scaling_horizons: tuple[int, ...] = (5, 10, 20)
    scaling_contexts: tuple[int, ...] = (5, 10, 20)


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        frames=8, rollout_batches=(8,), horizon=4, update_batch=2, burn_in=4, context=4, rounds=1,
        scaling_batches=(4, 16), scaling_horizons=(2, 4), scaling_contexts=(2, 4),
    ),
    "gpu": Sizes(
        frames=256, rollout_batches=(64, 256, 1024), update_batch=64, scaling_batches=(64, 256, 1024),
    ),
}  # fmt: skip


def nothing(_: Any) -> None:
    """Listens to nobody."""


class Bench:
    """The agents of a config and its rows so far.

    on_row: called with each finished row. on_start: called with a line on what is measured next.
    """

    def __init__(
        self,
        config: RunConfig,
        sizes: Sizes,
        clock: Clock,
        on_row: Callable[[Row], None] = nothing,
        on_start: Callable[[str], None] = nothing,
    ) -> None:
        self.config, self.sizes, self.clock = config, sizes, clock
        self.on_row, self.on_start = on_row, on_start
        self.device = clock.device
        self.rows: list[Row] = []
        self.agents = {name: self._agent(name) for name in ("autoregressive", "parallel")}
        self.agent = self.agents[config.world.prediction.kind]
        is_comparable = (
            config.policy.sees_frames
            and not config.world.is_parallel
            and config.world.positions == LearnedPositions()
            and not config.tokenizer.autoencoder.has_local_encoder
        )
        self.reference = EagerReference(self.agents["autoregressive"]) if is_comparable else None
        own = {name: side for name, side in OURS.items() if side[1] == config.world.prediction.kind}
        self.sides = OURS if is_comparable else own

    def _agent(self, kind: str) -> Agent:
        torch.manual_seed(0)
        world = self.config.world
        if world.prediction.kind != kind:
            world = replace(world, prediction=PREDICTIONS[kind])
        config = AgentConfig((NUM_ACTIONS,), (), self.config.tokenizer, world, self.config.policy)
        return Agent(config).to(self.device).eval()

    def frames(self, *shape: int) -> Tensor:
        """Random uint8 frames (*shape, 3, R, R)."""
        size = self.config.env.resolution
        return torch.randint(256, (*shape, 3, size, size), dtype=torch.uint8, device=self.device)

    def tokens(self, *shape: int) -> Tensor:
        """Random obs_tokens (*shape, K)."""
        size = self.agent.tokenizer.quantizer.codebook_size
        return torch.randint(size, (*shape, self.agent.tokenizer.tokens_per_frame), device=self.device)

    def actions(self, *shape: int) -> Tensor:
        """Random actions (*shape, 1) int64."""
        return torch.randint(NUM_ACTIONS, (*shape, 1), device=self.device)

    def measure(
        self,
        name: str,
        unit: str,
        amount: float,
        sides: dict[str, Work],
        *,
        warm_up: bool = True,
        note: str = "",
    ) -> Row:
        """A row: medians over rounds, in each round every side once."""
        sizes, started = self.sizes, time.monotonic()
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        peaks = dict.fromkeys(sides, 0.0)
        for side, work in sides.items() if warm_up else ():
            self.on_start(f"{name}: {side}, warming up")
            work()
        for i in range(sizes.rounds):
            for side, work in sides.items():
                self.on_start(f"{name}: {side}, round {i + 1} of at most {sizes.rounds}")
                self.clock.forget_peak()
                seconds[side].append(self.clock.seconds(work))
                peaks[side] = max(peaks[side], self.clock.peak_mb())
            if time.monotonic() - started > sizes.row_seconds:
                break
        medians = {side: statistics.median(each) for side, each in seconds.items()}
        return Row(name, unit, amount, medians, peaks, note)

    def add(self, row: Row) -> None:
        """Keep a row of the table."""
        self.rows.append(row)
        self.on_row(row)

    def own(self, names: tuple[str, ...] = AUTOREGRESSIVE) -> Iterator[tuple[str, torch.dtype, Agent]]:
        """The named sides that this config has; all of them where it has a single kind of prediction."""
        for name, (dtype, prediction) in self.sides.items():
            if name in names or len(self.sides) < len(OURS):
                yield name, dtype, self.agents[prediction]

    def cast(self, dtype: torch.dtype, work: Work) -> Work:
        """The work under autocast to bfloat16 where dtype says so."""

        def run() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                work()

        return run

    # ---- rows ----

    def tokenizer(self) -> None:
        """Encode, decode, a training step."""
        num, reference = self.sizes.frames, self.reference
        frames, tokens = self.frames(num), self.tokens(num)
        encode: dict[str, Work] = {}
        decode: dict[str, Work] = {}
        train: dict[str, Work] = {}
        if reference is not None:
            encode[REFERENCE] = without_gradients(reference.encode, frames)
            decode[REFERENCE] = without_gradients(reference.decode, tokens)
            optimizer = torch.optim.AdamW(reference.weights["tokenizer"], lr=0.0)
            train[REFERENCE] = works.update(optimizer, lambda: reference.tokenizer_loss(frames))
        for name, dtype, agent in self.own():
            encode[name] = self.cast(dtype, without_gradients(agent.tokenizer.encode, frames))
            decode[name] = self.cast(dtype, without_gradients(agent.tokenizer.decode, tokens))
            train[name] = self.cast(dtype, works.tokenizer_update(agent, self.config, frames))
        self.add(self.measure("tokenizer: encode", "frames", num, encode))
        self.add(self.measure("tokenizer: decode", "frames", num, decode))
        self.add(self.measure(f"tokenizer: training step, {num} frames", "updates", 1, train))

    def acting(self) -> None:
        """One real frame to one action."""
        frame, reference, num = self.frames(1), self.reference, 10
        sides: dict[str, Work] = {}
        if reference is not None:
            memory = tuple(self.agent.start(1))
            sides[REFERENCE] = without_gradients(lambda: [reference.act(frame, memory) for _ in range(num)])
        for name, dtype, agent in self.own():
            sides[name] = self.cast(dtype, works.acting(agent, frame, num))
        self.add(self.measure("acting, batch 1", "actions", num, sides))

    def collection(self) -> None:
        """Real steps, the policy acting: the environment's own cost added to acting."""
        from iris_wm.envs import make_env

        acting = next(row for row in self.rows if row.name == "acting, batch 1")
        env = make_env(self.config.env)
        env.reset(seed=0)
        num = 50

        def play() -> None:
            for t in range(num):
                *_, terminated, truncated, _ = env.step(t % env.actions.sizes[0])
                if terminated or truncated:
                    env.reset()

        own = self.clock.seconds(play) / num
        env.close()
        seconds = {side: value / acting.amount + own for side, value in acting.seconds.items()}
        note = f"acting plus {1e3 * own:.1f} ms of the environment; one environment"
        self.add(Row("collection", "env steps", 1, seconds, {}, note))

    def roll_outs(self) -> None:
        """Imagined steps, tokens only and with the policy and what it sees."""
        for batch in self.sizes.rollout_batches:
            for has_policy in (False, True):
                self.add(self.roll_out(batch, self.sizes.horizon, has_policy=has_policy))

    def roll_out(
        self, batch: int, horizon: int, *, has_policy: bool, names: tuple[str, ...] = tuple(OURS)
    ) -> Row:
        """A row of batch x horizon imagined steps, which is not added to the table."""
        tokens, actions, reference = self.tokens(batch), self.actions(horizon, batch), self.reference
        sides: dict[str, Work] = {}
        if reference is not None:
            memory = self.agent.start(batch)
            sides[REFERENCE] = without_gradients(
                lambda: reference.roll_out(tokens, memory, horizon, has_policy=has_policy)
            )
        for name, dtype, agent in self.own(names):
            sides[name] = self.cast(
                dtype,
                works.imagination(agent, tokens, horizon, dtype)
                if has_policy
                else works.token_roll_out(agent, tokens, actions, dtype),
            )
        seen = "with decoder and policy" if self._sees_frames else "with policy"
        what = seen if has_policy else "tokens only"
        return self.measure(
            f"imagination: {batch} x {horizon}, {what}",
            "imagined steps",
            batch * horizon,
            sides,
            warm_up=self.device.type == "cuda",
        )

    @property
    def _sees_frames(self) -> bool:
        return self.agent.config.policy.sees_frames

    def world(self) -> None:
        """One update with its tokens: encoded here by the reference, once an epoch by us."""
        batch, length, reference = self.sizes.update_batch, self.sizes.context, self.reference
        frames = self.frames(batch, length)
        batch_of = (self.tokens(batch, length), *self._segment(batch, length))
        sides: dict[str, Work] = {}
        if reference is not None:
            optimizer = torch.optim.AdamW(reference.weights["world"], lr=0.0)
            sides[REFERENCE] = works.update(optimizer, lambda: reference.world_loss(frames, *batch_of[1:]))
        share = frames_a_segment(self.config)["encode"]
        encoded = self.frames(max(1, round(share * batch)))
        for name, dtype, agent in self.own(tuple(OURS)):
            own = works.in_turn(
                works.world_update(agent, self.config, *batch_of),
                without_gradients(agent.tokenizer.encode, encoded),
            )
            sides[name] = self.cast(dtype, own)
        note = f"ours encodes {share:.2f} frames a segment, its share of an epoch's (see docs)"
        name = f"world model: update, {batch} x {length}"
        self.add(self.measure(name, "updates", 1, sides, warm_up=False, note=note))

    def _segment(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, rewards and terminations (batch, length)."""
        rewards = torch.randint(-1, 2, (batch, length), device=self.device).float()
        ends = torch.rand(batch, length, device=self.device) < 0.05
        return self.actions(batch, length), rewards, ends

    def policy(self) -> None:
        """One update, burn-in included."""
        sizes, reference = self.sizes, self.reference
        batch, horizon = sizes.update_batch, sizes.horizon
        sides: dict[str, Work] = {}
        if reference is not None:
            frames = self.frames(batch, sizes.burn_in + 1)
            optimizer = torch.optim.AdamW(reference.weights["policy"], lr=0.0)
            sides[REFERENCE] = works.update(optimizer, lambda: reference.policy_loss(frames, horizon))
        share = frames_a_segment(self.config)
        encoded = self.frames(max(1, round(share["encode"] * batch)))
        decoded = self.tokens(max(1, round(share["decode"] * batch)))
        for name, dtype, agent in self.own(tuple(OURS)):
            seen = self._seen(agent, batch, sizes.burn_in + 1)
            update = works.policy_update(agent, self.config, self.tokens(batch), seen, horizon, dtype)
            parts = [update, without_gradients(agent.tokenizer.encode, encoded)]
            if self._sees_frames:
                parts.append(without_gradients(agent.tokenizer.decode, decoded))
            sides[name] = self.cast(dtype, works.in_turn(*parts))
        note = f"ours encodes {share['encode']:.2f} and decodes {share['decode']:.2f} frames a segment (see docs)"
        name = f"actor-critic: update, {batch} x {horizon}, burn-in {sizes.burn_in}"
        is_graph = self.device.type == "cuda"
        self.add(self.measure(name, "updates", 1, sides, warm_up=is_graph, note=note))

    def _seen(self, agent: Agent, *shape: int) -> Tensor:
        """What a policy sees: frames in [0, 1], or codes."""
        if self._sees_frames:
            size = self.config.env.resolution
            return torch.rand(*shape, 3, size, size, device=self.device)
        return agent.tokenizer.quantizer.lookup(self.tokens(*shape)).detach()

    def growth(self) -> dict[str, list[dict[str, Any]]]:
        """How imagination grows with batch and horizon, and a world-model update with the context."""
        sizes, names = self.sizes, ("exact", "parallel")
        grown: dict[str, list[dict[str, Any]]] = {"batch": [], "horizon": [], "context": []}
        reference, self.reference = self.reference, None
        for batch in sizes.scaling_batches:
            row = self.roll_out(batch, min(sizes.scaling_horizons), has_policy=False, names=names)
            grown["batch"].append({"x": batch, "steps_per_second": _rates(row)})
        batch = min(sizes.scaling_batches)
        for horizon in sizes.scaling_horizons:
            row = self.roll_out(batch, horizon, has_policy=False, names=names)
            grown["horizon"].append({"x": horizon, "steps_per_second": _rates(row)})
        for length in sizes.scaling_contexts:
            batch_of = (self.tokens(2, length), *self._segment(2, length))
            sides = {
                name: self.cast(dtype, works.world_update(agent, self.config, *batch_of))
                for name, dtype, agent in self.own(names)
            }
            row = self.measure(f"context {length}", "segment steps", 2 * length, sides)
            grown["context"].append({"x": length, "steps_per_second": _rates(row)})
        self.reference = reference
        return grown


def _rates(row: Row) -> dict[str, float]:
    return {side: row.amount / seconds for side, seconds in row.seconds.items()}
