"""How the policy is trained: in imagination alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from iris_wm.data.replay import Batches
from iris_wm.data.segment import Segment
from iris_wm.dream.rollout import Imagination, ImaginationConfig, Look, Rollout
from iris_wm.optimization import OptimizationConfig
from iris_wm.policy.actor_critic import ActorCritic, PolicyConfig, PolicyOutput, PolicyState
from iris_wm.policy.loss import PPO, PolicyLossConfig, policy_loss, policy_targets
from iris_wm.protocols import Named, Pieces
from iris_wm.streams import Draw
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.world.token_world import TokenState, TokenWorld


@dataclass(frozen=True)
class PolicyLearnerConfig(PolicyConfig):
    """The actor-critic, its loss and its optimization."""

    loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    optimization: OptimizationConfig = field(default_factory=lambda: OptimizationConfig(start_after_epoch=50))


class PolicyLearner:
    """A Learner.

    new_world: where the policy acts, asked for at the first step, when the networks are where they will be.
    look: what the policy sees there.
    """

    name = "policy"

    def __init__(
        self,
        config: PolicyLearnerConfig,
        network: ActorCritic,
        cache: TokenCache,
        imagination: ImaginationConfig,
        new_world: Callable[[], TokenWorld],
        look: Look[TokenState],
    ) -> None:
        self.config, self.network, self.cache = config, network, cache
        self.imagination, self.new_world, self.look = imagination, new_world, look
        self.optimization = config.optimization
        self.pieces = Pieces(config.optimization.batch_size, imagination.burn_in + 1, from_start=False)
        self.sees_frames = config.sees_frames and imagination.burn_in > 0
        self._roll_outs: Imagination | None = None
        cache.add_reader(self, reads_frames=self.sees_frames)

    def begin_phase(self, batches: Batches, epoch: int) -> None:
        """Encode the epoch's frames, where the world has not."""
        self.cache.prepare(batches, epoch)

    def losses(self, segment: Segment, draw: Draw) -> Iterator[tuple[Named, Named]]:
        """See Learner: one update from a batch of roll-outs, or those of PPO."""
        rollout = self._imagine(segment, draw)
        with torch.no_grad():
            alive = (rollout.terminations.cumsum(1) - rollout.terminations.long() == 0).float()
            measured = {
                "imagined_return": (rollout.rewards * alive).sum(1).mean(),
                "imagined_length": alive.sum(1).mean(),
                "logits of the imagination": rollout.is_finite,
            }
        loss, inputs, memory, actions = self.config.loss, rollout.inputs, rollout.memory, rollout.actions
        with torch.set_grad_enabled(not isinstance(loss.update, PPO)):
            output = self._output(inputs, memory)
        targets = policy_targets(output, actions, rollout.rewards, rollout.terminations, loss)
        measured["value"] = output.values.detach().mean()
        if not isinstance(loss.update, PPO):
            yield policy_loss(output, actions, targets, loss), measured
            return
        parts = torch.arange(len(segment), device=inputs.device).chunk(loss.update.minibatches)
        for rows in parts * loss.update.passes:
            output = self._output(inputs[rows], PolicyState(*(part[rows] for part in memory)))
            yield policy_loss(output, actions[rows], targets.rows(rows), loss), measured

    def _output(self, inputs: Tensor, memory: PolicyState) -> PolicyOutput:
        """What the policy as it is now thinks of roll-outs."""
        hidden, _ = self.network.sequence(inputs, memory)
        return self.network.heads(hidden)

    def _imagine(self, segment: Segment, draw: Draw) -> Rollout:
        """A batch of roll-outs from the last frames of real pieces."""
        policy, config = self.network, self.imagination
        indices, is_real = segment.frame_indices, segment.is_real
        # Where an episode is shorter than the burn-in, the world model sees its first frame standing still.
        first = indices.gather(1, is_real.long().argmax(1, keepdim=True))
        obs_tokens = self.cache.obs_tokens(torch.where(is_real, indices, first))
        memory, first_inputs = policy.initial_state(len(segment)), None
        if config.burn_in:
            with torch.no_grad():
                if self.sees_frames:
                    reconstructions = self.cache.reconstructions(indices)
                    inputs, first_inputs = reconstructions[:, :-1], reconstructions[:, -1]
                else:
                    inputs = self.cache.tokenizer.quantizer.lookup(obs_tokens[:, :-1])
                _, memory = policy.sequence(inputs, memory, is_real[:, :-1])
        if self._roll_outs is None:
            self._roll_outs = Imagination(self.new_world(), self.look, policy.choose, config, len(segment))
        num_past = config.burn_in if config.context == "burn_in" else 0
        return self._roll_outs.imagine(
            obs_tokens[:, -1 - num_past :],
            segment.actions[:, -1 - num_past : -1],
            memory,
            draw.seed,
            first_inputs,
        )
