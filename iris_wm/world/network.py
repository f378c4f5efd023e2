"""The world model: from past frames' tokens and actions to the next tokens, the reward and the termination."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iris_wm.config import Config, PositiveInt, Range
from iris_wm.spaces import ActionEmbedding, ActionSpace
from iris_wm.two_hot import TwoHot, mean_of, two_hot, two_hot_values
from iris_wm.world.token_layout import LearnedPositions, RotaryPositions, TokenLayout, rotary_turns
from iris_wm.world.transformer import AttentionPattern, Transformer


@dataclass(frozen=True)
class AutoregressivePrediction:
    """A frame's K tokens one after the other, each seeing those before it (the paper's)."""

    kind: Literal["autoregressive"] = field(default="autoregressive", init=False)


@dataclass(frozen=True)
class ParallelPrediction:
    """A frame's K tokens all at once, from K queries."""

    kind: Literal["parallel"] = field(default="parallel", init=False)
    queries: Literal["learned", "current_step"] = "learned"
    """current_step: each query also carries the token that is at its place now, and the action; otherwise attention
    has to learn where to find the two."""
    attention: Literal["causal", "block_causal"] = "causal"
    """block_causal lets the tokens of a step see each other in both directions."""


@dataclass(frozen=True)
class BlockPrediction:
    """A frame's K tokens all at once, each from the row of the token at its place now (Dedieu et al., 2025).

    The rows of a step, its frame's and its action's, see each other and all steps before.
    """

    kind: Literal["block"] = field(default="block", init=False)
    action: Literal["row", "everywhere"] = "row"
    """row: the action has a row of its own, where attention finds it (the paper's). everywhere: it is added to the
    rows of its step's frame, too."""


@dataclass(frozen=True)
class SignRewards:
    """-1, 0 or 1, whatever the size (the paper's)."""

    kind: Literal["sign"] = field(default="sign", init=False)


@dataclass(frozen=True)
class WorldConfig(Config):
    """The transformer and how it predicts a frame."""

    num_layers: PositiveInt = 10
    """Of the transformer."""
    num_heads: PositiveInt = 4
    """Of attention."""
    embed_dim: PositiveInt = 256
    """Width of the hidden states, all heads together."""
    context_steps: Annotated[int, Range(2)] = 20
    """Steps in the transformer's context."""
    dropout: Annotated[float, Range(0, 1, without=1)] = 0.1
    """On embeddings, attention and residual branches."""
    prediction: AutoregressivePrediction | ParallelPrediction | BlockPrediction = AutoregressivePrediction()
    """How the next frame's K tokens come: one after the other, or all at once."""
    positions: LearnedPositions | RotaryPositions = field(default_factory=LearnedPositions)
    """How a token knows where it stands."""
    window: Literal["restart", "slide"] = "restart"
    """What a dream keeps when its context is full. restart: the current frame alone (the paper's). slide: the last half
    of the context, too."""
    rewards: SignRewards | TwoHot = SignRewards()
    """What is foretold of a reward."""
    initialization: Literal["gpt2", "width"] = "gpt2"
    """gpt2: weights N(0, 0.02), the paper's. width: linear layers N(0, 1 / sqrt(inputs)), embeddings N(0, 0.2), from
    which a model of a small width learns in a fraction of the steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim: got {self.embed_dim}, expected a multiple of num_heads ({self.num_heads})"
            )
        head_size = self.embed_dim // self.num_heads
        if isinstance(self.positions, RotaryPositions) and head_size % 2:
            raise ValueError(
                f"positions: got rotary with heads of {head_size}, expected an even embed_dim / num_heads"
            )

    @property
    def is_parallel(self) -> bool:
        """Whether a frame is predicted in one pass."""
        return not isinstance(self.prediction, AutoregressivePrediction)

    @property
    def has_queries(self) -> bool:
        """Whether rows of their own ask for the next frame."""
        return isinstance(self.prediction, ParallelPrediction)

    @property
    def is_block_causal(self) -> bool:
        """Whether the tokens of a step see each other in both directions."""
        prediction = self.prediction
        if isinstance(prediction, ParallelPrediction):
            return prediction.attention == "block_causal"
        return isinstance(prediction, BlockPrediction)

    @property
    def max_past(self) -> int:
        """Steps that fit into the context before the current frame, its action and the next frame: autoregressive, the
        next frame's tokens stand in the context themselves; in one pass, they need no room in it."""
        return self.context_steps - (1 if self.is_parallel else 2)

    @property
    def segment_steps(self) -> int:
        """Steps of a segment to learn from: the context, and where a frame is predicted in one pass one more, whose
        frame is what the last step is to predict. Untrained, it would spoil every dream that fills its context."""
        return self.context_steps + int(self.is_parallel)


SIGNS = torch.tensor([-1.0, 0.0, 1.0])


class WorldOutput(NamedTuple):
    """hidden (B, S, C); observation_logits (B, T K, V); reward_logits (B, T, R); termination_logits (B, T, 2)."""

    hidden: Tensor
    observation_logits: Tensor
    reward_logits: Tensor
    termination_logits: Tensor


class Head(nn.Sequential):
    """Linear, ReLU, Linear: hidden states (..., C) -> logits (..., num_classes)."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__(nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, num_classes))


class WorldNetwork(nn.Module):
    """Embeddings, transformer and three heads (Micheli et al., 2023, section 2.2)."""

    turns: Tensor | None

    def __init__(
        self, config: WorldConfig, codebook_size: int, tokens_per_frame: int, actions: ActionSpace
    ) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = codebook_size
        self.actions = actions
        self.layout = TokenLayout(tokens_per_frame, config.context_steps)
        embed_dim = config.embed_dim
        self.action_embedding = ActionEmbedding(actions.sizes, embed_dim)
        self.token_embedding = nn.Embedding(codebook_size, embed_dim)
        # Queries of the last step stand one frame beyond the context.
        num_places = self.layout.max_tokens + (tokens_per_frame if config.has_queries else 0)
        if isinstance(config.positions, RotaryPositions):
            turns = rotary_turns(tokens_per_frame, num_places, embed_dim // config.num_heads)
            self.register_buffer("turns", turns, persistent=False)
            num_places = self.layout.tokens_per_step
        else:
            self.turns = None
        self.position_embedding = nn.Embedding(num_places, embed_dim)
        if config.has_queries:
            self.query_embedding = nn.Embedding(tokens_per_frame, embed_dim)
        self.transformer = Transformer(config.num_layers, config.num_heads, embed_dim, config.dropout)
        self.observation_head = Head(embed_dim, codebook_size)
        rewards = config.rewards
        reward_values = two_hot_values(rewards.num_bins) if isinstance(rewards, TwoHot) else SIGNS
        self.reward_values: Tensor
        self.register_buffer("reward_values", reward_values.clone(), persistent=False)
        self.reward_head = Head(embed_dim, len(reward_values))
        self.termination_head = Head(embed_dim, 2)
        self.apply(_initialize_gpt2 if config.initialization == "gpt2" else _initialize_by_width)
        if isinstance(rewards, TwoHot):  # every reward is 0 before anything is learned
            nn.init.zeros_(self.reward_head[2].weight)  # type: ignore[arg-type]

    @property
    def pattern(self) -> AttentionPattern:
        """Who sees whom in training."""
        if isinstance(self.config.prediction, BlockPrediction):
            return AttentionPattern("block_causal", self.layout.tokens_per_step)
        mode: Literal["parallel", "causal"] = "parallel" if self.config.has_queries else "causal"
        return AttentionPattern(mode, self.layout.tokens_per_step, self.config.is_block_causal)

    def embed_tokens(self, obs_tokens: Tensor, actions: Tensor) -> Tensor:
        """obs_tokens (B, T, K), actions (B, T, n) -> (B, T (K + 1), C), of which no row knows where it stands."""
        tokens, taken, prediction = (
            self.token_embedding(obs_tokens),
            self.action_embedding(actions),
            self.config.prediction,
        )
        if isinstance(prediction, BlockPrediction) and prediction.action == "everywhere":
            tokens = tokens + taken.unsqueeze(2)
        return self.layout.interleave(tokens, taken)

    def embed_steps(self, obs_tokens: Tensor, actions: Tensor) -> Tensor:
        """obs_tokens (B, T, K), actions (B, T, n) -> embedded sequence (B, T (K + 1), C)."""
        sequence = self.embed_tokens(obs_tokens, actions)
        return sequence + self.positions_at(torch.arange(sequence.shape[1], device=sequence.device))

    def positions_at(self, places: Tensor) -> Tensor:
        """What is added at places (...) of the sequence, (..., C): learned for each or, rotary, for its cell."""
        return self.position_embedding(places % self.position_embedding.num_embeddings)

    def turns_at(self, places: Tensor) -> Tensor | None:
        """By how much attention turns queries and keys at places (...), (..., D); None where positions are learned."""
        return None if self.turns is None else nn.functional.embedding(places, self.turns)

    def query_places(self, num_steps: int) -> Tensor:
        """Places (T, K) of the tokens that the queries ask for: those of the frame after each step."""
        steps, cells = (
            torch.arange(num, device=self.position_embedding.weight.device)
            for num in (num_steps, self.layout.tokens_per_frame)
        )
        return (steps[:, None] + 1) * self.layout.tokens_per_step + cells

    def embed_queries(self, obs_tokens: Tensor, actions: Tensor) -> Tensor:
        """The rows that ask for the frame after each step. obs_tokens (B, T, K), actions (B, T, n) -> (B, T K, C)."""
        queries = self.positions_at(self.query_places(obs_tokens.shape[1])) + self.query_embedding.weight
        return self.add_current_step(queries, obs_tokens, actions).flatten(1, 2)

    def add_current_step(self, queries: Tensor, obs_tokens: Tensor, actions: Tensor) -> Tensor:
        """Queries (..., K, C), with what the config's queries add for obs_tokens (B, ..., K), actions (B, ..., n)."""
        prediction = self.config.prediction
        assert isinstance(prediction, ParallelPrediction)
        if prediction.queries == "learned":
            return queries.expand(*obs_tokens.shape, -1)
        return queries + self.token_embedding(obs_tokens) + self.action_embedding(actions).unsqueeze(-2)

    def forward(self, obs_tokens: Tensor, actions: Tensor) -> WorldOutput:
        """Predict from whole segments, as in training.

        Args:
            obs_tokens: (B, T, K) int64, T at most context_steps.
            actions: (B, T, n) int64.

        Returns:
            Logits. With n = t K + k the row of observation_logits: autoregressive, row n predicts the frame token
            n + 1 of the segment; in one pass, it predicts token k of step t + 1, which is frame token n + K. The last
            rows predict beyond the segment: see observation_targets.
        """
        x = self.embed_steps(obs_tokens, actions)
        num_context = x.shape[1]
        places = torch.arange(num_context, device=x.device)
        if self.config.has_queries:
            x = torch.cat([x, self.embed_queries(obs_tokens, actions)], dim=1)
            places = torch.cat([places, self.query_places(obs_tokens.shape[1]).flatten()])
        hidden = self.transformer(x, self.pattern, self.turns_at(places))
        context = hidden[:, :num_context]
        if self.config.has_queries:
            asking = hidden[:, num_context:]
        elif self.config.is_parallel:
            asking = self.layout.frame_positions(context)
        else:
            asking = self.layout.next_token_positions(context)
        at_actions = self.layout.action_positions(context)
        return WorldOutput(
            context,
            self.observation_head(asking),
            self.reward_head(at_actions),
            self.termination_head(at_actions),
        )

    def reward_mean(self, shares: Tensor) -> Tensor:
        """(...) of shares (..., V) of the values that rewards are foretold as."""
        return mean_of(shares, self.reward_values)

    def reward_labels(self, rewards: Tensor) -> Tensor:
        """What the reward head is to say of rewards (...): labels (..., V) float32."""
        if isinstance(self.config.rewards, TwoHot):
            return two_hot(rewards, self.config.rewards.num_bins)
        return (rewards.sign().unsqueeze(-1) == self.reward_values).float()

    def observation_targets(self, obs_tokens: Tensor) -> tuple[slice, Tensor]:
        """Which rows of observation_logits have a label within the segment, and the labels.

        obs_tokens (B, T, K) (or anything of that shape) -> slice of rows, labels (B, rows). Predicted in one pass, the
        segment may have one step more than forward has seen.
        """
        labels = obs_tokens.flatten(1)[:, self.layout.tokens_per_frame if self.config.is_parallel else 1 :]
        return slice(labels.shape[1]), labels


def _initialize_gpt2(module: nn.Module) -> None:
    """Weights N(0, 0.02), biases 0 (GPT-2)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def _initialize_by_width(module: nn.Module) -> None:
    """Linear layers keep the size of what they are given; embeddings are large enough to tell places apart at once."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.2)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
        nn.init.zeros_(module.bias)
