"""Where a run stands, and the request to stop: small state that the callbacks share."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from types import FrameType
from typing import Any

from iris_wm.runs.operating_system import handling

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STATE_KEY = "iris_wm"
"""Under which Lightning's checkpoint dict holds our own state."""


@dataclass
class RunProgress:
    """The place in the schedule and the totals; all of it goes into checkpoints.

    epoch counts from 1. position: steps of the epoch already done. total_steps: steps of all epochs done.
    seconds: spent on each component. score: mean return of the last evaluation. curve: all evaluations. sums: of the
    unfinished phase's numbers, by component/name, each with how many.
    """

    epoch: int = 1
    position: int = 0
    total_steps: int = 0
    env_steps: int = 0
    score: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what state_dict gave."""
        for each in fields(self):
            setattr(self, each.name, state[each.name])

    def add_seconds(self, component: str, seconds: float) -> None:
        """Account for time spent."""
        self.seconds[component] = self.seconds.get(component, 0.0) + seconds

    def add_numbers(self, numbers: dict[str, float]) -> None:
        """Add what a step has measured."""
        for name, value in numbers.items():
            total, count = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + value, count + 1]

    def take_means(self) -> dict[str, float]:
        """Of the phase, which is over."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


class InterruptedStep(Exception):
    """Raised inside a step that changes nothing (encoding, evaluation) to leave it: it will be done again."""


class StopRequest:
    """Why the run should stop at the next step's end; None while it should not. Handlers only set it.

    is_shared: processes that train together stop together, so no step may be left midway.
    """

    def __init__(self, max_minutes: float = 0.0) -> None:
        self._signal: str | None = None
        self.is_shared = False
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")

    @property
    def reason(self) -> str | None:
        """In words."""
        if self._signal is not None:
            return f"received {self._signal}"
        if time.monotonic() > self._deadline:
            return "training.max_minutes are over"
        return None

    def check(self) -> None:
        """Raise InterruptedStep if the run should stop."""
        if self.reason is not None and not self.is_shared:
            raise InterruptedStep(self.reason)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def listen(self) -> None:
        """Take the signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Listen to SIGTERM, SIGINT and SIGUSR1; the handlers of before come back afterwards."""
        with handling(STOP_SIGNALS, self._handle):
            yield self
