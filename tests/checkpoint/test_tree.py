"""Trees of values: everything that may be saved comes back with every bit; everything else is refused by name."""

import enum
import json
import math
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_wm.checkpoint.tree import decode, encode

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    )
}


def through_files(tree):
    tensors, structure = encode(tree)
    loaded = safetensors.torch.load(safetensors.torch.save(tensors))
    return decode(loaded, json.loads(json.dumps(structure)))


def same(a, b):
    """Equality of types and bits, order of keys included; one NaN of Python is as good as another."""
    if isinstance(a, torch.Tensor):
        return (
            type(b) is torch.Tensor
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.detach().contiguous().view(-1).view(torch.uint8).tolist()
            == b.contiguous().view(-1).view(torch.uint8).tolist()
        )
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack(">d", a) == struct.pack(">d", b) or (math.isnan(a) and math.isnan(b))
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) in (dict, OrderedDict):
        return same(list(a), list(b)) and all(same(a[key], b[key]) for key in a)
    return a == b


keys = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.binary(max_size=4)
    | st.floats(allow_nan=False)
)
leaves = keys | st.floats() | st.sampled_from([torch.tensor(1.5), torch.zeros(2, 0), torch.arange(3)])
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys | st.tuples(keys, keys), inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(trees)
def test_any_tree_comes_back(tree):
    assert same(through_files(tree), tree)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (5,), (2, 3)])
def test_every_dtype_and_shape(dtype, shape):
    tensor = torch.arange(64).remainder(2)[: max(1, int(np.prod(shape)))]
    tensor = (tensor[: int(np.prod(shape))] if shape else tensor[0]).reshape(shape).to(dtype)
    assert same(through_files({"t": tensor}), {"t": tensor})


def test_special_numbers_keep_their_bits():
    tree = [float("inf"), float("-inf"), float("nan"), -0.0, 5e-324, 2**63, -(2**200), sys.maxsize]
    assert same(through_files(tree), tree)
    payload = torch.tensor([0x7FC00123, -1], dtype=torch.int32).view(torch.float32)
    assert same(through_files(payload), payload)


def test_what_a_trainer_saves():
    model = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model[1](model[0](torch.ones(2, 3)))[0].sum().backward()
    optimizer.step()
    tree = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "epoch": 3}
    again = through_files(tree)
    assert same(again["optimizer_states"], tree["optimizer_states"])
    assert isinstance(again["state_dict"], OrderedDict)
    model.load_state_dict(again["state_dict"])
    optimizer.load_state_dict(again["optimizer_states"][0])


def test_views_shared_and_parameters():
    base = torch.arange(24.0).reshape(4, 6)
    parameter = nn.Parameter(torch.ones(2))
    tree = {
        "whole": base,
        "row": base[1],
        "column": base[:, 2],
        "again": base,
        "transposed": base.T,
        "expanded": torch.ones(1).expand(5),
        "negative": torch._neg_view(torch.ones(2)),
    }
    assert same(through_files(tree), {name: tensor.clone() for name, tensor in tree.items()})
    again = through_files({"p": parameter})["p"]
    assert torch.equal(again, parameter.detach())
    assert not again.requires_grad


def test_names_never_collide():
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    tree = {"a": {"b": one}, "a.b": two, "a.b#2": three, "__metadata__": one, 1: two, "1": three}
    tensors, _ = encode(tree)
    assert len(tensors) == 6
    assert same(through_files(tree), tree)


class Color(enum.Enum):
    RED = 1


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float64(1), "float64"),
        (np.zeros(2), "ndarray"),
        (np.int64(1), "int64"),
        (Color.RED, "Color"),
        (Text("a"), "Text"),
        (Path("a"), "Path"),
        ({1, 2}, "set"),
        (frozenset(), "frozenset"),
        (bytearray(b"a"), "bytearray"),
        (1j, "complex"),
        (object(), "object"),
        (print, "builtin_function_or_method"),
        (torch.float32, "dtype"),
        (torch.device("cpu"), "device"),
        (torch.Size([1]), "Size"),
        (defaultdict(int), "defaultdict"),
        (Counter("a"), "Counter"),
        (namedtuple("Pair", "a b")(1, 2), "Pair"),
        (nn.Linear(1, 1), "Linear"),
        (torch.ones(2, 2).to_sparse(), "Tensor"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        ({object(): 1}, "builtins.object"),
        ({frozenset(): 1}, "frozenset"),
        ({(1, frozenset()): 1}, "frozenset"),
        ({torch.ones(2): 1}, "tensor as key"),
    ],
)
def test_anything_else_is_refused_with_its_path(value, name):
    with pytest.raises(ValueError, match=r"^callbacks\.0\.state(\.1)?: ") as caught:
        encode({"callbacks": [{"state": value}]})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_is_limited_and_loops_are_refused():
    deep = []
    for _ in range(99):
        deep = [deep]
    assert same(through_files(deep), deep)
    loop = {}
    loop["self"] = loop
    with pytest.raises(ValueError, match="too deep, or inside itself"):
        encode(loop)


@pytest.mark.parametrize(
    "structure",
    [
        {"tensor": "b"},
        {"tensor": 3},
        {"tensor": ["a"]},
        {"bytes": "a"},
        {"bytes": None},
        {"dict": 3},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"tuple": 3},
        {"float": "nan"},
        {"py/object": "os.system"},
        {},
        {"tensor": "a", "tuple": []},
    ],
)
def test_structures_that_make_no_sense(structure):
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode({"a": torch.tensor(1.0)}, structure)


def test_a_structure_nested_too_deep():
    structure = None
    for _ in range(5000):
        structure = [structure]
    with pytest.raises(RecursionError):
        decode({}, structure)
