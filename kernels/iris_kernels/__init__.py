"""Fast operations for a token world model: Triton kernels on CUDA, plain PyTorch everywhere else.

Importing this package never imports Triton; a kernel is loaded by the first call that uses it.
The environment variable ``IRIS_KERNELS_BACKEND`` chooses: ``auto`` (the default), ``triton`` or ``torch``.
"""

from iris_kernels.arguments import HeadWeights, LayerWeights
from iris_kernels.backend import BACKEND_VARIABLE, requested_backend
from iris_kernels.cpu_kernels.decode_layers import has_c_attention, pack
from iris_kernels.ops.attention import attention
from iris_kernels.ops.decode_layers import decode_layers
from iris_kernels.ops.dropout import add_dropped
from iris_kernels.ops.group_norm_silu import group_norm_silu
from iris_kernels.ops.head_sample import head_sample, sample_tokens
from iris_kernels.ops.upsample_conv import upsample_conv

__all__ = [
    "BACKEND_VARIABLE",
    "HeadWeights",
    "LayerWeights",
    "add_dropped",
    "attention",
    "decode_layers",
    "group_norm_silu",
    "has_c_attention",
    "head_sample",
    "pack",
    "requested_backend",
    "sample_tokens",
    "upsample_conv",
]
