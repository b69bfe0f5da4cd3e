"""The end of a process that runs one of our commands."""

from __future__ import annotations

import atexit
import sys


def exit_promptly() -> None:
    """Register an exit handler that saves the wait for pymongo's monitor threads.

    pymongo's own handler waits for them, and they sleep for up to half a second. Of two exit
    handlers the one that was registered later runs first, so call this after pymongo was imported.
    All exit handlers of the application still run, with clients that work.
    """
    atexit.register(_forget_threads)


def _forget_threads() -> None:
    # Safe without the wait: they are daemon threads, which Python stops at any point, and they hold
    # nothing, since a monitor only reads the server's state. Private, because no public name
    # shortens the wait. If a pymongo lacks the name, the process ends half a second later.
    executors = getattr(sys.modules.get("pymongo.periodic_executor"), "_EXECUTORS", None)
    if isinstance(executors, set):
        executors.clear()
