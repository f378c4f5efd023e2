"""Where tokens stand in the transformer's sequence: K frame tokens, then one action token, T times over."""

from dataclasses import dataclass

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
