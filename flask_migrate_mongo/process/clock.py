"""The clock that durations and deadlines are measured on."""

from __future__ import annotations

import time


def elapsed() -> float:
    """Read seconds on a clock that also advances while the machine is suspended, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
