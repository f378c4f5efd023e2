"""The policy and the value: a small CNN on frames, or an embedding of tokens, then an LSTM (IRIS, appendix A.3)."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_wm.config import Config, PositiveInt
from iris_wm.dream.rollout import Choice
from iris_wm.spaces import ActionDistribution, ActionHead, ActionSpace
from iris_wm.streams import Draw
from iris_wm.tokenizer.patches import AnyTokenizer
from iris_wm.two_hot import TwoHot, mean_of, two_hot_values


@dataclass(frozen=True)
class FrameInputs:
    """The tokenizer's reconstructions (the paper's)."""

    kind: Literal["frames"] = field(default="frames", init=False)


@dataclass(frozen=True)
class TokenInputs(Config):
    """The codes' vectors: no decoding while imagining."""

    kind: Literal["tokens"] = field(default="tokens", init=False)
    features: PositiveInt = 64
    """Channels each token is mapped to."""


@dataclass(frozen=True)
class ScalarValues:
    """A number, learned by its squared error (the paper's)."""

    kind: Literal["scalar"] = field(default="scalar", init=False)


@dataclass(frozen=True)
class PolicyConfig(Config):
    """The network that acts."""

    inputs: FrameInputs | TokenInputs = FrameInputs()
    """What it sees of a frame. frames: the tokenizer's reconstruction (the paper's). tokens: the codes' vectors."""
    hidden_size: PositiveInt = 512
    """Of the LSTM."""
    values: ScalarValues | TwoHot = ScalarValues()
    """What is said of the return to come."""

    @property
    def sees_frames(self) -> bool:
        """Whether it looks at frames, not at tokens."""
        return isinstance(self.inputs, FrameInputs)


class PolicyState(NamedTuple):
    """The LSTM's memory: hidden and cell, each (B, hidden_size) float32."""

    hidden: Tensor
    cell: Tensor


class PolicyOutput(NamedTuple):
    """actions: what to do, of rows (B, ...). values: (B, ...). value_logits: (B, ..., V) where values have bins."""

    actions: ActionDistribution
    values: Tensor
    value_logits: Tensor | None = None


class FrameFeatures(nn.Module):
    """Four convolutions, each halving the frame. Frames in [0, 1] (B, 3, R, R) -> (B, 64 (R / 16)^2)."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.num_features = 64 * (resolution // 16) ** 2
        widths = [3, 32, 32, 64, 64]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)
        )

    def forward(self, frames: Tensor) -> Tensor:
        # Channels-last: on a CPU the first convolution and its pooling take an eighth of the time.
        maps = frames.mul(2).sub(1).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            maps = torch.relu(nn.functional.max_pool2d(conv(maps), 2))
        return maps.flatten(1)


class Waves(nn.Module):
    """Coordinates in [-1, 1] (..., E) -> themselves and their sines and cosines at three frequencies (..., 7 E).

    The levels of a coordinate of fsq codes mean different things; waves let one layer tell neighbouring levels apart.
    """

    def forward(self, codes: Tensor) -> Tensor:
        angles = torch.cat([codes * (math.pi * frequency) for frequency in (0.5, 1.0, 2.0)], dim=-1)
        return torch.cat([codes, angles.sin(), angles.cos()], dim=-1)


class TokenFeatures(nn.Module):
    """Each token's code through one small layer, side by side. Codes (B, K, E) -> (B, K token_features)."""

    def __init__(self, tokens_per_frame: int, embedding_dim: int, token_features: int) -> None:
        super().__init__()
        self.num_features = tokens_per_frame * token_features
        # Learned codes have any scale; the few coordinates of fsq codes are already in [-1, 1].
        is_learned = embedding_dim > 16
        self.spread = nn.LayerNorm(embedding_dim) if is_learned else Waves()
        self.project = nn.Linear(embedding_dim if is_learned else 7 * embedding_dim, token_features)
        self.mix = nn.Linear(self.num_features, self.num_features)
        for layer in (self.project, self.mix):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, codes: Tensor) -> Tensor:
        features = torch.relu(self.project(self.spread(codes))).flatten(1)
        return torch.relu(self.mix(features))


class ActorCritic(nn.Module):
    """inputs are frames (B, 3, R, R) float in [0, 1], or codes (B, K, E), as the config says."""

    def __init__(
        self,
        config: PolicyConfig,
        actions: ActionSpace,
        *,
        resolution: int = 64,
        tokens_per_frame: int = 16,
        embedding_dim: int = 512,
    ) -> None:
        super().__init__()
        self.config = config
        self.features: FrameFeatures | TokenFeatures = (
            TokenFeatures(tokens_per_frame, embedding_dim, config.inputs.features)
            if isinstance(config.inputs, TokenInputs)
            else FrameFeatures(resolution)
        )
        self.lstm = nn.LSTMCell(self.features.num_features, config.hidden_size)
        bins = two_hot_values(config.values.num_bins) if isinstance(config.values, TwoHot) else torch.ones(1)
        self.value_bins: Tensor
        self.register_buffer("value_bins", bins, persistent=False)
        self.critic = nn.Linear(config.hidden_size, len(bins))
        if isinstance(config.values, TwoHot):  # every value is 0 before anything is learned
            nn.init.zeros_(self.critic.weight)
            nn.init.zeros_(self.critic.bias)
        self.actor = ActionHead(config.hidden_size, actions.sizes)

    def initial_state(self, batch_size: int) -> PolicyState:
        """A memory of nothing."""
        zeros = self.actor.weight.new_zeros(batch_size, self.config.hidden_size)
        return PolicyState(zeros, zeros)

    def forward(self, inputs: Tensor, state: PolicyState) -> tuple[PolicyOutput, PolicyState]:
        """One step of B policies."""
        state = PolicyState(*self.lstm(self.features(inputs), tuple(state)))
        return self.heads(state.hidden), state

    def choose(
        self, inputs: Tensor, memory: PolicyState, draw: Draw, temperature: float = 1.0
    ) -> tuple[Choice, PolicyState]:
        """Actions of B policies; temperature 0 takes the most likely."""
        output, memory = self(inputs, memory)
        is_finite = torch.isfinite(output.actions.logits).all(-1)
        return Choice(output.actions.sample(draw, temperature), is_finite), memory

    def heads(self, hidden: Tensor) -> PolicyOutput:
        """LSTM output (..., hidden_size) -> what to do, and values."""
        actions, logits = self.actor(hidden), self.critic(hidden)
        if isinstance(self.config.values, ScalarValues):
            return PolicyOutput(actions, logits.squeeze(-1))
        return PolicyOutput(actions, mean_of(logits.float().softmax(-1), self.value_bins), logits)

    def sequence(
        self, inputs: Tensor, state: PolicyState, is_real: Tensor | None = None
    ) -> tuple[Tensor, PolicyState]:
        """T steps: features of all steps at once, then the LSTM. Equal to T calls of forward.

        Args:
            inputs: (B, T, ...) frames or codes.
            state: before the first step.
            is_real: (B, T) bool; where False the memory stays as it is.

        Returns:
            LSTM outputs (B, T, hidden_size), for heads, and the memory after the last step.
        """
        features = self.features(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        # The input half of the gates needs no memory: one product for all steps.
        gates_in = nn.functional.linear(features, self.lstm.weight_ih, self.lstm.bias_ih)
        hidden, cell = state
        outputs = []
        for t in range(inputs.shape[1]):
            gates = gates_in[:, t] + nn.functional.linear(hidden, self.lstm.weight_hh, self.lstm.bias_hh)
            keep_in, forget, candidate, emit = gates.chunk(4, dim=1)
            new_cell = torch.sigmoid(forget) * cell + torch.sigmoid(keep_in) * torch.tanh(candidate)
            new_hidden = torch.sigmoid(emit) * torch.tanh(new_cell)
            if is_real is not None:
                here = is_real[:, t, None]
                new_hidden, new_cell = (
                    torch.where(here, new_hidden, hidden),
                    torch.where(here, new_cell, cell),
                )
            hidden, cell = new_hidden, new_cell
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), PolicyState(hidden, cell)


def policy_inputs(tokenizer: AnyTokenizer, policy: ActorCritic, obs_tokens: Tensor) -> Tensor:
    """What the policy sees of tokens (..., K): frames (..., 3, R, R) in [0, 1], or codes (..., K, E)."""
    if policy.config.sees_frames:
        return tokenizer.decode(obs_tokens)
    return tokenizer.quantizer.lookup(obs_tokens).detach()
