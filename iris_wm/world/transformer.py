"""A GPT-style pre-norm transformer, whole sequences for training and through a cache for dreaming."""

from dataclasses import dataclass
from typing import Literal

import iris_kernels
import torch
from iris_kernels.reference.decode_layers import rotate
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionPattern:
    """Which rows see which: causal, block_causal or parallel (see iris_kernels.attention)."""

    mask: Literal["causal", "block_causal", "parallel"] = "causal"
    tokens_per_step: int = 0
    is_block_causal: bool = False


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)); the MLP is four times as wide with exact GELU."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.ln_1 = nn.LayerNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.ln_2 = nn.LayerNorm(embed_dim)
        self.fc_1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc_2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor, pattern: AttentionPattern, turns: Tensor | None = None) -> Tensor:
        """(B, S, C) -> (B, S, C). turns: (S, D), see Transformer."""
        qkv = self.qkv(self.ln_1(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        dropout = self.dropout if self.training else 0.0
        mixed = iris_kernels.attention(
            q,
            k,
            v,
            mask=pattern.mask,
            tokens_per_step=pattern.tokens_per_step,
            is_block_causal=pattern.is_block_causal,
            dropout=dropout,
        )
        x = iris_kernels.add_dropped(x, self.out(mixed.transpose(1, 2).flatten(2)), dropout)
        hidden = nn.functional.gelu(self.fc_1(self.ln_2(x)))
        return iris_kernels.add_dropped(x, self.fc_2(hidden), dropout)


@dataclass
class KVCache:
    """keys, values: (L, B, N, Tmax, D). position: (B,) int32 on the device, tokens held so far of each game.

    Nothing is ever cleared: a game's rows at its position and beyond are dead and will be overwritten.
    """

    keys: Tensor
    values: Tensor
    position: Tensor

    def take(self, rows: Tensor | slice, other: "KVCache", others: Tensor | slice, num_tokens: int) -> None:
        """Overwrite rows by another cache's, the first num_tokens of them."""
        self.keys[:, rows, :, :num_tokens] = other.keys[:, others, :, :num_tokens]
        self.values[:, rows, :, :num_tokens] = other.values[:, others, :, :num_tokens]
        self.position[rows] = other.position[others]


class Transformer(nn.Module):
    """num_layers blocks and a final layer norm. Embeddings and heads belong to the world model."""

    def __init__(self, num_layers: int, num_heads: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embed_dim = embed_dim
        self.dropout = dropout
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.ln_out = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, pattern: AttentionPattern, turns: Tensor | None = None) -> Tensor:
        """Embedded sequences (B, S, C) -> hidden states (B, S, C), after the final layer norm.

        turns: (S, D), by how much each row's queries and keys are turned (see positions.rotary_turns).
        """
        x = nn.functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, pattern, turns)
        return self.ln_out(x)

    def decode_weights(self, dtype: torch.dtype) -> list[iris_kernels.LayerWeights]:
        """Each layer's weights as decode takes them: views in the parameters' own dtype, copies in another."""
        return [iris_kernels.pack(iris_kernels.LayerWeights.of(block, dtype)) for block in self.blocks]

    def update(self, weights: list[iris_kernels.LayerWeights]) -> list[iris_kernels.LayerWeights]:
        """The same with the current parameters, copied in place, so that a captured graph sees them."""
        for layer, block in zip(weights, self.blocks, strict=True):
            layer.update(block)
        return [iris_kernels.pack(layer) for layer in weights]

    def new_cache(self, batch_size: int, max_tokens: int, dtype: torch.dtype = torch.float32) -> KVCache:
        """A cache of no tokens with room for max_tokens, on the weights' device."""
        device, head_dim = self.ln_out.weight.device, self.embed_dim // self.num_heads
        shape = len(self.blocks), batch_size, self.num_heads, max_tokens, head_dim
        return KVCache(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int32),
        )


def decode(
    x: Tensor,
    weights: list[iris_kernels.LayerWeights],
    cache: KVCache,
    *,
    num_context: int | None = None,
    num_wanted: int | None = None,
    is_block_causal: bool = False,
    turns: Tensor | None = None,
) -> Tensor:
    """Push n new rows of each game through all layers, appending them to the cache.

    Args:
        x: (B, n, C) float32, embedded. The last n - num_context rows are prediction queries: they see everything
            and each other, and the cache forgets them.
        weights: of each layer.
        cache: advanced in place by num_context (n when None); its dtype may differ from the weights'.
        num_context: rows that stay in the cache.
        num_wanted: the last rows that anyone asks for; the last layer computes no others (n when None).
        is_block_causal: the context rows see each other in both directions.
        turns: (B, n, D), by how much each row's queries and keys are turned.

    Returns:
        (B, num_wanted, C) float32, before the final layer norm.
    """
    num_context = x.shape[1] if num_context is None else num_context
    x = iris_kernels.decode_layers(
        x,
        weights,
        cache.keys,
        cache.values,
        cache.position,
        num_context=num_context,
        num_wanted=num_wanted,
        is_block_causal=is_block_causal,
        turns=turns,
    )
    cache.position.add_(num_context)
    return x
