"""Waits for what another thread or process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SECONDS = 60
"""Far beyond what anything takes on a machine that has other work."""


def until(condition: Callable[[], T | None]) -> T:
    """Ask until the condition holds, and return what it gives; fail when it does not in a minute."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return found
