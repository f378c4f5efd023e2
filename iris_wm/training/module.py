"""The LightningModule: a training step does what the schedule's step says, and keeps account of it."""

import math
import time
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from iris_wm.acting import AtTemperature
from iris_wm.agent import Agent
from iris_wm.checkpoint.errors import NumericFailure
from iris_wm.data.replay import Batches
from iris_wm.data.segment import Segment
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.optimization import build_optimizer
from iris_wm.protocols import Learner, Named
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY, RunProgress
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw, row_seeds, stream_seed
from iris_wm.training.datamodule import ReplayDataModule
from iris_wm.training.distributed import check_same_experience
from iris_wm.training.schedule import (
    COLLECTION_CHUNK,
    EpochSteps,
    MakeAgent,
    MakeLearners,
    Numbers,
    Step,
    iris_learners,
    num_collection_steps,
    phases,
)

NETWORKS_KEY = "networks"


class IrisModule(pl.LightningModule):
    """Trains the networks of a list of learners, one a step; collects and evaluates in between. All state of a run but
    the real experience, which the `ReplayDataModule` has.

    progress: where the run stands. report: told what goes on inside a step, may raise to leave it. step, segment: the
    last step and the batch it has drawn. numbers: the newest of each, phases' means, by component/name.
    """

    def __init__(
        self,
        config: RunConfig,
        actions: ActionSpace,
        make_learners: MakeLearners = iris_learners,
        make_agent: MakeAgent = Agent,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        torch.manual_seed(stream_seed(config.seed, "weights"))  # layers take theirs from the global generator
        self.agent = make_agent(config.agent_config(actions))
        self.report = lambda what, done, total: None
        self.learners = make_learners(config, self.agent, lambda *work: self.report(*work))
        self.networks = nn.ModuleDict({learner.name: learner.network for learner in self.learners})
        self._trained = [
            learner for learner in self.learners if any(True for _ in learner.network.parameters())
        ]
        self.phases = phases(config, self.learners, self._collect, self._learn, self._evaluate)
        self.progress = RunProgress()
        self.numbers: Numbers = {}
        self.step: Step | None = None
        self.segment: Segment | None = None
        self._begun: tuple[str, int] | None = None

    @property
    def data(self) -> ReplayDataModule:
        """The real experience."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ReplayDataModule)
        return data

    def steps(self) -> EpochSteps:
        """The rest of the epoch that the run stands in."""
        return EpochSteps(self.phases, self.progress.epoch, self.progress.position)

    @property
    def is_epoch_over(self) -> bool:
        """Whether the last of the epoch's steps is done, and the page not turned yet."""
        num_steps = sum(phase.num_steps(self.progress.epoch) for phase in self.phases)
        return 0 < self.progress.position == num_steps

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each learner that has something to train, in their order."""
        return [build_optimizer(learner.network, learner.optimization) for learner in self._trained]

    def on_train_start(self) -> None:
        """Give restored moments the memory layout of their parameters, which the fused optimizer takes for granted."""
        for optimizer in self.trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if value.shape == parameter.shape:
                        state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def training_step(self, step: Step, batch_idx: int) -> None:
        """Do the step. All its randomness follows from its place in the run; one that is left has changed nothing."""
        self.step, self.segment, began = step, None, time.monotonic()
        try:
            numbers = step.work(step)
        except FloatingPointError as error:
            tensor = str(error).split()[0]
            raise NumericFailure(f"{step.component}: {error} at {step.place}", tensor=tensor) from None
        progress = self.progress
        progress.position += 1
        progress.total_steps += 1
        progress.env_steps = self.data.replay.num_steps
        progress.add_seconds(step.component, time.monotonic() - began)
        progress.add_numbers({f"{step.component}/{name}": value for name, value in numbers.items()})
        if step.is_last and progress.sums:
            self.tell(progress.take_means())

    def tell(self, numbers: Numbers) -> None:
        """Tell every logger; the x axis is always env_steps."""
        self.numbers |= numbers
        for logger in self.trainer.loggers:
            logger.log_metrics({**numbers, "epoch": self.progress.epoch}, step=self.data.replay.num_steps)

    def on_train_epoch_end(self) -> None:
        """Turn the page."""
        self.progress.epoch += 1
        self.progress.position = 0
        self.trainer.should_stop = self.progress.epoch > self.config.training.num_epochs

    # ---- the three kinds of steps ----

    def _collect(self, step: Step) -> Numbers:
        config, collector = self.config.collection, self.data.collector
        if step.index == 0:
            collector.refresh_memory()
        chunk = COLLECTION_CHUNK * config.num_envs
        num_steps = min(chunk, num_collection_steps(self.config, step.epoch) - step.index * chunk)
        is_trained = step.epoch > self.config.policy.optimization.start_after_epoch + 1
        for episode in collector.collect(
            num_steps, config.epsilon if is_trained else config.epsilon_before_policy
        ):
            self.tell({"collection/return": episode.episode_return, "collection/length": episode.length})
        check_same_experience(self.trainer, self.data.replay, self.progress.env_steps)
        return {}

    def _learn(self, learner: Learner, step: Step) -> Numbers:
        batches = Batches(self.data.replay, self.config.seed, self.global_rank)
        self.segment = batches.segment(learner, step.epoch, step.index)
        if self._begun != (learner.name, step.epoch):
            self.check_weights(f"found before {step.component}, {step.place}; nothing was saved")
            learner.begin_phase(batches, step.epoch)
            self._begun = learner.name, step.epoch
        name = f"{learner.name} step {step.epoch} rank {self.global_rank}"
        seed = stream_seed(self.config.seed, name, step.index)
        torch.manual_seed(seed)  # for dropout, which takes no generator
        draw = Draw.start(row_seeds(seed, len(self.segment), self.device), self.device)
        updates = [self._optimize(step, learner, *each) for each in learner.losses(self.segment, draw)]
        return {name: sum(numbers[name] for numbers in updates) / len(updates) for name in updates[0]}

    def _evaluate(self, step: Step) -> Numbers:
        config = self.config.evaluation
        with torch.autocast(self.device.type, enabled=False):
            played = evaluate(
                AtTemperature(self.agent, config.policy_temperature),
                self.config.env,
                num_episodes=config.num_episodes,
                num_envs=config.num_envs,
                seed=stream_seed(self.config.seed, "evaluation", step.epoch) % 2**31,
                max_steps=config.max_steps,
                on_progress=lambda finished: self.report("evaluating", finished, config.num_episodes),
            )
        point = {"env_steps": self.progress.env_steps, "epoch": step.epoch, "returns": played.returns}
        self.progress.score = played.mean_return
        self.progress.curve.append(point)
        return {"return": played.mean_return, "length": sum(played.lengths) / len(played.lengths)}

    # ---- learning ----

    def _optimize(self, step: Step, learner: Learner, losses: Named, measured: Named) -> Numbers:
        """Backward, check, clip, step. Nothing is applied unless every number is finite."""
        if not losses:  # what it has learned, it learned as the phase began
            return {name: float(value) for name, value in measured.items()}
        optimizers = self.optimizers()
        optimizer = (optimizers if isinstance(optimizers, list) else [optimizers])[
            self._trained.index(learner)
        ]
        optimizer.zero_grad(set_to_none=True)
        checks = {name: value for name, value in measured.items() if value.dtype == torch.bool}
        if checks:  # processes that train together find out together, from the gradients
            is_finite = torch.stack(list(checks.values())).all()
            losses = {name: loss.where(is_finite, math.nan) for name, loss in losses.items()}
        self.manual_backward(torch.stack(list(losses.values())).sum())
        parameters = dict(learner.network.named_parameters())
        gradients = {name: each.grad for name, each in parameters.items() if each.grad is not None}
        grad_norm = nn.utils.get_total_norm(gradients.values())
        scalars = {**losses, "grad_norm": grad_norm, **measured}  # read from the device all at once
        read = torch.stack([scalar.detach().float() for scalar in scalars.values()]).tolist()
        values = dict(zip(scalars, read, strict=True))
        failed = [name for name in checks if not values.pop(name)]
        for name in (*losses, "grad_norm"):
            if math.isfinite(values[name]):
                continue
            weight, gradient = _first_bad(self.weights().items()), _first_bad(gradients.items())
            cause = weight or next(iter(failed), "")
            if not cause and name == "grad_norm" and gradient:
                cause = f"gradient of {learner.name}.{gradient}"
            what = f"{cause} are not finite" if cause in failed else f"{name} is {values[name]}"
            what += f" because of {cause}" if cause and cause not in failed else ""
            raise NumericFailure(
                f"{learner.name}: {what} at {step.place}; no weight was changed",
                tensor=cause or f"{learner.name}/{name}",
            )
        nn.utils.clip_grads_with_norm_(parameters.values(), learner.optimization.max_grad_norm, grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learner.optimization.rate(step.epoch, self.config.training.num_epochs)
        optimizer.step()
        return {**values, "loss": sum(values[name] for name in losses)}

    def check_weights(self, where: str) -> None:
        """Raise NumericFailure naming the first weight that is not finite."""
        if name := _first_bad(self.weights().items()):
            raise NumericFailure(f"{name} is not finite; {where}", tensor=name)

    # ---- state ----

    def weights(self) -> dict[str, Tensor]:
        """Of all networks, by name."""
        others = self._other_networks()
        return {
            **self.agent.weights(),
            **{f"{name}.{key}": value for name, state in others.items() for key, value in state.items()},
        }

    def _other_networks(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the learners' networks that are no part of the agent."""
        own = set(self.agent.modules())
        return {each.name: each.network.state_dict() for each in self.learners if each.network not in own}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The agent's weights travel under their own keys (see RunCheckpointIO)."""
        checkpoint["state_dict"] = self.agent.weights()
        checkpoint[NETWORKS_KEY] = self._other_networks()
        checkpoint[STATE_KEY] = self.progress.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What on_save_checkpoint put in, but for the agent's weights."""
        for name, state in checkpoint[NETWORKS_KEY].items():
            self.networks[name].load_state_dict(state)
        self.progress.load_state_dict(checkpoint[STATE_KEY])

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Take the agent's weights."""
        self.agent.load_weights(dict(state_dict))


def _first_bad(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor that is not finite."""
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), "")
