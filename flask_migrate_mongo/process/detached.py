"""Work that outlives the process that asked for it."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import signal
import stat
import threading
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

CAN_FORK = hasattr(os, "fork")

_LOWEST_FD = 3
_log = logging.getLogger("flask_migrate_mongo.detached")


def detach(work: Callable[[], None]) -> bool:
    """Do the work in a process of its own, or, where there is no fork, in a thread.

    Returns whether it is a process. It belongs to no session and no parent that could end it, and
    holds none of this process's connections: not the port that a web server listens on, and not a
    database connection that two processes would then share.
    """
    if not CAN_FORK:
        threading.Thread(target=_alone, args=(work,), name="migrate-run").start()
        return False
    with warnings.catch_warnings():
        # Python 3.12 warns of threads: the child goes on with this one alone, and the driver and
        # the logging put their locks right after a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _leave(work)
    os.waitpid(child, 0)
    return True


def _leave(work: Callable[[], None]) -> NoReturn:
    """Be the first child: start the process that works, and end, so that nobody is its parent."""
    try:
        os.setsid()
        if os.fork() == 0:
            _let_go()
            _alone(work)
    finally:
        # Neither the exit handlers of the web server nor its open requests are this process's.
        os._exit(0)


def _let_go() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # The driver puts itself right after a fork, but says that it had to.
    warnings.filterwarnings("ignore", message="MongoClient opened before fork")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    for descriptor in _open_descriptors():
        with contextlib.suppress(OSError):
            if descriptor >= _LOWEST_FD and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                # Replaced and not closed: the objects that own it would later close its number,
                # which by then were another's.
                os.dup2(nothing, descriptor)


def _open_descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208  (numbers, not paths)
    except OSError:
        return list(range(_LOWEST_FD, 1024))


def _alone(work: Callable[[], None]) -> None:
    """Do the work in a context of its own: without the request, and without a bound session."""
    try:
        contextvars.Context().run(work)
    except BaseException:  # noqa: BLE001  (nobody is left to raise it to; the log is)
        _log.exception("A detached run ended with an error")
