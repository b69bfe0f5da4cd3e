"""What concerns the process: the clock, signals, and a prompt exit of the command line."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from .model.errors import RunStoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def elapsed() -> float:
    """Read seconds on a clock that also advances while the machine is suspended, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Stopped(BaseException):
    """Raised inside a migration's code when a signal requests a stop.

    Not an Exception, so that a migration's `except Exception` does not swallow it.
    """


class StopSwitch:
    """Turns SIGINT and SIGTERM into a stop: at once inside a migration's code, else before the next step.

    A signal never interrupts recording, committing or releasing. A second signal does: it raises
    KeyboardInterrupt wherever it arrives. Only the main thread receives signals; in another thread
    the switch leaves them alone.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._interruptible = False
        self.requested_by: str | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSwitch]:
        """Receive the signals inside the block, then restore the application's handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                # None: the handler was not installed from Python, so Python cannot restore it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise Stopped inside the block."""
        try:
            self._interruptible = True
            self.check_inside()
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a signal inside the block wait until `check_inside`."""
        before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = before

    def request_stop(self, by: str) -> None:
        """Request a stop before the next step; `by` names what requests it."""
        self.requested_by = by

    def check_inside(self) -> None:
        """Raise Stopped if a stop was requested: for use inside a migration's code."""
        if self.requested_by is not None:
            raise Stopped(self.requested_by)

    def check(self) -> None:
        """Raise RunStoppedError if a stop was requested: for use between steps."""
        if self.requested_by is not None:
            raise stopped(self.requested_by)

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is up or a stop is requested. Raises RunStoppedError."""
        self.check()
        with contextlib.suppress(Stopped), self.interruptible():
            self._sleep(seconds)
        self.check()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        is_second = self.requested_by is not None and not self._interruptible
        self.requested_by = signal.Signals(number).name
        if is_second:
            raise KeyboardInterrupt
        if self._interruptible:
            # Only once: a signal during the clean-up after this one counts as the second.
            self._interruptible = False
            raise Stopped(self.requested_by)


def stopped(by: str) -> RunStoppedError:
    """Make the error that says what stopped a run, and how to continue."""
    msg = f"Stopped by {by}. Migrations that were applied stay applied; the others are pending."
    return RunStoppedError(msg, "Continue: [up].")


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
