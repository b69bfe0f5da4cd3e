"""A command's process, which has nothing to wait for: not at its end, and not while it runs."""

from __future__ import annotations

import atexit
import gc
import sys

COMMAND = "db-migrate"


def leave_promptly() -> None:
    """Let this process, if one of our commands is what it was started for, come to its end at once.

    pymongo's own exit handler waits for its monitor threads, which sleep for half a second. The
    application's exit handlers all run, with clients that still work, and its objects are finalized
    as ever.
    """
    if COMMAND in sys.argv[1:]:
        # First: of two exit handlers, the one that was registered later runs first.
        import pymongo  # noqa: F401, PLC0415

        atexit.register(_forget_threads)
        # What the application consists of stays until the end: looking through it for garbage, again
        # and again, takes about a tenth of the time of a command that only looks.
        gc.freeze()
        atexit.register(gc.unfreeze)


def _forget_threads() -> None:
    # Safe without the wait: they are daemon threads, which Python stops wherever they are, and they
    # hold nothing, since a monitor only reads what the server says of itself. Private: nothing
    # public shortens the wait. Where the name is gone, the process ends half a second later.
    executors = getattr(sys.modules.get("pymongo.periodic_executor"), "_EXECUTORS", None)
    if isinstance(executors, set):
        executors.clear()
