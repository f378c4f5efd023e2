"""Checks of actions and seeds in Python, before they reach an emulator that would hang on bad ones."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_SEED = 2**63 - 1


def check_action(action: Any, num_actions: int, where: str) -> int:
    """A single action as an int in 0..num_actions-1; takes ints, integer scalars and 0-dimensional arrays."""
    if type(action) is not int:
        if isinstance(action, (bool, np.bool_)):
            raise ValueError(f"{where}: action: expected an integer, got {action!r}")
        shape = tuple(getattr(action, "shape", ()))
        if shape:
            raise ValueError(f"{where}: action: expected one integer, got an array of shape {shape}")
        try:
            value = operator.index(action)
        except TypeError:
            kind = getattr(action, "dtype", type(action).__name__)
            raise ValueError(f"{where}: action: expected an integer, got {action!r} ({kind})") from None
        if str(getattr(action, "dtype", "")).endswith("bool"):
            raise ValueError(f"{where}: action: expected an integer, got {action!r}")
        action = value
    if not 0 <= action < num_actions:
        raise ValueError(f"{where}: action: expected 0 to {num_actions - 1}, got {action}")
    return action


def check_actions(actions: Any, num_envs: int, num_actions: int, where: str) -> np.ndarray:
    """One action per environment as (num_envs,) int64; takes lists, arrays and CPU tensors of integers."""
    try:
        array = np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: actions: expected ({num_envs},) integers, got {error}") from None
    if array.dtype.kind not in "iu" or array.shape != (num_envs,):
        raise ValueError(
            f"{where}: actions: expected ({num_envs},) integers, got {tuple(array.shape)} {array.dtype}"
        )
    for index, action in enumerate(array.tolist()):
        if not 0 <= action < num_actions:
            raise ValueError(f"{where}: actions[{index}]: expected 0 to {num_actions - 1}, got {action}")
    return array.astype(np.int64)


def check_seed(seed: Any, where: str) -> int:
    """A seed as an int in 0..2**63-1 (a negative one would silently mean no seed to the emulator)."""
    if isinstance(seed, (bool, np.bool_, float)) or not hasattr(seed, "__index__"):
        raise ValueError(f"{where}: seed: expected a whole number of at least 0, got {seed!r}")
    value = operator.index(seed)
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"{where}: seed: expected a whole number from 0 to 2**63 - 1, got {value}")
    return value


def check_seeds(seeds: Sequence[Any], num_envs: int, where: str) -> list[int]:
    """One seed per environment."""
    try:
        values = [check_seed(seed, where) for seed in seeds]
    except TypeError:
        raise ValueError(f"{where}: seeds: expected a list of {num_envs}, got {seeds!r}") from None
    if len(values) != num_envs:
        raise ValueError(f"{where}: seeds: expected a list of {num_envs}, got {len(values)}")
    return values
