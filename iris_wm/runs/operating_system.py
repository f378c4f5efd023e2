"""What a process of ours asks of the operating system."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def keep_freed_memory() -> None:
    """Keep freed memory instead of giving every large tensor back to the system: glibc only.

    Stock glibc maps each tensor over 32 MB afresh; on a CPU the page faults then take a large part of the time.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None and not os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the one that started it ends, however it ends. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


@contextmanager
def handling(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Let `handler` take these signals; the handlers of before come back afterwards."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)
