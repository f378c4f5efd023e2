"""What the policy learns from: a batch of imagined roll-outs, and how they come to be."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from iris_wm.dream.token_env import SamplingConfig, TokenEnv
from iris_wm.policy.actor_critic import ActorCritic, PolicyState
from iris_wm.streams import row_seeds
from iris_wm.tokenizer.tokenizer import Tokenizer
from iris_wm.world.network import WorldNetwork


@dataclass(frozen=True)
class ImaginationConfig:
    """Roll-outs for learning."""

    horizon: int = 20
    """Imagined steps."""
    burn_in: int = 20
    """Real steps the policy's memory sees before."""
    context: Literal["frame", "burn_in"] = "frame"
    """What the world model starts from. frame: the last real frame alone (the paper's). burn_in: the real steps too."""
    context_overflow: Literal["restart", "slide"] = "restart"
    """When the context is full. restart: forget all but the current frame (the paper's). slide: keep the last half."""
    temperature: float = 1.0
    """Of the world model's draws."""
    rewards: Literal["sampled", "expected"] = "sampled"
    """What the policy is given. sampled: -1, 0 or 1, as drawn (the paper's). expected: the mean of the distribution,
    from which rare rewards are learned without the noise of the draws."""

    def __post_init__(self) -> None:
        for name, least in (("horizon", 2), ("burn_in", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, expected a number >= 0")


@dataclass
class Rollout:
    """B roll-outs of H steps; row t holds what the policy saw, what it did, and what that brought.

    inputs: (B, H, 3, R, R) float in [0, 1], or codes (B, H, K, E), as the policy takes them.
    obs_tokens: (B, H, K) int64. actions: (B, H, n) int64. rewards: (B, H) float32, -1 to 1. terminations: (B, H) bool.
    state: the policy's memory before the first step. is_finite: () bool, whether every logit that the actions,
    rewards and terminations were drawn from is; of a NaN the draws would show nothing.
    """

    inputs: Tensor
    obs_tokens: Tensor
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    state: PolicyState
    is_finite: Tensor


class Imagination:
    """Acts inside the world model. Holds the static buffers; on CUDA a whole roll-out is one graph replay."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        world: WorldNetwork,
        policy: ActorCritic,
        config: ImaginationConfig,
        batch_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        should_use_cuda_graph: bool = True,
    ) -> None:
        self.tokenizer, self.policy = tokenizer, policy
        self.config = config
        sampling = SamplingConfig(temperature=config.temperature, context_overflow=config.context_overflow)
        self.token_env = TokenEnv(world, batch_size, sampling, dtype)
        self._should_use_cuda_graph = should_use_cuda_graph and self.token_env.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static_inputs: dict[str, Tensor] = {}
        self._static_output: Rollout | None = None

    def policy_inputs(self, obs_tokens: Tensor) -> Tensor:
        """What the policy sees of tokens (..., K): decoded frames, or the codes' vectors."""
        return policy_inputs(self.tokenizer, self.policy, obs_tokens)

    @torch.no_grad()
    def imagine(
        self,
        obs_tokens: Tensor,
        state: PolicyState,
        seed: int,
        past: list[tuple[Tensor, Tensor]] | None = None,
        first_inputs: Tensor | None = None,
    ) -> Rollout:
        """Roll out the policy from real frames.

        Args:
            obs_tokens: (B, K) int64, the frames to start from.
            state: the policy's memory of what came before.
            seed: of all draws.
            past: earlier real steps for the world model, oldest first: (obs_tokens (B, K), actions (B, n)).
            first_inputs: policy_inputs(obs_tokens), where the caller has them; decoded here otherwise.
        """
        if self.token_env.device.type != "cpu":
            self.token_env.refresh_weights()
        seeds = row_seeds(seed, len(obs_tokens))
        if not self._should_use_cuda_graph:
            self.token_env.draw.seed.copy_(seeds, non_blocking=True)
            return self._roll_out(obs_tokens, state, past or [], first_inputs)
        inputs = {"obs_tokens": obs_tokens, "hidden": state.hidden, "cell": state.cell}
        if first_inputs is not None:
            inputs["first_inputs"] = first_inputs
        for i, (tokens, actions) in enumerate(past or []):
            inputs |= {f"past_tokens_{i}": tokens, f"past_actions_{i}": actions}
        if self._graph is None:
            self._capture(inputs, len(past or []))
        for name, value in inputs.items():
            self._static_inputs[name].copy_(value)
        self.token_env.draw.seed.copy_(seeds, non_blocking=True)
        assert self._graph is not None
        assert self._static_output is not None
        self._graph.replay()
        return self._static_output

    def _capture(self, inputs: dict[str, Tensor], num_past: int) -> None:
        """Record one roll-out on static copies of the inputs."""
        static = {name: value.clone() for name, value in inputs.items()}
        self._static_inputs = static
        past = [(static[f"past_tokens_{i}"], static[f"past_actions_{i}"]) for i in range(num_past)]
        state = PolicyState(static["hidden"], static["cell"])
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
            self._roll_out(static["obs_tokens"], state, past, static.get("first_inputs"))
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), autocast:
            self._static_output = self._roll_out(
                static["obs_tokens"], state, past, static.get("first_inputs")
            )

    def _roll_out(
        self,
        obs_tokens: Tensor,
        state: PolicyState,
        past: list[tuple[Tensor, Tensor]],
        first_inputs: Tensor | None,
    ) -> Rollout:
        env = self.token_env
        with torch.autocast(env.device.type, enabled=False):
            env.reset(obs_tokens, env.draw.seed, past)
        first_state = state
        is_finite = torch.ones((), dtype=torch.bool, device=env.device)
        columns: dict[str, list[Tensor]] = {
            name: [] for name in ("inputs", "obs_tokens", "actions", "rewards", "terminations")
        }
        for t in range(self.config.horizon):
            if t == 0 and first_inputs is not None:
                inputs = first_inputs
            else:
                inputs = self.policy_inputs(obs_tokens)
            output, state = self.policy(inputs, state)
            actions = output.actions.sample(env.draw.of("action"))
            with torch.autocast(env.device.type, enabled=False):  # its dtype is fixed by the cache
                step = env.step(actions, should_predict_frame=t + 1 < self.config.horizon)
            for logits in (output.actions.logits, step.reward_logits, step.termination_logits):
                is_finite = is_finite & torch.isfinite(logits).all()
            rewards = step.rewards
            if self.config.rewards == "expected":
                probabilities = step.reward_logits.float().softmax(-1)
                rewards = probabilities[:, 2] - probabilities[:, 0]
            row = (inputs, obs_tokens, actions, rewards, step.terminations)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            obs_tokens = step.obs_tokens
        stacked = {name: torch.stack(values, dim=1) for name, values in columns.items()}
        return Rollout(**stacked, state=first_state, is_finite=is_finite)


def policy_inputs(tokenizer: Tokenizer, policy: ActorCritic, obs_tokens: Tensor) -> Tensor:
    """What the policy sees of tokens (..., K): frames (..., 3, R, R) in [0, 1], or codes (..., K, E)."""
    if policy.config.sees_frames:
        return tokenizer.decode(obs_tokens)
    return tokenizer.quantizer.lookup(obs_tokens).detach()
