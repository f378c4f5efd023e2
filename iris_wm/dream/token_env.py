"""Steps a batch of imagined environments, in tokens only.

Everything lives on the device: no step waits for the host, so whole roll-outs can be captured as CUDA graphs.
The only counter on the host is how full the cache is, and that depends on nothing random.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import iris_kernels
import torch
from torch import Tensor

from iris_wm.streams import Draw, row_seeds
from iris_wm.world.network import WorldConfig, WorldNetwork
from iris_wm.world.transformer import DecodeWeights, decode, grouped, refresh_grouped


@dataclass(frozen=True)
class SamplingConfig:
    """How next frames are drawn from the world model's distributions."""

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """Only the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Only the most likely tokens that make up this probability."""
    context_overflow: Literal["restart", "slide"] = "restart"
    """When the context is full. restart: forget all but the current frame (the paper's). slide: keep the last half."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, expected a number >= 0")
        if self.top_k < 0:
            raise ValueError(f"top_k: got {self.top_k}, expected 0 (all) or a positive integer")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: got {self.top_p}, expected 0 < top_p <= 1")


class TokenStep(NamedTuple):
    """What B actions brought.

    obs_tokens: (B, K) int64, the next frame. rewards: (B,) float32 in {-1, 0, 1}. terminations: (B,) bool.
    reward_logits: (B, 3). termination_logits: (B, 2). observation_logits: (B, K, V), None unless asked for.
    """

    obs_tokens: Tensor
    rewards: Tensor
    terminations: Tensor
    reward_logits: Tensor
    termination_logits: Tensor
    observation_logits: Tensor | None


def max_past(config: WorldConfig) -> int:
    """Steps that fit into the context before the current frame, its action and the next frame.

    Autoregressive, the next frame's tokens stand in the context themselves; parallel, its queries stand behind it.
    """
    return config.context_steps - (1 if config.is_parallel else 2)


class TokenEnv:
    """B environments imagined by a world model, through a static key-value cache.

    The cache lags one token behind (the last token of the current frame, or the whole frame in parallel
    prediction): it goes in together with the action, so a frame takes K passes instead of K + 1, or one.
    """

    def __init__(
        self,
        world: WorldNetwork,
        batch_size: int,
        sampling: SamplingConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.world = world
        self.batch_size = batch_size
        self.sampling = sampling or SamplingConfig()
        self.layout = world.layout
        self.is_parallel = world.config.is_parallel
        transformer = world.transformer
        self.device = transformer.ln_out.weight.device
        num_queries = self.layout.tokens_per_frame if self.is_parallel else 0
        cache_dtype = dtype
        head_size = transformer.embed_dim // transformer.num_heads
        if self.device.type == "cpu" and not iris_kernels.has_c_decode_attention(head_size, dtype):
            cache_dtype = torch.float32  # PyTorch's own products are slower in bfloat16 here
        self.cache = transformer.new_cache(batch_size, self.layout.max_tokens + num_queries, cache_dtype)
        self._layers = [DecodeWeights.of(block, dtype) for block in transformer.blocks]
        self._ln_out = grouped(transformer.ln_out, dtype)
        self._head = [grouped(world.observation_head[i], dtype) for i in (0, 2)]
        self.draw = Draw.start(torch.zeros(batch_size, dtype=torch.int64), self.device)
        self._num_cached = 0
        self._obs_tokens = torch.zeros(
            batch_size, self.layout.tokens_per_frame, dtype=torch.int64, device=self.device
        )
        self._past: list[tuple[Tensor, Tensor]] = []

    def refresh_weights(self) -> None:
        """Copy the world model's current weights where this environment has copies; on a CPU, reset does it."""
        for copy, block in zip(self._layers, self.world.transformer.blocks, strict=True):
            copy.refresh(block)
        refresh_grouped(self._ln_out, self.world.transformer.ln_out)
        for pair, i in zip(self._head, (0, 2), strict=True):
            refresh_grouped(pair, self.world.observation_head[i])

    @torch.no_grad()
    def reset(
        self, obs_tokens: Tensor, seed: int | Tensor, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        """Start from real frames.

        Args:
            obs_tokens: (B, K) int64, the current frames.
            seed: all later draws depend on it alone. An int, from which each environment gets its own, or (B,) int64,
                one for each.
            past: earlier steps, oldest first: (obs_tokens (B, K), actions (B, n)); at most max_past of them count.
        """
        if self.device.type == "cpu":
            self.refresh_weights()
        seeds = seed if isinstance(seed, Tensor) else row_seeds(seed, self.batch_size)
        self.draw.seed.copy_(seeds, non_blocking=True)
        self.draw.step.zero_()
        past = list(past or [])
        self._refill(obs_tokens, past[max(0, len(past) - max_past(self.world.config)) :])

    @torch.no_grad()
    def step(
        self, actions: Tensor, *, should_predict_frame: bool = True, should_return_logits: bool = False
    ) -> TokenStep:
        """Imagine what the actions (B, n) int64 bring. Temperature applies to frame tokens, rewards and terminations.

        Without should_predict_frame only rewards and terminations are imagined, and the frame stays as it was:
        for the last step of a roll-out, whose next frame nobody looks at.
        """
        layout = self.layout
        if self.is_parallel:  # the current frame and the action
            needed = layout.tokens_per_step
        else:  # the current frame's last token, the action, the next frame
            needed = 2 + (layout.tokens_per_frame if should_predict_frame else 0)
        if self._num_cached + needed > layout.max_tokens:
            kept = 0
            if self.sampling.context_overflow == "slide":
                kept = min(layout.context_steps // 2, max_past(self.world.config))
            self._refill(self._obs_tokens, self._past[len(self._past) - kept :])
        if self.sampling.context_overflow == "slide":
            self._past.append((self._obs_tokens.clone(), actions))
        step = self._step_parallel if self.is_parallel else self._step_autoregressive
        obs_tokens, at_action, logits = step(actions, should_predict_frame, should_return_logits)
        reward_logits = self.world.reward_head(at_action)
        termination_logits = self.world.termination_head(at_action)
        rewards = self._sample(reward_logits, "reward").float() - 1
        terminations = self._sample(termination_logits, "termination").bool()
        self.draw.step.add_(1)
        self._obs_tokens.copy_(obs_tokens)
        return TokenStep(obs_tokens, rewards, terminations, reward_logits, termination_logits, logits)

    def _refill(self, obs_tokens: Tensor, past: list[tuple[Tensor, Tensor]]) -> None:
        """Forget the cache; feed the past steps and, autoregressive, the current frame's tokens but the last."""
        self._obs_tokens.copy_(obs_tokens)
        self._past = list(past)
        self.cache.position.zero_()
        self._num_cached = 0
        world = self.world
        if past:
            tokens, actions = (torch.stack(column, dim=1) for column in zip(*past, strict=True))
            steps = self.layout.interleave(world.token_embedding(tokens), world.action_embedding(actions))
            is_block_causal = world.config.is_block_causal
            for rows in steps.split(self.layout.tokens_per_step, dim=1) if is_block_causal else (steps,):
                self._feed(rows)
        if not self.is_parallel and self.layout.tokens_per_frame > 1:
            self._feed(world.token_embedding(obs_tokens[:, :-1]))

    def _positions(self, num_rows: int) -> Tensor:
        return self.world.position_embedding.weight[self._num_cached : self._num_cached + num_rows]

    def _feed(self, embeddings: Tensor, queries: Tensor | None = None, num_wanted: int = 1) -> Tensor:
        """Append rows (B, n, C), positions not yet added, to the context; the last num_wanted before the norm."""
        num_rows = embeddings.shape[1]
        x = embeddings + self._positions(num_rows)
        if queries is not None:
            x = torch.cat([x, queries], dim=1)
        hidden = decode(
            x,
            self._layers,
            self.cache,
            num_heads=self.world.config.num_heads,
            num_context=num_rows,
            num_wanted=num_wanted,
            is_block_causal=self.world.config.is_block_causal,
        )
        self._num_cached += num_rows
        return hidden

    def _step_autoregressive(
        self, actions: Tensor, with_frame: bool, with_logits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        world, layout = self.world, self.layout
        last_token = world.token_embedding(self._obs_tokens[:, -1:])
        hidden = self._feed(torch.cat([last_token, world.action_embedding(actions).unsqueeze(1)], dim=1))
        at_action = world.transformer.ln_out(hidden[:, 0])
        if not with_frame:
            return self._obs_tokens.clone(), at_action, None
        row = hidden[:, 0].contiguous()
        tokens, logits = [], []
        for k in range(layout.tokens_per_frame):
            out: tuple[Tensor, ...] = iris_kernels.head_sample(  # type: ignore[call-overload]
                row[None],
                *self._ln_out,
                *self._head[0],
                *self._head[1],
                world.token_embedding.weight.detach()[None],
                world.position_embedding.weight.detach()[None],
                self.cache.position,
                *self.draw.of("tokens"),
                place=k,
                temperature=self.sampling.temperature,
                top_k=self.sampling.top_k,
                top_p=self.sampling.top_p,
                return_logits=with_logits,
            )
            tokens.append(out[0][0])
            if with_logits:
                logits.append(out[2][0])
            if k + 1 < layout.tokens_per_frame:
                row = self._advance(out[1][0])
        return torch.stack(tokens, dim=1), at_action, torch.stack(logits, dim=1) if with_logits else None

    def _advance(self, embedded: Tensor) -> Tensor:
        """One embedded token (B, C) through the layers."""
        hidden = decode(
            embedded.unsqueeze(1), self._layers, self.cache, num_heads=self.world.config.num_heads
        )
        self._num_cached += 1
        return hidden[:, 0]

    def _step_parallel(
        self, actions: Tensor, with_frame: bool, with_logits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        world, layout = self.world, self.layout
        frame = world.token_embedding(self._obs_tokens)
        embeddings = torch.cat([frame, world.action_embedding(actions).unsqueeze(1)], dim=1)
        if not with_frame:
            at_action = world.transformer.ln_out(self._feed(embeddings)[:, -1])
            return self._obs_tokens.clone(), at_action, None
        first = self._num_cached + layout.tokens_per_step
        positions = world.position_embedding.weight[first : first + layout.tokens_per_frame]
        queries = positions + world.query_embedding.weight
        queries = world.add_current_step(queries, self._obs_tokens, actions)
        hidden = self._feed(embeddings, queries, num_wanted=layout.tokens_per_step)
        hidden = world.transformer.ln_out(hidden)
        logits = self._observation_logits(hidden[:, 1:])
        sampling = self.sampling
        tokens = self._sample(logits.flatten(0, 1), "tokens", sampling.top_k, sampling.top_p)
        tokens = tokens.view(-1, layout.tokens_per_frame)
        return tokens, hidden[:, 0], logits if with_logits else None

    def _observation_logits(self, hidden: Tensor) -> Tensor:
        """(B, K, C) float32 -> (B, K, V) float32, by the head's weights in the dtype of this environment."""
        (weight_1, bias_1), (weight_2, bias_2) = self._head
        inner = torch.nn.functional.linear(hidden.to(weight_1.dtype), weight_1[0], bias_1[0]).relu()
        return torch.nn.functional.linear(inner, weight_2[0], bias_2[0]).float()

    def _sample(self, logits: Tensor, stream: str, top_k: int = 0, top_p: float = 1.0) -> Tensor:
        """One class a row of (M, num_classes) logits, M / B for each environment; (M,) int64."""
        return iris_kernels.sample_tokens(
            logits.float(),
            *self.draw.of(stream),
            temperature=self.sampling.temperature,
            top_k=top_k,
            top_p=top_p,
        )
