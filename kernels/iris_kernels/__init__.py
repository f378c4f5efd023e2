"""Fast operations for a token world model: Triton kernels on CUDA, plain PyTorch everywhere else.

Importing this package never imports Triton; a kernel is loaded by the first call that uses it.
The environment variable ``IRIS_KERNELS_BACKEND`` chooses: ``auto`` (the default), ``triton`` or ``torch``.
"""

from iris_kernels.backend import BACKEND_VARIABLE, requested_backend
from iris_kernels.cpu_kernels.packed_layer import PackedLayer
from iris_kernels.ops.attention import attention
from iris_kernels.ops.decode_chain import (
    LayerWeights,
    decode_attention,
    decode_layer,
    has_c_decode_attention,
    linear_residual,
    ln_linear,
)
from iris_kernels.ops.group_norm_silu import group_norm_silu
from iris_kernels.ops.head_sample import head_sample, sample_tokens
from iris_kernels.reference.decode_chain import check_room

__all__ = [
    "BACKEND_VARIABLE",
    "LayerWeights",
    "PackedLayer",
    "attention",
    "check_room",
    "decode_attention",
    "decode_layer",
    "group_norm_silu",
    "has_c_decode_attention",
    "head_sample",
    "linear_residual",
    "ln_linear",
    "requested_backend",
    "sample_tokens",
]
