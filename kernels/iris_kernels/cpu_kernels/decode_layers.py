"""A layer's steps on a CPU: attention by decode_layers.c, products by oneDNN with weights in its own layout."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_kernels.arguments import LN_EPS, LayerWeights
from iris_kernels.backend import use_c
from iris_kernels.cpu_kernels.library import load
from iris_kernels.reference import decode_layers as reference
from iris_kernels.reference.decode_layers import Parts, Rows

MAXIMUM_HEAD_SIZE = 128
MAXIMUM_LENGTH = 8192


def pack(weights: LayerWeights) -> LayerWeights:
    """The same weights with a copy for `decode_layers` in the layout that products on this CPU are fastest in.

    Without one on other devices and where there is no such layout.
    """
    matrix = weights.qkv_weight
    if not (
        use_c(matrix.device)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.mkldnn.is_available()
        and (matrix.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    ):
        return weights._replace(packed=None)
    tensors = [tensor.float() if i in (0, 1, 6, 7) else tensor for i, tensor in enumerate(weights.tensors)]
    for i in (2, 4, 8, 10):
        tensors[i] = torch.ops.mkldnn._reorder_linear_weight(tensors[i])
        tensors[i + 1] = tensors[i + 1].to(matrix.dtype)
    return weights._replace(packed=LayerWeights.of_tensors(tensors))


def has_c_attention(head_size: int, dtype: torch.dtype) -> bool:
    """Whether `decode_layers` has a C kernel for CPU caches of this head size and dtype, compiling it if need be."""
    return use_c(torch.device("cpu")) and has_kernel(head_size, dtype)


def choose(layers: Sequence[LayerWeights], k_cache: Tensor) -> tuple[Parts, Sequence[LayerWeights]]:
    """The fastest implementation of each step for a call without gradients, and the weights that it takes."""
    if not use_c(k_cache.device):
        return reference.PARTS, layers
    has_c = k_cache.shape[3] <= MAXIMUM_LENGTH and has_kernel(k_cache.shape[4], k_cache.dtype)
    packed = [layer.packed for layer in layers if layer.packed is not None]
    is_packed = len(packed) == len(layers)
    return _PARTS[is_packed, has_c], packed if is_packed else layers


@functools.cache
def has_kernel(head_size: int, dtype: torch.dtype) -> bool:
    """The same, whatever backend is asked for."""
    return (
        dtype in (torch.float32, torch.bfloat16)
        and head_size % 16 == 0
        and head_size <= MAXIMUM_HEAD_SIZE
        and _function(head_size, dtype) is not None
    )


def decode_attention(qkv: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor, rows: Rows) -> Tensor:
    """See `reference.decode_layers.decode_attention`."""
    batch, new, width = qkv.shape
    _, num_heads, max_length, size = k_cache.shape
    out = qkv.new_empty(batch, new, width // 3)
    misfit = _function(size, qkv.dtype)(
        *(tensor.data_ptr() for tensor in (qkv, k_cache, v_cache, out, position)),
        batch, new, num_heads, max_length, rows.num_context, rows.is_block_causal, torch.get_num_threads(),
    )  # fmt: skip
    if misfit >= 0:
        raise reference.no_room(new, int(position[misfit]), max_length)
    return out


def _packed_ln_linear(
    x: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    turns: Tensor | None = None,
) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], ln_weight, ln_bias, LN_EPS).to(bias.dtype)
    return reference.turned(_packed_linear(normed, weight, bias, activation), turns)


def _packed_linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return residual + _packed_linear(x, weight, bias, "none")


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    variant = "none" if activation == "gelu" else ""  # not the approximation by tanh
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], variant)


_PARTS = {  # by whether the weights are packed and whether there is a C kernel for the cache
    (False, False): reference.PARTS,
    (False, True): reference.PARTS._replace(decode_attention=decode_attention),
    (True, False): Parts(_packed_ln_linear, reference.decode_attention, _packed_linear_residual),
    (True, True): Parts(_packed_ln_linear, decode_attention, _packed_linear_residual),
}


@functools.cache
def _function(head_size: int, dtype: torch.dtype) -> Any:
    library = load("decode_layers", HEAD_SIZE=head_size, ELEMENT_IS_BFLOAT16=int(dtype == torch.bfloat16))
    if library is None:
        return None
    function = library.decode_attention
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int] * 7
    function.restype = ctypes.c_int
    return function
