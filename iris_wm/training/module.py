"""The LightningModule: three networks, three optimizers, one training step for each."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from iris_wm.agent import Agent
from iris_wm.checkpoint.errors import NumericFailure
from iris_wm.data.segment import Segment
from iris_wm.dream.rollout import Imagination
from iris_wm.optimization import build_optimizer
from iris_wm.policy.loss import policy_loss
from iris_wm.runs.config import RunConfig
from iris_wm.spaces import ActionSpace
from iris_wm.streams import row_seeds, stream_seed
from iris_wm.tokenizer.loss import LPIPS, tokenizer_loss
from iris_wm.tokenizer.quantizer import codebook_usage
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.training.batches import BatchSampler, Step
from iris_wm.training.schedule import NETWORKS, optimization_of
from iris_wm.world.loss import world_loss
from iris_wm.world.token_world import SamplingConfig

# Scalars by name: the losses, whose sum is minimised, and what else is logged.
LossesAndMeasures = tuple[dict[str, Tensor], dict[str, Tensor]]


class IrisModule(pl.LightningModule):
    """Trains one network a step, as the step says; collection and evaluation are a callback's work.

    sampler, token_cache: set by that callback before the first step. segment: what the last step has drawn.
    """

    def __init__(self, config: RunConfig, actions: ActionSpace) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        torch.manual_seed(stream_seed(config.seed, "weights"))
        self.agent = Agent(config.agent_config(actions))
        self.sampler: BatchSampler | None = None
        self.token_cache: TokenCache | None = None
        self.imagination: Imagination | None = None
        self.metrics: dict[str, float] = {}
        self.segment: Segment | None = None
        self._imagination_is_finite = torch.tensor(True)
        losses = config.tokenizer.loss
        # In a list, so that its frozen weights are no part of the module's state.
        self._perceptual = [LPIPS(losses.perceptual_weights)] if losses.perceptual == "lpips" else []

    @property
    def is_bfloat16(self) -> bool:
        """Whether the networks run in bfloat16."""
        return self.config.trainer.precision == "bf16"

    def autocast(self) -> torch.autocast:
        """What Lightning puts around training steps, for the work between them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bfloat16)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer a network, in the order of NETWORKS."""
        return [
            build_optimizer(getattr(self.agent, network), optimization_of(self.config, network))
            for network in NETWORKS
        ]

    def on_train_start(self) -> None:
        """Give restored moments the memory layout of their parameters, which the fused optimizer takes for granted."""
        for optimizer in self.trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if value.shape == parameter.shape:
                        state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def training_step(self, batch: Step, batch_idx: int) -> None:
        """One step of one network. All randomness of the step follows from its place in the run."""
        if batch.component not in NETWORKS:
            return
        place = f"{batch.component} step {batch.epoch} rank {self.global_rank}"
        torch.manual_seed(stream_seed(self.config.seed, place, batch.index))
        assert self.sampler is not None
        learn: Callable[[Segment, Step], LossesAndMeasures] = getattr(self, f"_{batch.component}_losses")
        self.segment = self.sampler.sample(batch)
        self._optimize(batch, *learn(self.segment, batch))

    def _tokenizer_losses(self, segment: Segment, batch: Step) -> LossesAndMeasures:
        frames = segment.frames.flatten(0, 1)
        tokenizer = self.agent.tokenizer
        output = tokenizer(frames)
        perceptual = self._perceptual[0].to(self.device) if self._perceptual else None
        losses = tokenizer_loss(output, tokenizer.normalize(frames), self.config.tokenizer.loss, perceptual)
        # Processes that train together find out together, from the gradients.
        if self.trainer.world_size == 1 and not bool(torch.isfinite(output.latents).all()):
            raise NumericFailure(
                f"tokenizer: latents are not finite at epoch {batch.epoch}, step {batch.index}",
                tensor="latents",
            )
        with torch.no_grad():
            used, perplexity = codebook_usage(output.obs_tokens, tokenizer.quantizer.codebook_size)
        return losses, {"codes_used": used, "perplexity": perplexity}

    def _world_losses(self, segment: Segment, batch: Step) -> LossesAndMeasures:
        assert self.token_cache is not None
        obs_tokens = self.token_cache.obs_tokens(segment.frame_indices)
        world = self.agent.world
        num_steps = self.config.world.context_steps
        output = world(obs_tokens[:, :num_steps], segment.actions[:, :num_steps])
        losses = world_loss(
            world,
            output,
            obs_tokens,
            segment.rewards,
            segment.terminations,
            segment.is_real,
            self.config.world.loss,
        )
        return losses, {}

    def _policy_losses(self, segment: Segment, batch: Step) -> LossesAndMeasures:
        assert self.token_cache is not None
        policy, config = self.agent.policy, self.config.imagination
        indices, is_real = segment.frame_indices, segment.is_real
        # Where an episode is shorter than the burn-in, the world model sees its first frame standing still.
        first = indices.gather(1, is_real.long().argmax(1, keepdim=True))
        obs_tokens = self.token_cache.obs_tokens(torch.where(is_real, indices, first))
        state = policy.initial_state(len(indices))
        first_inputs = None
        if config.burn_in:
            with torch.no_grad():
                if policy.config.sees_frames:
                    reconstructions = self.token_cache.reconstructions(indices)
                    inputs, first_inputs = reconstructions[:, :-1], reconstructions[:, -1]
                else:
                    inputs = self.agent.tokenizer.quantizer.lookup(obs_tokens[:, :-1])
                _, state = policy.sequence(inputs, state, is_real[:, :-1])
        num_past = config.burn_in if config.context == "burn_in" else 0
        if self.imagination is None or self.imagination.batch_size != len(indices):
            world = self.agent.new_world(
                SamplingConfig(config.temperature),
                dtype=torch.bfloat16 if self.is_bfloat16 else torch.float32,
            )
            self.imagination = Imagination(world, self.agent.look, policy.choose, config, len(indices))
        seed = stream_seed(
            self.config.seed, f"imagination {batch.epoch} rank {self.global_rank}", batch.index
        )
        rollout = self.imagination.imagine(
            obs_tokens[:, -1 - num_past :],
            segment.actions[:, -1 - num_past : -1],
            state,
            row_seeds(seed, len(indices), self.device),
            first_inputs,
        )
        hidden, _ = policy.sequence(rollout.inputs, rollout.memory)
        output = policy.heads(hidden)
        losses = policy_loss(
            output.actions,
            output.values,
            rollout.actions,
            rollout.rewards,
            rollout.terminations,
            self.config.policy.loss,
        )
        # A loss that is not finite stops the run, in all processes that train together; nobody waits for it here.
        self._imagination_is_finite = rollout.is_finite
        losses = {name: loss.where(rollout.is_finite, math.nan) for name, loss in losses.items()}
        with torch.no_grad():
            alive = (rollout.terminations.cumsum(1) - rollout.terminations.long() == 0).float()
            measures = {
                "imagined_return": (rollout.rewards * alive).sum(1).mean(),
                "imagined_length": alive.sum(1).mean(),
                "value": output.values.mean(),
            }
        return losses, measures

    def _optimize(self, batch: Step, losses: dict[str, Tensor], measures: dict[str, Tensor]) -> None:
        """Backward, check, clip, step. Nothing is applied unless every number is finite."""
        component = batch.component
        where = f"epoch {batch.epoch}, step {batch.index}"
        optimizer = self.optimizers()[NETWORKS.index(component)]  # type: ignore[index]
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(list(losses.values())).sum()
        self.manual_backward(loss)
        optimization = optimization_of(self.config, component)
        network: nn.Module = getattr(self.agent, component)
        gradients = {
            name: parameter.grad
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        }
        grad_norm = nn.utils.get_total_norm(gradients.values())
        checked = {**losses, "grad_norm": grad_norm}
        scalars = {**checked, **measures}  # read from the device all at once
        numbers = torch.stack([scalar.detach().float() for scalar in scalars.values()]).tolist()
        values = dict(zip(scalars, numbers, strict=True))
        for name in checked:
            value = values[name]
            if not math.isfinite(value):
                weight, gradient = _first_bad(network.named_parameters()), _first_bad(gradients.items())
                tensor = f"{component}/{name}"
                if weight:
                    tensor = f"{component}.{weight}"
                elif component == "policy" and not bool(self._imagination_is_finite):
                    tensor = _first_bad(self.agent.weights().items()) or "logits of the imagination"
                elif name == "grad_norm" and gradient:
                    tensor = f"gradient of {component}.{gradient}"
                detail = "" if tensor.endswith(name) else f" because of {tensor}"
                raise NumericFailure(
                    f"{component}: {name} is {value}{detail} at {where}; no weight was changed", tensor=tensor
                )
        self.metrics |= {f"{component}/{name}": value for name, value in values.items()}
        self.metrics[f"{component}/loss"] = sum(values[name] for name in losses)
        nn.utils.clip_grads_with_norm_(network.parameters(), optimization.max_grad_norm, grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = optimization.rate(batch.epoch, self.config.training.num_epochs)
        optimizer.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The agent's weights travel under their own keys (see checkpoint_io)."""
        checkpoint["state_dict"] = self.agent.weights()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Take what on_save_checkpoint put in."""
        self.agent.load_weights(dict(state_dict))


def _first_bad(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor that is not finite."""
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), "")
