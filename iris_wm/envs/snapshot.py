"""The state of an environment as plain values, so that a run can go on in the middle of an episode."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from iris_wm.spaces import ActionSpace

Snapshot: TypeAlias = dict[str, bytes | int | float | str | bool]
"""Flat: text, numbers and bytes only, never pickles."""


@runtime_checkable
class SnapshotEnv(Protocol):
    """A Gymnasium environment whose state can be taken and put back.

    Observations are (H, W, C) uint8; an action is n whole numbers, or one number where n = 1. After
    `restore(snapshot())`, in this process or a new one, the same actions bring the same observations, rewards and
    ends, also past later resets.
    """

    @property
    def actions(self) -> ActionSpace:
        """What can be done."""

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode: (observation, info)."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, info)."""

    def snapshot(self) -> Snapshot:
        """The state now; ValueError before the first reset."""

    def restore(self, snapshot: Mapping[str, Any]) -> Any:
        """Puts the state back and returns the observation of that moment; ValueError if it is not of this env."""

    def close(self) -> None:
        """Frees what the environment holds."""


def generator_to_text(generator: np.random.Generator) -> str:
    """The state of a PCG64 generator as JSON."""
    return json.dumps(generator.bit_generator.state)


def generator_from_text(text: str, where: str) -> np.random.Generator:
    """The generator back; ValueError if the text is no such state."""
    bit_generator = np.random.PCG64()
    try:
        bit_generator.state = json.loads(text)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise ValueError(f"{where}: np_random is not the state of a generator") from None
    return np.random.Generator(bit_generator)


def sealed(values: Snapshot) -> Snapshot:
    """The values with a checksum over all of them under "checksum"."""
    return {**values, "checksum": _checksum(values)}


def unseal(
    snapshot: Mapping[str, Any], expected: Mapping[str, type], own: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The values of a snapshot, if it has just the expected names and types, the own values, and its checksum holds."""
    if not isinstance(snapshot, Mapping):
        raise ValueError(f"{where}: snapshot: expected a mapping, got {type(snapshot).__name__}")
    if set(snapshot) != {*expected, "checksum"}:
        raise ValueError(
            f"{where}: snapshot: expected {sorted({*expected, 'checksum'})}, got {sorted(map(str, snapshot))}"
        )
    values = {name: snapshot[name] for name in expected}
    for name, kind in expected.items():
        if type(values[name]) is not kind:
            raise ValueError(
                f"{where}: snapshot: {name}: expected {kind.__name__}, got {type(values[name]).__name__}"
            )
    if snapshot["checksum"] != _checksum(values):
        raise ValueError(f"{where}: snapshot: the checksum does not fit; it is damaged")
    for name, value in own.items():
        if values[name] != value:
            raise ValueError(f"{where}: snapshot: {name}: expected {value!r}, got {values[name]!r}")
    return values


def _checksum(values: Mapping[str, Any]) -> int:
    total = 0
    for name in sorted(values):
        value = values[name]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        total = zlib.crc32(data, zlib.crc32(name.encode(), total))
    return total
