"""What a process of ours asks of the operating system."""

import ctypes
import os
import sys


def keep_freed_memory() -> None:
    """Keep freed memory instead of giving every large tensor back to the system: glibc only.

    Stock glibc maps each tensor over 32 MB afresh; on a CPU the page faults then take a large part of the time.
    """
    if sys.platform != "linux" or os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
