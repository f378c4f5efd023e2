"""Nested Python values as named tensors and JSON, and back, without a bit lost and without code.

Dicts, lists, tuples, None, bool, int, float, str, bytes and tensors may be nested in any way; what a training
checkpoint holds. Everything else is refused, so that nothing has to be guessed or executed on reading.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from iris_wm.checkpoint.errors import DamagedCheckpoint

_CONTAINERS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "dict": dict, "OrderedDict": OrderedDict}


def encode(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """(tensors by unique names, JSON values). Gradients are not kept.

    Raises:
        ValueError: naming the path and type of a value that cannot be kept.
    """
    tensors: dict[str, Tensor] = {}
    try:
        return tensors, _encode(tree, (), tensors)
    except RecursionError:
        raise ValueError("value: got one nested too deep, or inside itself; expected a tree") from None


def decode(tensors: dict[str, Tensor], structure: Any) -> Any:
    """The tree that ``encode`` took apart.

    Raises:
        ValueError, KeyError, TypeError or RecursionError: the two do not belong together.
    """
    if isinstance(structure, list):
        return [decode(tensors, item) for item in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "bytes":
        return bytes.fromhex(content)
    return _CONTAINERS[kind](decode(tensors, content))


def plain(tensor: Any, name: str) -> Tensor:
    """A copy on the CPU, contiguous and sharing no memory; ``ValueError`` with ``name`` for what is no plain tensor."""
    if (
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.layout != torch.strided
        or tensor.is_meta
        or tensor.is_quantized
        or tensor.is_complex()
    ):
        raise ValueError(f"{name}: got a {_describe(tensor)}, expected a plain tensor of real numbers")
    return tensor.detach().resolve_neg().to("cpu", copy=True, memory_format=torch.contiguous_format)


def read_tensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file's bytes; ``DamagedCheckpoint`` naming ``source`` if they are none."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DamagedCheckpoint(
            f"{source}: not a safetensors file ({reason}; it begins {data[:8]!r})"
        ) from None


def _encode(value: Any, path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is list:
        return [_encode(item, (*path, index), tensors) for index, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": _encode(list(value), path, tensors)}
    if kind in (dict, OrderedDict):
        return {
            kind.__name__: [[_key(key, path), _encode(value[key], (*path, key), tensors)] for key in value]
        }
    where = ".".join(map(str, path)) or "value"
    if isinstance(value, Tensor):
        name = f"{where} #{len(tensors)}"
        tensors[name] = plain(value, where)
        return {"tensor": name}
    raise ValueError(
        f"{where}: got a {_describe(value)}, expected dict, list, tuple, None, bool, int, float, str, bytes or a tensor"
    )


def _key(key: Any, path: tuple[Any, ...]) -> Any:
    tensors: dict[str, Tensor] = {}
    encoded = _encode(key, path, tensors)
    if tensors:
        raise ValueError(f"{'.'.join(map(str, path))}: got a tensor as key, expected a text or number")
    return encoded


def _describe(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return f"{kind} ({value.dtype}, {value.layout}, {value.device})" if isinstance(value, Tensor) else kind
