"""The same networks computed the way of the first published implementation, to compare speed and results with.

Written from what is known of its costs, not from its code: 17 one-token passes a frame, all heads at every pass,
separate q, k and v, attention with an explicit mask and softmax, index tables rebuilt at every pass, a new cache for
every roll-out, contiguous convolutions with x * sigmoid(x), every frame decoded when the policy needs it, every batch
encoded anew, burn-in frame by frame, samples that are validated, rewards that visit the host. Kept for measuring
and for tests only.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from iris_wm.agent import Agent
from iris_wm.policy.actor_critic import PolicyOutput
from iris_wm.policy.loss import PolicyLossConfig, policy_loss, policy_targets
from iris_wm.spaces import ActionDistribution
from iris_wm.tokenizer.autoencoder import ResidualBlock, SpatialAttention, Stage
from iris_wm.tokenizer.tokenizer import VectorQuantizer


class _Write(torch.autograd.Function):
    """Writes rows into a cache behind autograd's back."""

    @staticmethod
    def forward(ctx: Any, cache: Tensor, rows: Tensor, start: int) -> Tensor:
        cache[:, :, start : start + rows.shape[2]] = rows
        return cache

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        raise NotImplementedError("a roll-out's cache has no gradient")


class EagerReference:
    """An agent's networks on contiguous copies of its weights; for autoregressive agents that see frames.

    weights: by network, leaves with gradient, for an optimizer.
    """

    def __init__(self, agent: Agent) -> None:
        is_local = agent.config.tokenizer.autoencoder.has_local_encoder
        if is_local or agent.config.world.is_parallel or not agent.config.policy.sees_frames:
            raise ValueError(
                "agent: the reference is autoregressive, has no local encoder, and its policy sees frames"
            )
        self.agent = agent
        self._sizes = agent.actions.sizes
        self.layout = agent.world.layout
        self._copies: dict[int, Tensor] = {}
        self.weights: dict[str, list[Tensor]] = {}
        for network in ("tokenizer", "world", "policy"):
            copies = self.weights[network] = []
            for parameter in getattr(agent, network).parameters():
                copy = parameter.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
                self._copies[id(parameter)] = copy
                copies.append(copy)
        self.kept_maps: list[Tensor] = []
        self._keys: list[tuple[Tensor, Tensor]] = []
        self._num_cached = 0

    def _of(self, parameter: Tensor) -> Tensor:
        return self._copies[id(parameter)]

    @property
    def _codebook(self) -> Tensor:
        quantizer = self.agent.tokenizer.quantizer
        if isinstance(quantizer, VectorQuantizer):
            return self._of(quantizer.library._codebook.embed)[0]
        return quantizer.codebook

    # ---- tokenizer ----

    def _conv(self, layer: nn.Conv2d, maps: Tensor) -> Tensor:
        assert layer.bias is not None
        padding, stride = layer.padding, layer.stride
        return F.conv2d(maps, self._of(layer.weight), self._of(layer.bias), stride, padding)

    def _norm(self, layer: nn.GroupNorm, maps: Tensor) -> Tensor:
        return F.group_norm(maps, layer.num_groups, self._of(layer.weight), self._of(layer.bias), layer.eps)

    def _swish_norm(self, layer: nn.Module, maps: Tensor) -> Tensor:
        assert isinstance(layer, nn.GroupNorm)
        normed = self._norm(layer, maps)
        return normed * torch.sigmoid(normed)

    def _residual(self, block: ResidualBlock, maps: Tensor) -> Tensor:
        inner = self._conv(block.conv_1, self._swish_norm(block.norm_1, maps))
        inner = self._conv(block.conv_2, self._swish_norm(block.norm_2, inner))
        shortcut = block.shortcut
        return (self._conv(shortcut, maps) if isinstance(shortcut, nn.Conv2d) else maps) + inner

    def _attention(self, layer: nn.Module, maps: Tensor) -> Tensor:
        if not isinstance(layer, SpatialAttention):
            return maps
        normed = self._norm(layer.norm, maps)
        query, key, value = (
            self._conv(part, normed).flatten(2) for part in (layer.query, layer.key, layer.value)
        )
        weights = torch.bmm(query.transpose(1, 2), key) * (1.0 / math.sqrt(maps.shape[1]))
        mixed = torch.bmm(value, weights.softmax(2).transpose(1, 2))
        return maps + self._conv(layer.out, mixed.view_as(maps))

    def _stage(self, stage: Stage, maps: Tensor) -> Tensor:
        for block, attention in zip(stage.blocks, stage.attentions, strict=True):
            maps = self._attention(attention, self._residual(block, maps))
            self.kept_maps.append(maps)
        return maps

    def _bottleneck(self, layers: nn.Sequential, maps: Tensor) -> Tensor:
        first, attention, second = layers
        maps = self._attention(attention, self._residual(first, maps))
        return self._residual(second, maps)

    def latents(self, frames: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, E, h, w)."""
        tokenizer, encoder = self.agent.tokenizer, self.agent.tokenizer.encoder
        maps = F.pixel_unshuffle(frames.float() / 255 * 2 - 1, encoder.patch_size)
        self.kept_maps = []  # all feature maps stay until the next call
        maps = self._conv(encoder.conv_in, maps)
        for stage in encoder.stages:
            assert isinstance(stage, Stage)
            maps = self._stage(stage, maps)
            if isinstance(resample := stage.resample, nn.Identity):
                continue
            maps = self._conv(resample.conv, F.pad(maps, (0, 1, 0, 1)))
        maps = self._bottleneck(encoder.bottleneck, maps)
        maps = self._conv(encoder.conv_out, self._swish_norm(encoder.norm_out, maps))
        return self._conv(tokenizer.to_codes, maps)

    def encode(self, frames: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> obs_tokens (B, K) int64."""
        points = self.latents(frames).flatten(2).transpose(1, 2).flatten(0, 1)
        codebook = self._codebook
        squares = points.square().sum(1, keepdim=True) + codebook.square().sum(1)
        distances = squares - 2 * points @ codebook.T
        return distances.argmin(-1).view(len(frames), -1)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """(B, K, E) -> frames, about [-1, 1]."""
        tokenizer, decoder = self.agent.tokenizer, self.agent.tokenizer.decoder
        side = tokenizer.config.autoencoder.latent_resolution
        maps = self._conv(tokenizer.from_codes, codes.transpose(1, 2).reshape(len(codes), -1, side, side))
        maps = self._bottleneck(decoder.bottleneck, self._conv(decoder.conv_in, maps))
        for stage in decoder.stages:
            assert isinstance(stage, Stage)
            maps = self._stage(stage, maps)
            if not isinstance(resample := stage.resample, nn.Identity):
                maps = self._conv(resample.conv, F.interpolate(maps, scale_factor=2.0))
        maps = self._conv(decoder.conv_out, self._swish_norm(decoder.norm_out, maps))
        return F.pixel_shuffle(maps, decoder.patch_size)

    def decode(self, obs_tokens: Tensor) -> Tensor:
        """obs_tokens (B, K) -> frames (B, C, H, W) in [0, 1]."""
        return ((self.decode_codes(self._codebook[obs_tokens]) + 1) / 2).clamp(0, 1)

    def tokenizer_loss(self, frames: Tensor) -> Tensor:
        """Reconstruction and commitment. frames: (B, C, H, W) uint8 -> scalar."""
        latents = self.latents(frames).flatten(2).transpose(1, 2)
        codebook = self._codebook
        tokens = torch.cdist(latents.detach().flatten(0, 1), codebook.detach()).argmin(-1)
        codes = codebook[tokens].view_as(latents)
        commitment = (latents.detach() - codes).square().mean() + (latents - codes.detach()).square().mean()
        decoded = self.decode_codes(latents + (codes - latents).detach())
        return commitment + (decoded - (frames.float() / 255 * 2 - 1)).abs().mean()

    # ---- world model ----

    def _rows(self, is_wanted: Tensor, start: int, num_rows: int) -> Tensor:
        """Positions of some kind among num_rows rows, from the pattern of one step; a new table every time."""
        steps = self.layout.context_steps
        everywhere = torch.where(is_wanted.repeat(steps))[0]
        inside = torch.logical_and(start <= everywhere, everywhere < start + num_rows)
        return (everywhere[inside] - start).to(self.agent.device)

    def _patterns(self) -> dict[str, Tensor]:
        """One step's positions of frame tokens, actions and rows that predict frame tokens; on the host."""
        is_action = torch.arange(self.layout.tokens_per_step) == self.layout.tokens_per_frame
        asks = torch.arange(self.layout.tokens_per_step) != self.layout.tokens_per_frame - 1
        return {"frame": ~is_action, "action": is_action, "asks": asks}

    def _transform(self, tokens: Tensor, dropout: float, is_cached: bool) -> dict[str, Tensor]:
        """tokens (B, n), frame tokens or actions as their place says -> logits of all three heads."""
        model, patterns = self.agent.world, self._patterns()
        start, num_rows = self._num_cached if is_cached else 0, tokens.shape[1]
        rows = {name: self._rows(patterns[name], start, num_rows) for name in ("frame", "action")}
        x = tokens.new_zeros(*tokens.shape, model.config.embed_dim, dtype=torch.float32)
        for name, table in (("frame", model.token_embedding), ("action", model.action_embedding)):
            x[:, rows[name]] = F.embedding(tokens[:, rows[name]], self._of(table.weight))
        places = torch.arange(start, start + num_rows, device=tokens.device)
        x = F.dropout(x + F.embedding(places, self._of(model.position_embedding.weight)), dropout)
        for i, block in enumerate(model.transformer.blocks):
            x = self._block(i, block, x, dropout, is_cached)
        ln_out = model.transformer.ln_out
        x = F.layer_norm(x, x.shape[-1:], self._of(ln_out.weight), self._of(ln_out.bias))
        if is_cached:
            self._num_cached += num_rows
        outputs = {"hidden": x}
        for name, kind in (("observation", "asks"), ("reward", "action"), ("termination", "action")):
            seen = x[:, self._rows(patterns[kind], start, num_rows)]
            first, _, second = getattr(model, f"{name}_head")
            inner = torch.relu(F.linear(seen, self._of(first.weight), self._of(first.bias)))
            outputs[name] = F.linear(inner, self._of(second.weight), self._of(second.bias))
        return outputs

    def _block(self, index: int, block: Any, x: Tensor, dropout: float, is_cached: bool) -> Tensor:
        batch_size, num_rows, width = x.shape
        heads = block.num_heads
        normed = F.layer_norm(x, (width,), self._of(block.ln_1.weight), self._of(block.ln_1.bias))
        weights, biases = self._of(block.qkv.weight).split(width), self._of(block.qkv.bias).split(width)
        q, k, v = (
            F.linear(normed, weight, bias).view(batch_size, num_rows, heads, -1).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )
        start = 0
        if is_cached:
            start = self._num_cached
            k, v = (
                _Write.apply(cache, rows, start)[:, :, : start + num_rows]
                for cache, rows in zip(self._keys[index], (k, v), strict=True)
            )
        mask = torch.tril(torch.ones(self.layout.max_tokens, self.layout.max_tokens, device=x.device))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.shape[-1]))
        hidden = mask[start : start + num_rows, : start + num_rows] == 0
        probabilities = F.dropout(scores.masked_fill(hidden, float("-inf")).softmax(-1), dropout)
        mixed = (probabilities @ v).transpose(1, 2).reshape(batch_size, num_rows, width)
        mixed = F.linear(mixed, self._of(block.out.weight), self._of(block.out.bias))
        x = x + F.dropout(mixed, dropout)
        normed = F.layer_norm(x, (width,), self._of(block.ln_2.weight), self._of(block.ln_2.bias))
        inner = F.gelu(F.linear(normed, self._of(block.fc_1.weight), self._of(block.fc_1.bias)))
        return x + F.dropout(F.linear(inner, self._of(block.fc_2.weight), self._of(block.fc_2.bias)), dropout)

    def sequence(self, obs_tokens: Tensor, actions: Tensor, dropout: float = 0.0) -> dict[str, Tensor]:
        """Whole segments: (B, T, K), (B, T, 1) -> logits "observation", "reward", "termination"."""
        tokens = torch.cat([obs_tokens, actions], dim=2).flatten(1)
        return self._transform(tokens, dropout, is_cached=False)

    def world_loss(self, frames: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """Of whole segments, their frames (B, T, C, H, W) uint8 encoded first -> scalar."""
        with torch.no_grad():
            obs_tokens = self.encode(frames.flatten(0, 1)).view(*rewards.shape, -1)
        output = self.sequence(obs_tokens, actions, self.agent.config.world.dropout)
        return (
            F.cross_entropy(
                output["observation"][:, :-1].flatten(0, 1), obs_tokens.flatten(1)[:, 1:].flatten()
            )
            + F.cross_entropy(output["reward"].flatten(0, 1), (rewards.sign() + 1).long().flatten())
            + F.cross_entropy(output["termination"].flatten(0, 1), ends.long().flatten())
        )

    # ---- imagination ----

    def reset(self, obs_tokens: Tensor) -> None:
        """A new cache that holds one frame."""
        transformer = self.agent.world.transformer
        head_dim = transformer.embed_dim // transformer.num_heads
        shape = (len(obs_tokens), transformer.num_heads, self.layout.max_tokens, head_dim)
        empty = [torch.empty(shape, device=obs_tokens.device) for _ in range(2 * len(transformer.blocks))]
        self._keys = list(zip(empty[::2], empty[1::2], strict=True))
        self._num_cached = 0
        self._obs_tokens = obs_tokens
        self._transform(obs_tokens, 0.0, is_cached=True)

    @torch.no_grad()
    def step(
        self, actions: Tensor, is_last: bool = False, is_greedy: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """actions (B, 1) -> obs_tokens (B, K), rewards (B,), terminations (B,); one pass a token."""
        num_passes = 1 if is_last else self.layout.tokens_per_step
        if self._num_cached + num_passes > self.layout.max_tokens:
            self.reset(self._obs_tokens)
        tokens: list[Tensor] = []
        token = actions[:, 0]
        for k in range(num_passes):
            output = self._transform(token[:, None], 0.0, is_cached=True)
            if k == 0:
                drawn_rewards = self._draw(output["reward"][:, 0], is_greedy).float().cpu().numpy() - 1
                drawn_ends = self._draw(output["termination"][:, 0], is_greedy).cpu().numpy().astype(bool)
            if k < self.layout.tokens_per_frame:
                token = self._draw(output["observation"][:, -1], is_greedy)
                tokens.append(token)
        if not is_last:
            self._obs_tokens = torch.stack(tokens, dim=1)
        device = actions.device
        return (
            self._obs_tokens,
            torch.from_numpy(drawn_rewards).to(device),
            torch.from_numpy(drawn_ends).to(device),
        )

    @staticmethod
    def _draw(logits: Tensor, is_greedy: bool) -> Tensor:
        return logits.argmax(-1) if is_greedy else Categorical(logits=logits, validate_args=True).sample()

    def policy(
        self, frames: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """frames (B, 3, R, R) in [0, 1] -> action logits (B, A), values (B,), memory."""
        network = self.agent.policy
        assert float(frames.min()) >= 0
        assert float(frames.max()) <= 1
        maps = frames * 2 - 1
        for conv in network.features.convs:
            maps = torch.relu(F.max_pool2d(self._conv(conv, maps), 2))
        lstm = network.lstm
        names = (lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh)
        hidden, cell = torch.lstm_cell(maps.flatten(1), memory, *(self._of(weight) for weight in names))
        logits = F.linear(hidden, self._of(network.actor.weight), self._of(network.actor.bias))
        values = F.linear(hidden, self._of(network.critic.weight), self._of(network.critic.bias))
        return logits, values.squeeze(-1), (hidden, cell)

    def roll_out(
        self,
        obs_tokens: Tensor,
        memory: tuple[Tensor, Tensor],
        horizon: int,
        *,
        has_policy: bool = True,
        loss: PolicyLossConfig | None = None,
    ) -> Tensor:
        """Horizon steps from frames' tokens (B, K), with the decoder and the policy or on random actions.

        Returns the actor-critic's loss where a config of it is given, otherwise the last tokens (B, K).
        """
        columns: dict[str, list[Tensor]] = {
            "logits": [],
            "values": [],
            "actions": [],
            "rewards": [],
            "ends": [],
        }
        with torch.no_grad():
            self.reset(obs_tokens)
        for t in range(horizon):
            if has_policy:
                with torch.no_grad():
                    frames = self.decode(obs_tokens)
                logits, values, memory = self.policy(frames, memory)
                actions = Categorical(logits=logits, validate_args=True).sample()[:, None]
                columns["logits"].append(logits)
                columns["values"].append(values)
            else:
                actions = torch.randint(self._sizes[0], (len(obs_tokens), 1), device=obs_tokens.device)
            obs_tokens, rewards, ends = self.step(actions, is_last=t + 1 == horizon)
            columns["actions"].append(actions)
            columns["rewards"].append(rewards)
            columns["ends"].append(ends)
        if loss is None:
            return obs_tokens
        logits, values, actions, rewards, ends = (torch.stack(column, dim=1) for column in columns.values())
        output = PolicyOutput(ActionDistribution(logits, self._sizes), values)
        losses = policy_loss(output, actions, policy_targets(output, actions, rewards, ends, loss), loss)
        return torch.stack(list(losses.values())).sum()

    def policy_loss(self, frames: Tensor, horizon: int) -> Tensor:
        """Burn-in on all but the last of real frames (B, T, C, H, W) uint8, then a roll-out -> scalar."""
        batch_size, num_steps = frames.shape[:2]
        size = self.agent.config.policy.hidden_size
        memory = (
            torch.zeros(batch_size, size, device=frames.device),
            torch.zeros(batch_size, size, device=frames.device),
        )
        with torch.no_grad():
            if num_steps > 1:
                seen = self.decode(self.encode(frames[:, :-1].flatten(0, 1)))
                for step in seen.unflatten(0, (batch_size, num_steps - 1)).unbind(1):
                    memory = self.policy(step, memory)[2]
            obs_tokens = self.encode(frames[:, -1])
        return self.roll_out(obs_tokens, memory, horizon, loss=PolicyLossConfig())

    @torch.no_grad()
    def act(self, frames: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """frames (B, C, H, W) uint8 -> actions (B, 1), memory."""
        logits, _, memory = self.policy(self.decode(self.encode(frames)), memory)
        return Categorical(logits=logits, validate_args=True).sample()[:, None], memory
