"""The keys and values of past tokens: one preallocated block, and where it ends."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KVCache:
    """keys, values: (L, B, N, Tmax, D). position: (B,) int32 on the device, tokens held so far of each game.

    Nothing is ever cleared: a game's rows at its position and beyond are dead and will be overwritten.
    """

    keys: Tensor
    values: Tensor
    position: Tensor

    @staticmethod
    def empty(
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_tokens: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> "KVCache":
        """A cache of no tokens with room for max_tokens."""
        shape = (num_layers, batch_size, num_heads, max_tokens, head_dim)
        return KVCache(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int32),
        )

    @property
    def max_tokens(self) -> int:
        """Rows there is room for."""
        return self.keys.shape[3]
