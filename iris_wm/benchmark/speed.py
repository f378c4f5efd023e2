"""`iris-wm benchmark speed`: what a user waits for, as seconds and as the ratio to the eager reference.

The sides of a row run one after the other, round after round, so that whatever else the machine does meets all of
them. All sides run under one allocator setting, that of the command line.
"""

import json
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import iris_wm
from iris_wm.agent import Agent, AgentConfig
from iris_wm.benchmark.eager import EagerReference
from iris_wm.benchmark.timing import REFERENCE, Clock, Row
from iris_wm.config_file import build_config, read_yaml
from iris_wm.imagination.rollout import Imagination, ImaginationConfig
from iris_wm.imagination.token_env import SamplingConfig, TokenEnv
from iris_wm.losses.actor_critic import actor_critic_loss
from iris_wm.losses.tokenizer import TokenizerLossConfig, tokenizer_loss
from iris_wm.losses.world_model import world_model_loss
from iris_wm.run import current_commit
from iris_wm.training.config import RunConfig
from iris_wm.training.module import build_optimizer
from iris_wm.training.schedule import num_collection_steps, num_training_steps

# Sides: (name, dtype, prediction).
OURS = {
    "exact": (torch.float32, "autoregressive"),
    "bf16": (torch.bfloat16, "autoregressive"),
    "parallel": (torch.float32, "parallel"),
    "parallel bf16": (torch.bfloat16, "parallel"),
}
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
    rounds: int = 1
    scaling_batches: tuple[int, ...] = (4, 16, 64)
    scaling_horizons: tuple[int, ...] = (5, 10, 20)
    scaling_contexts: tuple[int, ...] = (5, 10, 20)


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        frames=8, rollout_batches=(8,), horizon=4, update_batch=2, burn_in=4, context=4,
        scaling_batches=(4, 16), scaling_horizons=(2, 4), scaling_contexts=(2, 4),
    ),
    "gpu": Sizes(
        frames=256, rollout_batches=(64, 256, 1024), update_batch=64, rounds=5, scaling_batches=(64, 256, 1024),
    ),
}  # fmt: skip


class Bench:
    """Agents on random weights and random frames: no row depends on what they know."""

    def __init__(
        self, config: RunConfig, sizes: Sizes, clock: Clock, report: Callable[[Row], None] | None = None
    ) -> None:
        self.config, self.sizes, self.clock, self.report = config, sizes, clock, report
        self.device = clock.device
        self.rows: list[Row] = []
        self.agents = {name: self._agent(name) for name in ("autoregressive", "parallel")}
        self.agent = self.agents[config.world_model.prediction]
        is_comparable = config.actor_critic.inputs == "frames" and not config.world_model.is_parallel
        self.reference = EagerReference(self.agents["autoregressive"]) if is_comparable else None
        self.sides = OURS if is_comparable else self._own_sides()

    def _own_sides(self) -> dict[str, tuple[torch.dtype, str]]:
        prediction = self.config.world_model.prediction
        return {name: side for name, side in OURS.items() if side[1] == prediction}

    def _agent(self, prediction: Any) -> Agent:
        torch.manual_seed(0)
        attention = self.config.world_model.attention if prediction == "parallel" else "causal"
        world_model = replace(self.config.world_model, prediction=prediction, attention=attention)
        config = AgentConfig(NUM_ACTIONS, self.config.tokenizer, world_model, self.config.actor_critic)
        return Agent(config).to(self.device).eval()

    def autocast(self, dtype: torch.dtype) -> torch.autocast:
        """bfloat16 where dtype says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)

    def frames(self, *shape: int) -> Tensor:
        """Random uint8 frames (*shape, 3, R, R)."""
        size = self.config.env.resolution
        return torch.randint(256, (*shape, 3, size, size), dtype=torch.uint8, device=self.device)

    def tokens(self, *shape: int) -> Tensor:
        """Random obs_tokens (*shape, K)."""
        size = self.agent.tokenizer.quantizer.codebook_size
        return torch.randint(size, (*shape, self.agent.tokenizer.tokens_per_frame), device=self.device)

    def add(
        self,
        name: str,
        unit: str,
        amount: float,
        works: dict[str, Callable[[], Any]],
        *,
        warm_up: bool = True,
        note: str = "",
    ) -> Row:
        """Measure a row: medians over rounds, in each round every side once."""
        seconds: dict[str, list[float]] = {side: [] for side in works}
        peaks: dict[str, float] = {}
        for work in works.values() if warm_up else ():
            work()
        for _ in range(self.sizes.rounds):
            for side, work in works.items():
                self.clock.forget_peak()
                seconds[side].append(self.clock.seconds(work))
                peaks[side] = max(peaks.get(side, 0.0), self.clock.peak_mb())
        row = Row(
            name, unit, amount, {side: statistics.median(all_) for side, all_ in seconds.items()}, peaks, note
        )
        self.rows.append(row)
        if self.report:
            self.report(row)
        return row

    def own(self, names: tuple[str, ...] = ("exact", "bf16")) -> Iterator[tuple[str, torch.dtype, Agent]]:
        """The named sides that this config has."""
        for name, (dtype, prediction) in self.sides.items():
            if name in names or len(self.sides) < len(OURS):
                yield name, dtype, self.agents[prediction]

    # ---- rows ----

    def tokenizer(self) -> None:
        """Encode, decode, a training step."""
        sizes, reference = self.sizes, self.reference
        frames, tokens = self.frames(sizes.frames), self.tokens(sizes.frames)
        encode: dict[str, Callable[[], Any]] = {}
        decode: dict[str, Callable[[], Any]] = {}
        train: dict[str, Callable[[], Any]] = {}
        if reference is not None:
            encode[REFERENCE] = _frozen(reference.encode, frames)
            decode[REFERENCE] = _frozen(reference.decode, tokens)
            optimizer = torch.optim.AdamW(reference.weights["tokenizer"], lr=0.0)
            train[REFERENCE] = _update(optimizer, lambda: reference.tokenizer_loss(frames))
        for name, dtype, agent in self.own():
            encode[name] = self._cast(dtype, _frozen(agent.tokenizer.encode, frames))
            decode[name] = self._cast(dtype, _frozen(agent.tokenizer.decode, tokens))
            train[name] = self._cast(dtype, self._tokenizer_update(agent, frames))
        self.add("tokenizer: encode", "frames", sizes.frames, encode)
        self.add("tokenizer: decode", "frames", sizes.frames, decode)
        self.add(f"tokenizer: training step, {sizes.frames} frames", "updates", 1, train)

    def _tokenizer_update(self, agent: Agent, frames: Tensor) -> Callable[[], Any]:
        optimizer = build_optimizer(
            agent.tokenizer, replace(self.config.training.tokenizer, learning_rate=1e-12)
        )
        config = TokenizerLossConfig(l1=1.0, l2=0.0, max_pixel=0.0)

        def loss() -> Tensor:
            output = agent.tokenizer.train()(frames)
            agent.eval()
            losses = tokenizer_loss(output, agent.tokenizer.normalize(frames), config)
            return torch.stack(list(losses.values())).sum()

        return _update(optimizer, loss)

    def world_model(self) -> None:
        """One update with its tokens: encoded here by the reference, once an epoch by us."""
        sizes, reference = self.sizes, self.reference
        batch, length = sizes.update_batch, sizes.context
        frames, tokens = self.frames(batch, length), self.tokens(batch, length)
        actions = torch.randint(NUM_ACTIONS, (batch, length), device=self.device)
        rewards = torch.randint(-1, 2, (batch, length), device=self.device).float()
        ends = torch.rand(batch, length, device=self.device) < 0.05
        works: dict[str, Callable[[], Any]] = {}
        if reference is not None:
            optimizer = torch.optim.AdamW(reference.weights["world_model"], lr=0.0)
            works[REFERENCE] = _update(
                optimizer, lambda: reference.world_model_loss(frames, actions, rewards, ends)
            )
        share = frames_a_segment(self.config)
        for name, dtype, agent in self.own(tuple(OURS)):
            works[name] = self._cast(
                dtype,
                _in_turn(
                    self._world_model_update(agent, tokens, actions, rewards, ends),
                    _frozen(agent.tokenizer.encode, self.frames(max(1, round(share["encode"] * batch)))),
                ),
            )
        note = f"ours encodes {share['encode']:.2f} frames a segment, its share of an epoch's (see docs)"
        self.add(f"world model: update, {batch} x {length}", "updates", 1, works, warm_up=False, note=note)

    def _world_model_update(
        self, agent: Agent, tokens: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor
    ) -> Callable[[], Any]:
        model = agent.world_model
        optimizer = build_optimizer(model, replace(self.config.training.world_model, learning_rate=1e-12))

        def loss() -> Tensor:
            output = model.train()(tokens, actions)
            model.eval()
            losses = world_model_loss(model, output, tokens, rewards, ends, torch.ones_like(ends))
            return torch.stack(list(losses.values())).sum()

        return _update(optimizer, loss)

    def roll_outs(self) -> None:
        """Imagined steps, tokens only and with decoder and policy."""
        for batch in self.sizes.rollout_batches:
            self.add_roll_out(batch, self.sizes.horizon, has_policy=False)
            names = ("exact", "bf16", "parallel bf16")
            self.add_roll_out(batch, self.sizes.horizon, has_policy=True, names=names)

    def add_roll_out(
        self, batch: int, horizon: int, *, has_policy: bool, names: tuple[str, ...] = tuple(OURS)
    ) -> Row:
        """One row of batch x horizon imagined steps."""
        tokens, reference = self.tokens(batch), self.reference
        works: dict[str, Callable[[], Any]] = {}
        if reference is not None:
            memory = self.agent.initial_state(batch)
            works[REFERENCE] = _frozen(
                lambda: reference.roll_out(tokens, memory, horizon, has_policy=has_policy)
            )
        for name, dtype, agent in self.own(names):
            work = (
                self._imagination(agent, tokens, horizon, dtype)
                if has_policy
                else self._token_roll_out(agent, tokens, horizon, dtype)
            )
            works[name] = self._cast(dtype, work)
        what = (
            "with decoder and policy" if self.agent.config.actor_critic.inputs == "frames" else "with policy"
        )
        return self.add(
            f"imagination: {batch} x {horizon}, {what if has_policy else 'tokens only'}",
            "imagined steps",
            batch * horizon,
            works,
            warm_up=self.device.type == "cuda",
        )

    def _token_roll_out(
        self, agent: Agent, tokens: Tensor, horizon: int, dtype: torch.dtype
    ) -> Callable[[], Any]:
        env = TokenEnv(agent.world_model, len(tokens), SamplingConfig(), dtype)
        actions = torch.randint(NUM_ACTIONS, (horizon, len(tokens)), device=self.device)

        def roll_out() -> None:
            with torch.autocast(self.device.type, enabled=False):
                env.reset(tokens, 0)
                for t in range(horizon):
                    env.step(actions[t], should_predict_frame=t + 1 < horizon)

        return roll_out

    def _imagination(
        self, agent: Agent, tokens: Tensor, horizon: int, dtype: torch.dtype
    ) -> Callable[[], Any]:
        config = ImaginationConfig(horizon=horizon)
        imagination = Imagination(
            agent.tokenizer, agent.world_model, agent.actor_critic, config, len(tokens), dtype=dtype
        )
        state = agent.initial_state(len(tokens))
        return lambda: imagination.imagine(tokens, state, 0)

    def actor_critic(self) -> None:
        """One update, burn-in included."""
        sizes, reference = self.sizes, self.reference
        batch, horizon = sizes.update_batch, sizes.horizon
        works: dict[str, Callable[[], Any]] = {}
        if reference is not None:
            frames = self.frames(batch, sizes.burn_in + 1)
            optimizer = torch.optim.AdamW(reference.weights["actor_critic"], lr=0.0)
            works[REFERENCE] = _update(optimizer, lambda: reference.actor_critic_loss(frames, horizon))
        share = frames_a_segment(self.config)
        for name, dtype, agent in self.own():
            encoded = self.frames(max(1, round(share["encode"] * batch)))
            decoded = self.tokens(max(1, round(share["decode"] * batch)))
            parts = [
                self._actor_critic_update(agent, batch, horizon, dtype),
                _frozen(agent.tokenizer.encode, encoded),
            ]
            if agent.config.actor_critic.inputs == "frames":
                parts.append(_frozen(agent.tokenizer.decode, decoded))
            works[name] = self._cast(dtype, _in_turn(*parts))
        note = f"ours encodes {share['encode']:.2f} and decodes {share['decode']:.2f} frames a segment (see docs)"
        self.add(
            f"actor-critic: update, {batch} x {horizon}, burn-in {sizes.burn_in}",
            "updates",
            1,
            works,
            warm_up=self.device.type == "cuda",
            note=note,
        )

    def _actor_critic_update(
        self, agent: Agent, batch: int, horizon: int, dtype: torch.dtype
    ) -> Callable[[], Any]:
        actor_critic = agent.actor_critic
        training = replace(self.config.training.actor_critic, learning_rate=1e-12)
        optimizer = build_optimizer(actor_critic, training)
        imagination = Imagination(
            agent.tokenizer,
            agent.world_model,
            actor_critic,
            ImaginationConfig(horizon=horizon),
            batch,
            dtype=dtype,
        )
        tokens = self.tokens(batch)
        burn_in = self.tokens(batch, self.sizes.burn_in + 1)
        if actor_critic.config.inputs == "frames":
            size = self.config.env.resolution
            seen = torch.rand(*burn_in.shape[:2], 3, size, size, device=self.device)
        else:
            seen = agent.tokenizer.quantizer.lookup(burn_in).detach()
        first = seen[:, -1] if actor_critic.config.inputs == "frames" else None

        def loss() -> Tensor:
            with torch.no_grad():
                _, state = actor_critic.sequence(seen[:, :-1], agent.initial_state(batch))
            rollout = imagination.imagine(tokens, state, 0, first_inputs=first)
            output = actor_critic.heads(actor_critic.sequence(rollout.inputs, rollout.state)[0])
            losses = actor_critic_loss(
                output.action_logits,
                output.values,
                rollout.actions,
                rollout.rewards,
                rollout.terminations,
                self.config.losses.actor_critic,
            )
            return torch.stack(list(losses.values())).sum()

        return _update(optimizer, loss)

    def acting(self) -> None:
        """One real frame to one action, and with the environment's own steps."""
        frame, reference = self.frames(1), self.reference
        generator = torch.Generator().manual_seed(0)
        num = 5
        works: dict[str, Callable[[], Any]] = {}
        if reference is not None:
            memory = tuple(self.agent.initial_state(1))
            works[REFERENCE] = _frozen(lambda: [reference.act(frame, memory) for _ in range(num)])  # type: ignore[arg-type]
        for name, dtype, agent in self.own():
            works[name] = self._cast(dtype, _acting(agent, frame, num, generator))
        self.add("acting, batch 1", "actions", num, works)

    def collection(self) -> None:
        """Real steps, the policy acting: the environment's own cost added to acting."""
        from iris_wm.envs import make_env

        acting = next(row for row in self.rows if row.name == "acting, batch 1")
        env = make_env(self.config.env)
        env.reset(seed=0)
        num = 50

        def play() -> None:
            for t in range(num):
                *_, terminated, truncated, _ = env.step(t % len(env.action_names))
                if terminated or truncated:
                    env.reset()

        own = self.clock.seconds(play) / num
        env.close()
        seconds = {side: value / acting.amount + own for side, value in acting.seconds.items()}
        note = f"acting plus {1e3 * own:.1f} ms of the environment; one environment"
        self.rows.append(Row("collection", "env steps", 1, seconds, {}, note))
        if self.report:
            self.report(self.rows[-1])

    def scaling(self) -> dict[str, list[dict[str, Any]]]:
        """How imagination grows with batch and horizon, and a world-model update with the context."""
        grown: dict[str, list[dict[str, Any]]] = {"batch": [], "horizon": [], "context": []}
        names = ("exact", "parallel")
        kept, self.rows = self.rows, []
        reference, self.reference = self.reference, None
        report, self.report = self.report, None
        for batch in self.sizes.scaling_batches:
            row = self.add_roll_out(batch, min(self.sizes.scaling_horizons), has_policy=False, names=names)
            grown["batch"].append({"x": batch, "steps_per_second": _rates(row)})
        batch = min(self.sizes.scaling_batches)
        for horizon in self.sizes.scaling_horizons:
            row = self.add_roll_out(batch, horizon, has_policy=False, names=names)
            grown["horizon"].append({"x": horizon, "steps_per_second": _rates(row)})
        for length in self.sizes.scaling_contexts:
            works = {}
            for name, dtype, agent in self.own(names):
                tokens = self.tokens(2, length)
                zeros = torch.zeros(2, length, device=self.device)
                works[name] = self._cast(
                    dtype, self._world_model_update(agent, tokens, zeros.long(), zeros, zeros.bool())
                )
            row = self.add(f"context {length}", "segment steps", 2 * length, works)
            grown["context"].append({"x": length, "steps_per_second": _rates(row)})
        self.rows, self.reference, self.report = kept, reference, report
        return grown

    def _cast(self, dtype: torch.dtype, work: Callable[[], Any]) -> Callable[[], Any]:
        def cast() -> None:
            with self.autocast(dtype):
                work()

        return cast


def frames_a_segment(config: RunConfig, num_frames: int = 50_000) -> dict[str, float]:
    """Frames that the once-an-epoch cache encodes and decodes for each segment of an update.

    A batch draws frames at random, so of num_frames in the replay an epoch's D draws touch about
    num_frames (1 - exp(-D / num_frames)) different ones; each is computed once, for both networks that learn from it.
    """
    training, steps = config.training, config.world_model.context_steps
    segments = {
        name: getattr(training, name).steps_per_epoch * getattr(training, name).batch_size
        for name in ("world_model", "actor_critic")
    }
    seen = config.imagination.burn_in + 1
    draws = segments["world_model"] * steps + segments["actor_critic"] * seen

    def touched(num_draws: int) -> float:
        return num_frames * -torch.expm1(torch.tensor(-num_draws / num_frames, dtype=torch.float64)).item()

    decoded = touched(segments["actor_critic"] * seen) if config.actor_critic.inputs == "frames" else 0.0
    return {
        "encode": touched(draws) / max(1, sum(segments.values())),
        "decode": decoded / max(1, segments["actor_critic"]),
    }


def project(bench: Bench) -> dict[str, dict[str, float]]:
    """By side: seconds of a whole epoch of all phases, and hours of the whole run, from the rows."""
    config, sizes = bench.config, bench.sizes
    find = {
        "collection": "collection",
        "tokenizer": "tokenizer: training",
        "world_model": "world model",
        "actor_critic": "actor-critic",
    }
    rows = {
        name: next(row for row in bench.rows if row.name.startswith(start)) for name, start in find.items()
    }
    scale = {
        "collection": 1.0,
        "tokenizer": config.training.tokenizer.batch_size / sizes.frames,
        "world_model": config.training.world_model.batch_size / sizes.update_batch,
        "actor_critic": config.training.actor_critic.batch_size / sizes.update_batch,
    }
    counts = {"collection": [num_collection_steps(config, e + 1) for e in range(config.training.num_epochs)]}
    for name in ("tokenizer", "world_model", "actor_critic"):
        optimization = getattr(config.training, name)
        counts[name] = [num_training_steps(optimization, e + 1) for e in range(config.training.num_epochs)]
    usual = config.collection.stop_after_epoch - 1
    usual = min(usual, config.training.num_epochs - 1)
    projected = {}
    for side in rows["actor_critic"].seconds:
        seconds = {name: rows[name].seconds[side] * scale[name] for name in rows}
        epoch = {name: counts[name][usual] * seconds[name] for name in rows}
        whole = sum(sum(counts[name]) * seconds[name] for name in rows)
        projected[side] = {"epoch_seconds": sum(epoch.values()), "run_hours": whole / 3600} | {
            f"epoch_{name}_seconds": value for name, value in epoch.items()
        }
    return projected


def measure(
    config: RunConfig, sizes: Sizes, clock: Clock, report: Callable[[Row], None] | None = None
) -> dict[str, Any]:
    """The whole table as plain values: machine, rows, growth, projection."""
    bench = Bench(config, sizes, clock, report)
    for part in (
        bench.tokenizer,
        bench.acting,
        bench.collection,
        bench.roll_outs,
        bench.world_model,
        bench.actor_critic,
    ):
        part()
    scaling = bench.scaling()
    return {
        "machine": machine(clock),
        "sizes": asdict(sizes),
        "rows": [
            asdict(row) | {"ratios": {side: row.ratio(side) for side in row.seconds}} for row in bench.rows
        ],
        "scaling": scaling,
        "projection": project(bench),
    }


def machine(clock: Clock) -> dict[str, Any]:
    """Where and with what was measured."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "gpu": torch.cuda.get_device_name(clock.device) if clock.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "clock": clock.kind,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iris_wm": iris_wm.__version__,
        "commit": current_commit(),
    }


def line(row: Row) -> str:
    """A row in words, for printing while the rest is still measured."""
    cells = [f"{row.name:<50}"]
    for side, seconds in row.seconds.items():
        ratio = row.ratio(side)
        rate = f"{seconds:.3g} s" if row.unit == "updates" else f"{row.amount / seconds:.3g} {row.unit}/s"
        cells.append(f"{side} {rate}" + (f" ({ratio:.1f}x)" if ratio and side != REFERENCE else ""))
    return "  ".join(cells)


def speed(
    *,
    config: str | Path = "",
    device: str = "auto",
    is_quick: bool = False,
    clock: str = "wall",
    threads: int = 0,
    batch: int = 0,
    output: str | Path | None = None,
) -> int:
    """Measure and print the table, and write it as JSON where output is given; 0.

    config: a YAML file of the networks and the schedule (default: the paper's). device: auto, cpu or cuda.
    clock: wall, or cpu for processor seconds on a busy machine. threads: of torch, 0 for its own choice. batch: of
    roll-outs and of updates, 0 for the usual ones. Raises ValueError for a device that is not there or a negative
    number.
    """
    console = Console(highlight=False, soft_wrap=True)
    name = device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got cuda, but torch finds no GPU; use --device cpu")
    if clock == "cpu" and name == "cuda":
        raise ValueError("--clock: got cpu, expected wall on a GPU")
    for option, value in (("threads", threads), ("batch", batch)):
        if value < 0:
            raise ValueError(f"--{option}: got {value}, expected 0 (the usual) or more")
    if threads:
        torch.set_num_threads(threads)
    run_config = build_config(RunConfig, read_yaml(Path(config))) if config else RunConfig()
    sizes = SIZES["quick" if is_quick else "gpu" if name == "cuda" else "full"]
    if batch:
        sizes = replace(sizes, rollout_batches=(batch,), update_batch=batch)
    longest = run_config.world_model.context_steps
    sizes = replace(
        sizes,
        context=min(sizes.context, longest),
        horizon=min(sizes.horizon, run_config.imagination.horizon),
        burn_in=min(sizes.burn_in, run_config.imagination.burn_in),
        scaling_contexts=tuple(length for length in sizes.scaling_contexts if length <= longest),
    )
    results = measure(
        run_config, sizes, Clock(clock, torch.device(name)), lambda row: console.print(line(row))
    )
    for side, times in results["projection"].items():
        console.print(
            f"{side}: a whole epoch {times['epoch_seconds']:,.0f} s, the whole run {times['run_hours']:,.1f} h"
        )
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written to {path}")
    return 0


def _frozen(work: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    def run() -> None:
        with torch.no_grad():
            work(*arguments)

    return run


def _update(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Any]:
    """Forward, backward, clip, step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        with torch.autocast(value.device.type, enabled=False):
            value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return update


def _in_turn(*works: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        for work in works:
            work()

    return run


def _acting(agent: Agent, frame: Tensor, num: int, generator: torch.Generator) -> Callable[[], Any]:
    state = agent.initial_state(1)
    return lambda: [agent.act(frame, state, generator=generator) for _ in range(num)]


def _rates(row: Row) -> dict[str, float]:
    return {side: row.amount / seconds for side, seconds in row.seconds.items()}
