"""The games that the network imagines: a `World` of tokens, one step at a time, through a key-value cache.

Everything lives on the device: no step waits for the host, so whole roll-outs can be captured as CUDA graphs. All
that the host knows of a state is how many steps stand in each row's context, and that depends on nothing random.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import iris_kernels
import numpy as np
import torch
from torch import Tensor

from iris_wm.config import Config, NonNegativeFloat, NonNegativeInt, Range
from iris_wm.data.segment import Segment
from iris_wm.protocols import Outcome
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw
from iris_wm.tokenizer.patches import AnyTokenizer
from iris_wm.tokenizer.tokenizer import to_uint8
from iris_wm.world.network import WorldNetwork
from iris_wm.world.transformer import KVCache, decode


@dataclass(frozen=True)
class SamplingConfig(Config):
    """How next frames are drawn from the world's distributions."""

    temperature: NonNegativeFloat = 1.0
    """0 takes the most likely token."""
    top_k: NonNegativeInt = 0
    """Only the k most likely tokens; 0 keeps all."""
    top_p: Annotated[float, Range(0, 1, without=0)] = 1.0
    """Only the most likely tokens that make up this probability."""


@dataclass
class TokenState:
    """B games, each with a context of its own.

    obs_tokens: (B, K) int64, the current frames. past_tokens (B, P, K), past_actions (B, P, n): the last steps
    before, the newest last, as many as a sliding window keeps. num_steps: (B,) on the host, steps in the context.
    cache: keys and values of these steps and, in autoregressive prediction, of the current frame's tokens but the
    last, which goes in together with the action: so a frame takes K passes instead of K + 1.
    """

    cache: KVCache
    obs_tokens: Tensor
    past_tokens: Tensor
    past_actions: Tensor
    num_steps: np.ndarray


class TokenWorld:
    """A `World` (iris_wm.protocols) of the network's tokens; its state is a `TokenState`.

    When a row's context is full, the network's `window` says what stays in it; nothing else decides that.

    Args:
        network, tokenizer: in eval mode. On a CPU and in other dtypes than the parameters' own, copies of the network's
            weights are used: `refresh` brings them up to date.
        actions: what can be done in the game.
        sampling: how next frames are drawn; temperature also applies to rewards and terminations. May be replaced.
        dtype: of weights and cache in steps.
        should_measure: whether outcomes tell token_entropy (B, K) in nats and reward_probabilities (B, 3) of being
            below, at and above 0, both before temperature and cuts. They always tell tokens (B, K) and is_finite (B,),
            of all logits.
    """

    def __init__(
        self,
        network: WorldNetwork,
        tokenizer: AnyTokenizer,
        actions: ActionSpace,
        sampling: SamplingConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        should_measure: bool = False,
    ) -> None:
        self.network, self.tokenizer, self.actions = network, tokenizer, actions
        self.sampling = sampling or SamplingConfig()
        self.should_measure = should_measure
        config, self.layout = network.config, network.layout
        self.max_past = config.max_past
        self.num_kept = min(config.context_steps // 2, self.max_past) if config.window == "slide" else 0
        transformer = network.transformer
        self.device = transformer.ln_out.weight.device
        head_size = transformer.embed_dim // transformer.num_heads
        # PyTorch's own products are slower in bfloat16 on a CPU.
        is_fast = self.device.type != "cpu" or iris_kernels.has_c_attention(head_size, dtype)
        self._cache_dtype = dtype if is_fast else torch.float32
        self._layers = transformer.decode_weights(dtype)
        first, _, second = network.observation_head
        self._head_layers = transformer.ln_out, first, second
        embeddings = network.token_embedding, network.position_embedding
        self._head = iris_kernels.HeadWeights.of(self._head_layers, *embeddings, dtype)

    def refresh(self) -> None:
        """Take the network's current weights where this world has copies of them."""
        self._layers = self.network.transformer.update(self._layers)
        self._head.update(self._head_layers)

    def new_cache(self, batch_size: int) -> KVCache:
        """Room for the contexts of batch_size games, and for the queries of the frame after the last step."""
        num_queries = self.layout.tokens_per_frame if self.network.config.has_queries else 0
        return self.network.transformer.new_cache(
            batch_size, self.layout.max_tokens + num_queries, self._cache_dtype
        )

    @torch.no_grad()
    def observe(self, past: Segment) -> TokenState:
        """See `World.observe`; of longer pieces the last max_past steps before the current frame count."""
        past = past.to(self.device)
        is_real = past.is_real
        if not bool(is_real[:, -1].all()):
            raise ValueError("observe: got a piece that ends with padding, expected padding in front only")
        obs_tokens = self.tokenizer.encode(past.frames) if past.obs_tokens is None else past.obs_tokens
        return self.observe_tokens(obs_tokens, past.actions, is_real.sum(1))

    @torch.no_grad()
    def observe_tokens(
        self,
        obs_tokens: Tensor,
        actions: Tensor,
        num_real: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> TokenState:
        """The state after steps whose tokens are known.

        Args:
            obs_tokens: (B, T, K) int64; the last are the current frames.
            actions: (B, T, n) or (B, T - 1, n) int64; what was done in the last frame is not read.
            num_real: (B,) int64, how many of the T steps are real, the last ones; all where it is None.
            cache: of new_cache, to be overwritten.
        """
        batch_size, num_steps = obs_tokens.shape[:2]
        past_tokens, past_actions = obs_tokens[:, :-1], actions[:, : num_steps - 1]
        lengths = np.full(batch_size, num_steps) if num_real is None else num_real.cpu().numpy()
        with torch.autocast(self.device.type, enabled=False):
            return self._fill(
                cache or self.new_cache(batch_size),
                obs_tokens[:, -1],
                past_tokens,
                past_actions,
                np.minimum(lengths - 1, self.max_past),
            )

    @torch.no_grad()
    def step(
        self, state: TokenState, actions: Tensor, draw: Draw, *, needs_frame: bool = True
    ) -> tuple[TokenState, Outcome]:
        """See `World.step`."""
        actions = actions.to(self.device)
        draw = draw.to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # the dtype is the weights' and the cache's
            state = self._make_room(state, needs_frame)
            predict = self._step_at_once if self.network.config.is_parallel else self._step_autoregressive
            obs_tokens, at_action, logits = predict(state, actions, draw.of("tokens"), needs_frame)
            outcome = self._outcome(at_action, obs_tokens, logits, draw)
            return self._then(state, actions, obs_tokens), outcome

    @torch.no_grad()
    def follow(self, state: TokenState, actions: Tensor, frames: Tensor) -> TokenState:
        """See `World.follow`."""
        actions = actions.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            state = self._make_room(state, needs_frame=True)
            self._feed(state.cache, self._current_step(state, actions))
            obs_tokens = self.tokenizer.encode(frames.to(self.device))
            self._feed_frame(state.cache, obs_tokens)
            return self._then(state, actions, obs_tokens)

    @torch.no_grad()
    def fork(self, state: TokenState, rows: Tensor) -> TokenState:
        """See `World.fork`."""
        index = rows.to(self.device)
        num_steps = state.num_steps[rows.cpu().numpy()]
        cache = self.new_cache(len(rows))
        cache.take(slice(None), state.cache, index, self._num_tokens(num_steps))
        return TokenState(
            cache, state.obs_tokens[index], state.past_tokens[index], state.past_actions[index], num_steps
        )

    @torch.no_grad()
    def put(self, state: TokenState, rows: Tensor, games: TokenState) -> TokenState:
        """See `World.put`."""
        index = rows.to(self.device)
        state.cache.take(index, games.cache, slice(None), self._num_tokens(games.num_steps))
        num_steps = state.num_steps.copy()
        num_steps[rows.cpu().numpy()] = games.num_steps
        return TokenState(
            state.cache,
            state.obs_tokens.index_copy(0, index, games.obs_tokens),
            state.past_tokens.index_copy(0, index, games.past_tokens),
            state.past_actions.index_copy(0, index, games.past_actions),
            num_steps,
        )

    @torch.no_grad()
    def features(self, state: TokenState) -> Tensor:
        """(B, K E): the vectors of the current frames' tokens."""
        return self.tokenizer.quantizer.lookup(state.obs_tokens).flatten(1)

    @torch.no_grad()
    def frames(self, state: TokenState) -> Tensor:
        """(B, C, H, W) uint8, decoded."""
        return to_uint8(self.tokenizer.decode(state.obs_tokens))

    # What follows keeps one invariant: position = num_steps (K + 1), plus K - 1 in autoregressive prediction.

    def _num_tokens(self, num_steps: np.ndarray) -> int:
        """Tokens in the longest of some contexts, at most."""
        return (int(num_steps.max(initial=0)) + 1) * self.layout.tokens_per_step

    def _make_room(self, state: TokenState, needs_frame: bool) -> TokenState:
        """The state, with the context of every row that is full begun anew from what its window keeps."""
        can_end = 0 if needs_frame or self.network.config.is_parallel else 1
        is_full = state.num_steps > self.max_past + can_end
        if not is_full.any():
            return state
        num_steps = np.full(is_full.sum(), self.num_kept)
        if is_full.all():
            return self._fill(state.cache, state.obs_tokens, state.past_tokens, state.past_actions, num_steps)
        rows = torch.from_numpy(np.flatnonzero(is_full))
        index = rows.to(self.device)
        past_tokens, past_actions = state.past_tokens[index], state.past_actions[index]
        fresh = self.new_cache(len(rows))
        return self.put(
            state, rows, self._fill(fresh, state.obs_tokens[index], past_tokens, past_actions, num_steps)
        )

    def _fill(
        self,
        cache: KVCache,
        obs_tokens: Tensor,
        past_tokens: Tensor,
        past_actions: Tensor,
        num_steps: np.ndarray,
    ) -> TokenState:
        """A state whose context holds the last num_steps (B,) of the past steps (B, T, K), (B, T, n)."""
        network, longest = self.network, int(num_steps.max(initial=0))
        cache.position.zero_()
        if longest:
            tokens, actions = past_tokens[:, -longest:], past_actions[:, -longest:]
            is_even = bool((num_steps == longest).all())
            if not is_even:  # to the left: rows behind a context are overwritten before anyone reads them
                shift = torch.from_numpy(longest - num_steps).to(self.device)
                order = (torch.arange(longest, device=self.device) + shift[:, None]).clamp(max=longest - 1)
                every = torch.arange(len(order), device=self.device)[:, None]
                tokens, actions = tokens[every, order], actions[every, order]
            steps = network.embed_tokens(tokens, actions)
            is_block_causal = network.config.is_block_causal
            for rows in steps.split(self.layout.tokens_per_step, dim=1) if is_block_causal else (steps,):
                self._feed(cache, rows)
            if not is_even:
                cache.position.copy_(torch.from_numpy(num_steps * self.layout.tokens_per_step))
        self._feed_frame(cache, obs_tokens)
        missing = max(0, self.num_kept - past_tokens.shape[1])
        past_tokens, past_actions = (
            torch.nn.functional.pad(part[:, part.shape[1] - self.num_kept + missing :], (0, 0, missing, 0))
            for part in (past_tokens, past_actions)
        )
        return TokenState(cache, obs_tokens, past_tokens, past_actions, num_steps)

    def _then(self, state: TokenState, actions: Tensor, obs_tokens: Tensor) -> TokenState:
        """The state one step later."""
        past_tokens, past_actions = state.past_tokens, state.past_actions
        if self.num_kept:
            past_tokens = torch.cat([past_tokens[:, 1:], state.obs_tokens[:, None]], dim=1)
            past_actions = torch.cat([past_actions[:, 1:], actions[:, None]], dim=1)
        return replace(
            state,
            obs_tokens=obs_tokens,
            past_tokens=past_tokens,
            past_actions=past_actions,
            num_steps=state.num_steps + 1,
        )

    def _current_step(self, state: TokenState, actions: Tensor) -> Tensor:
        """Embeddings (B, n, C) of what the cache does not hold of the current step: its frame's rest, the action."""
        num_missing = self.layout.tokens_per_frame if self.network.config.is_parallel else 1
        return self.network.embed_tokens(state.obs_tokens[:, None, -num_missing:], actions[:, None])

    def _feed_frame(self, cache: KVCache, obs_tokens: Tensor) -> None:
        """What the cache holds of a current frame (B, K): autoregressive, all tokens but the last."""
        if not self.network.config.is_parallel and self.layout.tokens_per_frame > 1:
            self._feed(cache, self.network.token_embedding(obs_tokens[:, :-1]))

    def _feed(
        self, cache: KVCache, embeddings: Tensor, queries: Tensor | None = None, num_wanted: int = 1
    ) -> Tensor:
        """Append rows (B, n, C), positions not yet added, to the contexts; the last num_wanted, before the norm.

        queries: (B, m, C), complete; they see everything and are forgotten.
        """
        network, num_rows = self.network, embeddings.shape[1]
        places = self._places(cache, num_rows if queries is None else num_rows + queries.shape[1])
        x = embeddings + network.positions_at(places[:, :num_rows])
        if queries is not None:
            x = torch.cat([x, queries], dim=1)
        return decode(
            x,
            self._layers,
            cache,
            num_context=num_rows,
            num_wanted=num_wanted,
            is_block_causal=network.config.is_block_causal,
            turns=network.turns_at(places),
        )

    def _places(self, cache: KVCache, num: int, first: int = 0) -> Tensor:
        """(B, num): the places that come first tokens after what each row has."""
        return cache.position[:, None] + torch.arange(first, first + num, device=self.device)

    def _step_autoregressive(
        self, state: TokenState, actions: Tensor, draw: Draw, needs_frame: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        network = self.network
        row = self._feed(state.cache, self._current_step(state, actions))[:, 0]
        at_action = network.transformer.ln_out(row)
        if not needs_frame:
            return state.obs_tokens, at_action, []
        tokens, logits, position = [], [], state.cache.position
        for k in range(self.layout.tokens_per_frame):
            if k:
                turns = network.turns_at(position[:, None])
                row = decode(row[:, None], self._layers, state.cache, turns=turns)[:, 0]
            token, row, of_token = iris_kernels.head_sample(
                row.contiguous(),
                self._head,
                position if network.turns is None else torch.full_like(position, k),
                *draw,
                place=k,
                temperature=self.sampling.temperature,
                top_k=self.sampling.top_k,
                top_p=self.sampling.top_p,
            )
            tokens.append(token)
            logits.append(of_token)
        return torch.stack(tokens, dim=1), at_action, logits

    def _step_at_once(
        self, state: TokenState, actions: Tensor, draw: Draw, needs_frame: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        network, layout = self.network, self.layout
        ln_out = network.transformer.ln_out
        embeddings = self._current_step(state, actions)
        if not needs_frame:
            return state.obs_tokens, ln_out(self._feed(state.cache, embeddings)[:, -1]), []
        queries = None
        if network.config.has_queries:
            places = self._places(state.cache, layout.tokens_per_frame, layout.tokens_per_step)
            queries = network.add_current_step(
                network.positions_at(places) + network.query_embedding.weight, state.obs_tokens, actions
            )
        hidden = ln_out(self._feed(state.cache, embeddings, queries, num_wanted=layout.tokens_per_step))
        if queries is None:
            asking, at_action = hidden[:, :-1], hidden[:, -1]
        else:
            at_action, asking = hidden[:, 0], hidden[:, 1:]
        head, linear = self._head, torch.nn.functional.linear
        inner = linear(asking.to(head.fc_1_weight.dtype), head.fc_1_weight, head.fc_1_bias).relu()
        logits = linear(inner, head.fc_2_weight, head.fc_2_bias).float()
        tokens = self._sample(logits.flatten(0, 1), draw, self.sampling.top_k, self.sampling.top_p)
        return tokens.view(-1, layout.tokens_per_frame), at_action, [logits]

    def _outcome(self, at_action: Tensor, obs_tokens: Tensor, logits: list[Tensor], draw: Draw) -> Outcome:
        """logits: of the frame's tokens, (B, V) each or (B, K, V) at once."""
        reward_logits = self.network.reward_head(at_action).float()
        termination_logits = self.network.termination_head(at_action).float()
        reward_shares = reward_logits.softmax(-1)
        measures = {
            "tokens": obs_tokens,
            "is_finite": (torch.isfinite(reward_logits).all(-1) & torch.isfinite(termination_logits).all(-1)),
        }
        if self.should_measure and logits:
            shares = (logits[0] if len(logits) == 1 else torch.stack(logits, dim=1)).log_softmax(-1)
            measures["token_entropy"] = -(shares.exp() * shares).sum(-1).view_as(obs_tokens)
        if self.should_measure:
            middle = reward_shares.shape[-1] // 2
            parts = reward_shares.tensor_split((middle, middle + 1), dim=-1)
            measures["reward_probabilities"] = torch.stack([part.sum(-1) for part in parts], dim=-1)
        return Outcome(
            self.network.reward_values[self._sample(reward_logits, draw.of("reward"))],
            self._sample(termination_logits, draw.of("termination")).bool(),
            self.network.reward_mean(reward_shares),
            termination_logits.softmax(-1)[:, 1],
            measures,
        )

    def _sample(self, logits: Tensor, draw: Draw, top_k: int = 0, top_p: float = 1.0) -> Tensor:
        """One class a row of (M, num_classes) logits; (M,) int64."""
        return iris_kernels.sample_tokens(
            logits, *draw, temperature=self.sampling.temperature, top_k=top_k, top_p=top_p
        )
