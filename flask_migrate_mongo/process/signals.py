"""Signals: a run that is asked to stop does so where nothing is left half-said."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Raised inside a migration's code when a signal asks for a stop.

    Not an Exception, so that a migration's `except Exception` does not swallow it.
    """


class StopSwitch:
    """Turns SIGINT and SIGTERM into a stop: at once inside a migration's code, else at the next step.

    Recording, committing and releasing are never cut in two, unless a second signal insists: that
    one is a KeyboardInterrupt wherever it arrives. Only the main thread can receive signals;
    elsewhere the switch is never thrown.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._open = False
        self._signal: str | None = None

    @property
    def is_thrown(self) -> bool:
        """Whether a stop was asked for."""
        return self._signal is not None

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSwitch]:
        """Receive the signals for the length of the block; the application's handlers come back."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                # None: the handler was not installed from Python, so Python cannot put it back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise Stopped inside the block."""
        try:
            self._open = True
            if self.is_thrown:
                raise Stopped(self._signal)
            yield
        finally:
            self._open = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a signal inside the block wait for `check_inside`: what is in hand is finished."""
        was, self._open = self._open, False
        try:
            yield
        finally:
            self._open = was

    def check_inside(self) -> None:
        """Raise Stopped when a stop was asked for: of use inside a migration's code."""
        if self._signal is not None:
            raise Stopped(self._signal)

    def throw(self, by: str) -> None:
        """Ask for a stop before the next step; `by` says who or what asked."""
        self._signal = by

    def check(self) -> None:
        """Raise RunStoppedError when a stop was asked for."""
        if self._signal is not None:
            raise stopped(self._signal)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not through a stop: raises RunStoppedError."""
        self.check()
        with contextlib.suppress(Stopped), self.interruptible():
            self._sleep(seconds)
        self.check()

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        insists = self._signal is not None and not self._open
        self._signal = signal.Signals(number).name
        if insists:
            raise KeyboardInterrupt
        if self._open:
            # Once: the next signal finds the clean-up of the first, and insists.
            self._open = False
            raise Stopped(self._signal)


def stopped(by: str) -> RunStoppedError:
    """Return the error that says that a run was stopped, and how to go on."""
    return RunStoppedError(
        f"Stopped by {by}. Migrations that were applied stay applied; the others are pending.",
        "Continue: [up].",
    )
