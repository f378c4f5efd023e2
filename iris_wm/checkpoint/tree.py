"""Nested Python values as named tensors and a JSON structure, and back, without a bit lost and without code.

Dicts, lists, tuples, None, bool, int, float, str, bytes and tensors may be nested in any way; what a training
checkpoint holds. Everything else is refused, so that nothing has to be guessed or executed on reading.
"""

import math
import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_DEPTH = 100
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    )
}
_SAFE_INT = 2**63


def encode(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """(tensors by dotted name, JSON values): tensors on the CPU, contiguous, no two sharing memory.

    ``ValueError`` names the path and type of a value that cannot be kept. Gradients are not kept.
    """
    encoder = _Encoder()
    structure = encoder.encode(tree, ())
    return encoder.tensors, structure


def decode(tensors: dict[str, Tensor], structure: Any) -> Any:
    """The tree that ``encode`` took apart; ``ValueError`` where the two do not belong together."""
    unused = dict(tensors)
    tree = _decode(structure, unused, 0)
    if unused:
        raise ValueError(f"tensor {min(unused)!r} has no place in the structure")
    return tree


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._storages: set[int] = set()

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > MAX_DEPTH:
            raise ValueError(f"{_dotted(path[:5])}...: nested deeper than {MAX_DEPTH}, or inside itself")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < _SAFE_INT else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if kind is bytes:
            data = torch.from_numpy(np.frombuffer(value, dtype=np.uint8).copy())
            return {"bytes": self._add(data, path)}
        if isinstance(value, Tensor):
            return {"tensor": self._add(value, path)}
        if kind is list:
            return [self.encode(item, (*path, index)) for index, item in enumerate(value)]
        if kind is tuple:
            return {"tuple": [self.encode(item, (*path, index)) for index, item in enumerate(value)]}
        if kind in (dict, OrderedDict):
            return {
                "dict" if kind is dict else "ordered_dict": [
                    self._item(key, value[key], path) for key in value
                ]
            }
        raise ValueError(
            f"{_dotted(path)}: cannot save a {kind.__module__}.{kind.__qualname__}; "
            "expected dict, list, tuple, None, bool, int, float, str, bytes or a tensor"
        )

    def _item(self, key: Any, value: Any, path: tuple[Any, ...]) -> list[Any]:
        if not _is_plain_key(key):
            raise ValueError(
                f"{_dotted(path)}: cannot save a key of type {type(key).__qualname__}; "
                "expected None, bool, int, float, str, bytes or a tuple of them"
            )
        inner = (*path, key)
        return [self.encode(key, inner), self.encode(value, inner)]

    def _add(self, tensor: Tensor, path: tuple[Any, ...]) -> str:
        """Keeps a plain copy of ``tensor`` where it needs one; returns its name."""
        name = _dotted(path)
        if (
            type(tensor) not in (Tensor, torch.nn.Parameter)
            or tensor.layout != torch.strided
            or tensor.is_quantized
        ):
            raise ValueError(f"{name}: cannot save a {type(tensor).__qualname__} with layout {tensor.layout}")
        if tensor.dtype not in DTYPES.values():
            raise ValueError(f"{name}: cannot save a tensor of {tensor.dtype}")
        if tensor.device.type == "meta":
            raise ValueError(f"{name}: cannot save a tensor without data (device meta)")
        plain = tensor.detach().resolve_neg().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        if storage in self._storages:
            plain = plain.clone()
            storage = plain.untyped_storage().data_ptr()
        self._storages.add(storage)
        unique, serial = name, 2
        while unique in self.tensors or unique == "__metadata__":
            unique, serial = f"{name}#{serial}", serial + 1
        self.tensors[unique] = plain
        return unique


def _decode(structure: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise ValueError(f"structure nested deeper than {MAX_DEPTH}")
    if structure is None or type(structure) in (bool, int, float, str):
        return structure
    if type(structure) is list:
        return [_decode(item, tensors, depth + 1) for item in structure]
    if type(structure) is dict and len(structure) == 1:
        ((kind, content),) = structure.items()
        if kind == "int" and type(content) is str:
            return int(content, 16)
        if kind == "float" and type(content) is str and len(content) == 16:
            return struct.unpack(">d", bytes.fromhex(content))[0]
        if kind in ("bytes", "tensor"):
            if type(content) is not str or content not in tensors:
                raise ValueError(f"tensor {str(content)[:80]!r} is missing or used twice")
            tensor = tensors.pop(content)
            if kind == "tensor":
                return tensor
            if tensor.dtype != torch.uint8:
                raise ValueError(f"tensor {content[:80]!r}: expected uint8 for bytes, got {tensor.dtype}")
            return tensor.numpy().tobytes()
        if kind == "tuple" and type(content) is list:
            return tuple(_decode(item, tensors, depth + 1) for item in content)
        if kind in ("dict", "ordered_dict") and type(content) is list:
            return _decode_dict(dict if kind == "dict" else OrderedDict, content, tensors, depth)
    raise ValueError(f"structure holds something unknown: {str(structure)[:80]}")


def _decode_dict(make: Any, items: Iterable[Any], tensors: dict[str, Tensor], depth: int) -> Any:
    result = make()
    for item in items:
        if type(item) is not list or len(item) != 2:
            raise ValueError(f"structure holds a dict entry that is not a pair: {str(item)[:80]}")
        key = _decode(item[0], tensors, depth + 1)
        if not _is_plain_key(key) or key in result:
            raise ValueError(f"structure holds a bad or repeated key: {str(key)[:80]}")
        result[key] = _decode(item[1], tensors, depth + 1)
    return result


def _is_plain_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(_is_plain_key(item) for item in key)
    return key is None or type(key) in (bool, int, float, str, bytes)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path) or "value"
