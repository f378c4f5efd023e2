"""Checks of seeds in Python, before they reach an emulator that would hang on bad ones."""

import operator
from typing import Any

import numpy as np

MAX_SEED = 2**63 - 1


def check_seed(seed: Any, where: str) -> int:
    """A seed as an int in 0..2**63-1 (a negative one would silently mean no seed to the emulator)."""
    if isinstance(seed, (bool, np.bool_, float)) or not hasattr(seed, "__index__"):
        raise ValueError(f"{where}: seed: expected a whole number of at least 0, got {seed!r}")
    value = operator.index(seed)
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"{where}: seed: expected a whole number from 0 to 2**63 - 1, got {value}")
    return value
