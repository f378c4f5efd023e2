"""Where tokens stand in the sequence, K frame tokens, then one action token, T times over; and how they know it."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Positions in a sequence of context_steps steps of K + 1 tokens."""

    tokens_per_frame: int
    context_steps: int

    @property
    def tokens_per_step(self) -> int:
        """K + 1."""
        return self.tokens_per_frame + 1

    @property
    def max_tokens(self) -> int:
        """S of a full context."""
        return self.context_steps * self.tokens_per_step

    def interleave(self, frame_embeddings: Tensor, action_embeddings: Tensor) -> Tensor:
        """(B, T, K, C) and (B, T, C) -> (B, T (K + 1), C), each step's frame tokens before its action."""
        return torch.cat([frame_embeddings, action_embeddings.unsqueeze(2)], dim=2).flatten(1, 2)

    def action_positions(self, hidden: Tensor) -> Tensor:
        """Rows at the action tokens. (B, T (K + 1), C) -> (B, T, C)."""
        return hidden[:, self.tokens_per_frame :: self.tokens_per_step]

    def frame_positions(self, hidden: Tensor) -> Tensor:
        """Rows at the frame tokens. (B, T (K + 1), C) -> (B, T K, C)."""
        return hidden.unflatten(1, (-1, self.tokens_per_step))[:, :, :-1].flatten(1, 2)

    def next_token_positions(self, hidden: Tensor) -> Tensor:
        """Rows whose next token is a frame token: all but the last frame token of each step.

        (B, T (K + 1), C) -> (B, T K, C). In each step the first K - 1 rows predict the rest of that step's frame
        and the action's row predicts the first token of the next frame.
        """
        steps = hidden.unflatten(1, (-1, self.tokens_per_step))
        kept = torch.cat(
            [steps[:, :, : self.tokens_per_frame - 1], steps[:, :, self.tokens_per_frame :]], dim=2
        )
        return kept.flatten(1, 2)


BASE = 100.0  # of the frequencies; no axis is longer than some dozens


@dataclass(frozen=True)
class LearnedPositions:
    """A learned embedding of each place in the context (the paper's)."""

    kind: Literal["learned"] = field(default="learned", init=False)


@dataclass(frozen=True)
class RotaryPositions:
    """Attention knows how far apart two tokens are in x, y and steps; an embedding says the cell (Dedieu et al., 2025).

    Needs an even head size, embed_dim / num_heads, and frames whose tokens are a square grid.
    """

    kind: Literal["rotary"] = field(default="rotary", init=False)


def rotary_turns(tokens_per_frame: int, num_places: int, head_size: int) -> Tensor:
    """By how much queries and keys are turned at each place of a sequence of K + 1 tokens a step.

    Of the D / 2 pairs of a head three in eight turn with x, three in eight with y and the others, one at least, with
    the step; the pairs of an axis by BASE^0, BASE^(-1/n), BASE^(-2/n), ... radians a unit. The action follows the
    frame's last token in reading order, as the first cell of a row below it: there stands no token of a frame.

    Returns:
        (P, D) float32: cosine and sine, side by side, of each pair's angle.

    Raises:
        ValueError: the tokens of a frame are no square grid.
    """
    side = math.isqrt(tokens_per_frame)
    if side**2 != tokens_per_frame:
        raise ValueError(
            f"world.positions: got rotary with {tokens_per_frame} tokens a frame, expected a square grid of them; "
            "use {kind: learned}"
        )
    places = torch.arange(num_places)
    steps, cells = places // (tokens_per_frame + 1), places % (tokens_per_frame + 1)
    num_pairs = head_size // 2
    along = 3 * num_pairs // 8
    axes = ((cells % side, along), (cells // side, along), (steps, num_pairs - 2 * along))
    angles = torch.cat([units[:, None] * BASE ** (-torch.arange(num) / num) for units, num in axes], dim=1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
