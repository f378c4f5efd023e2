"""A transformer layer's weights in the layout that products on this CPU are fastest in, and one pass of new rows."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.backend import use_c
from iris_kernels.cpu_kernels import decode_attention
from iris_kernels.reference import decode_chain as reference


class Linear(NamedTuple):
    """weight: opaque, of oneDNN. bias: (O,) in the dtype of the products."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """(M, I) -> (M, O), then nothing or the exact GELU."""
        variant = "none" if activation == "gelu" else ""  # not the approximation by tanh
        return torch.ops.mkldnn._linear_pointwise(x, *self, activation, [], variant)


class PackedLayer:
    """What `decode_layer` does, for one agent on a CPU: fewer and faster calls. A copy of the weights.

    MAXIMUM_LENGTH: rows of the caches.

    Args, each (weight, bias) with a leading axis of 1, as for `decode_layer`; the matrices of one dtype.
    """

    MAXIMUM_LENGTH = decode_attention.MAXIMUM_LENGTH

    def __init__(
        self,
        ln_1: tuple[Tensor, Tensor],
        qkv: tuple[Tensor, Tensor],
        out: tuple[Tensor, Tensor],
        ln_2: tuple[Tensor, Tensor],
        fc_1: tuple[Tensor, Tensor],
        fc_2: tuple[Tensor, Tensor],
    ) -> None:
        self.dtype = qkv[0].dtype
        self.ln_1, self.ln_2 = ((weight[0], bias[0]) for weight, bias in (ln_1, ln_2))
        self.qkv, self.out, self.fc_1, self.fc_2 = (
            Linear(torch.ops.mkldnn._reorder_linear_weight(weight[0]), bias[0].to(weight.dtype))
            for weight, bias in (qkv, out, fc_1, fc_2)
        )

    @staticmethod
    def is_available(weight: Tensor, head_size: int) -> bool:
        """Whether layers with matrices like this one and heads of this size can be packed."""
        return (
            use_c(weight.device)
            and weight.shape[0] == 1
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
            and torch.backends.mkldnn.is_available()
            and (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
            and decode_attention.is_available(head_size, weight.dtype)
        )

    def __call__(
        self,
        rows: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        position: Tensor,
        *,
        num_heads: int,
        num_context: int,
        num_wanted: int,
        is_block_causal: bool,
    ) -> Tensor:
        """New rows (B, n, C) float32 -> the last num_wanted of them after the layer (B, num_wanted, C) float32.

        position: (B,) int32, how many rows the caches (B, N, Tmax, D), of the matrices' dtype, hold already of each;
            the caller has checked that the new ones fit.
        """
        batch_size, num_new, width = rows.shape
        flat = rows.view(-1, width)
        normed = F.layer_norm(flat, (width,), *self.ln_1, reference.LN_EPS).to(self.dtype)
        qkv = self.qkv(normed).view(1, batch_size, num_new, -1)
        mixed = decode_attention.launch(
            qkv, k_cache, v_cache, position, num_heads, num_context, is_block_causal
        )[0]
        if num_wanted < num_new:
            mixed = mixed[:, -num_wanted:]
            flat = rows[:, -num_wanted:].reshape(-1, width)
        flat = flat + self.out(mixed.reshape(-1, width))
        normed = F.layer_norm(flat, (width,), *self.ln_2, reference.LN_EPS).to(self.dtype)
        flat = flat + self.fc_2(self.fc_1(normed, "gelu"))
        return flat.view(batch_size, num_wanted, width)
