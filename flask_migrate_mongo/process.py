"""What concerns the process: the clock, signals, standard streams, and a prompt exit of the command line."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from .model.errors import RunStoppedError

SIGNALS = tuple(
    # Windows has no SIGHUP.
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
)

STOP_SECONDS = 5
"""How long a run that a signal stopped may take to record its end and to release its lock."""

CHECK_SECONDS = 1
"""How often it is interrupted after that, because each of its commands can wait for a server that hangs."""

Handler = Callable[[int, FrameType | None], object] | int | None

_original: dict[signal.Signals, Handler] = {}
"""The handlers of the application that a switch has replaced."""

_RUN_MARK = "RUN_BY_FLASK_MIGRATE_MONGO"
"""The environment variable with the id of the process whose run has started this one."""


def elapsed() -> float:
    """Read seconds on a clock that also advances while the machine is suspended, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@contextlib.contextmanager
def marking_children() -> Iterator[None]:
    """Let processes that start inside the block know that a run started them."""
    os.environ[_RUN_MARK] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_RUN_MARK, None)


def started_by_run() -> bool:
    """Whether a run of another process has started this process, or one that started it."""
    return os.environ.get(_RUN_MARK, str(os.getpid())) != str(os.getpid())


class Stopped(BaseException):
    """Raised inside a migration's code when a signal requests a stop.

    Not an Exception, so that a migration's `except Exception` does not swallow it.
    """


class StopSwitch:
    """Turns SIGINT, SIGTERM and SIGHUP into a stop: at once inside a migration's code, else before the next step.

    A signal never interrupts recording, committing or releasing. A second signal does: it raises
    KeyboardInterrupt wherever it arrives. If the run has not ended STOP_SECONDS after the first one, the switch sends it
    itself. Only the main thread receives signals; in another thread the switch leaves them alone.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._interruptible = False
        self._patient = False
        self._received: signal.Signals | None = None
        self._interrupt_at = math.inf
        self._over = threading.Event()
        self.requested_by: str | None = None

    @contextlib.contextmanager
    def installed(self, *, redeliver: bool = True) -> Iterator[StopSwitch]:
        """Receive the signals inside the block, then restore the application's handlers.

        A signal that was received is then raised again if the application has a handler for it. A caller that does so itself
        sets `redeliver` to False.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            before = {number: h for number, h in handlers.items() if self._replaces(number, h)}
        if not before:
            yield self
            return
        outermost = {number: h for number, h in before.items() if number not in _original}
        _original.update(outermost)
        for number in before:
            signal.signal(number, self._receive)
        watch = threading.Thread(target=self._watch, name="migrate-stop", daemon=True)
        watch.start()
        try:
            yield self
        finally:
            self._over.set()
            watch.join()
            self._over.clear()
            for number, handler in before.items():
                signal.signal(number, handler)
            for number in outermost:
                del _original[number]
            # The handlers of Python itself would end the process before it can report the run.
            defaults = (signal.default_int_handler, signal.SIG_DFL)
            if redeliver and before.get(self._received or signal.SIGTERM) not in defaults:
                self.redeliver()

    @property
    def is_only_asked(self) -> bool:
        """Whether a stop was requested, and not by a signal: it is the run that shall end, and not the process."""
        return self.requested_by is not None and self._received is None

    def redeliver(self) -> None:
        """Raise the signal that was received again, for the handlers that are installed now."""
        received, self._received = self._received, None
        if received is not None:
            signal.raise_signal(received)

    def _replaces(self, number: signal.Signals, handler: Handler) -> bool:
        """Whether the switch receives a signal in place of this handler."""
        # `nohup` ignores SIGHUP, and a shell lets its background jobs ignore SIGINT. None is a handler
        # that was not installed from Python, which could not be restored.
        is_ignored = handler is signal.SIG_IGN and number != signal.SIGTERM
        return not is_ignored and handler is not None and handler != self._receive

    def _watch(self) -> None:
        main = threading.main_thread().ident
        while not self._over.wait(CHECK_SECONDS):
            is_late = elapsed() >= self._interrupt_at and not self._patient
            if is_late and self._received and main:
                signal.pthread_kill(main, self._received)

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
        """Let a signal inside the block wait until `check_inside`, however long that takes."""
        before, self._interruptible = self._interruptible, False
        self._patient = True
        try:
            yield
        finally:
            self._interruptible, self._patient = before, False
            if self._received is not None:
                self._interrupt_at = elapsed() + STOP_SECONDS

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
        is_second = self._received is not None and not self._interruptible
        self._received = signal.Signals(number)
        self.requested_by = self._received.name
        self._interrupt_at = min(self._interrupt_at, elapsed() + STOP_SECONDS)
        # During a fork, Python ignores what is raised here. The next step does not start.
        if self._over.is_set() or _fork.mask is not None:
            return
        if is_second:
            raise KeyboardInterrupt
        if self._interruptible:
            # Only once: a signal during the clean-up after this one counts as the second.
            self._interruptible = False
            raise Stopped(self.requested_by)


# --- child processes of a migration, such as those of a multiprocessing.Pool, have the application's handlers


class _Fork(threading.local):
    """The signals that were blocked before this thread began to fork; None if it does not fork."""

    mask: set[int] | None = None


_fork = _Fork()


def _before_fork() -> None:
    # Python forgets a signal that comes between the fork and the first code in the child, unless it is blocked.
    _fork.mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _original))


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask or set())
    _fork.mask = None


def _after_in_child() -> None:
    for number, handler in _original.items():
        signal.signal(number, handler)
    _original.clear()
    _after_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )


def stopped(by: str) -> RunStoppedError:
    """Make the error that says what stopped a run, and how to continue."""
    msg = f"Stopped by {by}. What it had applied or rolled back stays so; the rest was not run."
    return RunStoppedError(msg, "See what is left: [status]. Then start the same run again.")


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


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Let the block, and the exit after it, use output streams that are closed or full."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (open as long as the process runs)
            setattr(sys, name, null)
    try:
        yield
    finally:
        # What cannot be written by now would make the exit fail, with an exit code of Python's own.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                discard_output(stream)


def discard_output(stream: TextIO) -> None:
    """Let a stream that cannot be written to write to the null device, also what it still holds."""
    # A stream of tests has no descriptor, which is an OSError, too.
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), stream.fileno())
