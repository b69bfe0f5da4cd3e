# SPDX-License-Identifier: GPL-2.0-only
"""Operations in flight: killSessions interrupts them, and a majority takes a moment.

SecantusDB looks at a deadline wherever a command may take long. Here each command has something to
look at, whether it has a maxTimeMS or not.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from secantus import commands, deadline, server, storage

from .patching import answer_to, refusal, replacement

MAJORITY_SECONDS = float(os.environ.get("STRICT_MAJORITY_MS", "2")) / 1000

READS = {"find", "getMore", "aggregate", "count", "distinct"}
"""What ends if its client is gone; a write goes on."""

_here = threading.local()
_mutex = threading.Lock()
_in_flight = []
_cursors = {}
"""The open cursors, each with its session."""


class Interrupted(deadline.MaxTimeMSExpired):
    """The session of the operation was killed."""

    code = 11601
    code_name = "Interrupted"

    def __init__(self):
        super().__init__("operation was interrupted")


class StepDown(deadline.MaxTimeMSExpired):
    """The server is no primary any more."""

    code = 11602
    code_name = "InterruptedDueToReplStateChange"

    def __init__(self):
        super().__init__("operation was interrupted")


class LifetimeExceeded(deadline.MaxTimeMSExpired):
    """The transaction of the statement grew too old while it ran."""

    code = 290
    code_name = "TransactionExceededLifetimeLimitSeconds"

    def __init__(self):
        super().__init__("operation was interrupted because the transaction exceeded its lifetime")


class ClientDisconnect(deadline.MaxTimeMSExpired):
    """Nobody waits for what is read."""

    code = 279
    code_name = "ClientDisconnect"

    def __init__(self):
        super().__init__("operation was interrupted")


@dataclass(eq=False)
class Operation:
    """One command that runs; a read ends with its `connection`."""

    name: str
    session: bytes | None
    connection: socket.socket | None
    ends: float = math.inf
    interruption: type[deadline.MaxTimeMSExpired] | None = None

    def check(self):
        """Raise what ends it, if something does."""
        if self.interruption is not None:
            raise self.interruption
        if time.perf_counter() >= self.ends:
            raise LifetimeExceeded
        if self.name in READS and _is_gone(self.connection):
            raise ClientDisconnect


def _is_gone(connection):
    if connection is None or isinstance(connection, ssl.SSLSocket):
        return False  # What waits in an encrypted connection cannot be looked at.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        return bool(poll.poll(0)) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def current_operation():
    """The command that this thread runs, or None in a thread of the server's own."""
    return getattr(_here, "operation", None)


def interrupt(condition, interruption=Interrupted):
    """End the other operations for which the condition holds."""
    with _mutex:
        for operation in _in_flight:
            if operation is not current_operation() and condition(operation):
                operation.interruption = interruption


def session_of(doc):
    """The session id of a command, as bytes."""
    return commands._lsid_bytes_from_arg(doc.get("lsid"))


@contextlib.contextmanager
def _flight(operation):
    _here.operation = operation
    with _mutex:
        _in_flight.append(operation)
    try:
        yield
    finally:
        _here.operation = None
        with _mutex:
            _in_flight.remove(operation)


@replacement(server.SecantusDBServer, "_handle_client")
def handle_client(handle, self, conn, addr):
    _here.connection = conn
    return handle(self, conn, addr)


@replacement(server, "dispatch")
def dispatch_in_flight(dispatch, doc, ctx):
    connection = getattr(_here, "connection", None)
    operation = Operation(next(iter(doc), ""), session_of(doc), connection)
    with _flight(operation):
        reply = dispatch(doc, ctx)
        if reply.get("ok") and (doc.get("writeConcern") or {}).get("w") == "majority":
            time.sleep(MAJORITY_SECONDS)
            if (why := operation.interruption) is not None:
                error = refusal(why.code, why.code_name, str(why()))
                return {**reply, "writeConcernError": {**error, "errInfo": {}}}
        _note_cursor(doc, reply, operation)
    return reply


def _note_cursor(doc, reply, operation):
    cursor = reply.get("cursor")
    number = cursor.get("id") if isinstance(cursor, Mapping) else 0
    with _mutex:
        if number and operation.session is not None:
            _cursors[int(number)] = operation.session
        elif operation.name == "getMore":
            _cursors.pop(int(doc["getMore"]), None)


def _kill_cursors(ctx, condition):
    with _mutex:
        killed = [number for number, session in _cursors.items() if condition(session)]
        for number in killed:
            del _cursors[number]
    ctx.cursors.kill(killed)


class ArmedAlways(deadline.arm):
    """The deadline of a command, without an end if it has no maxTimeMS."""

    __slots__ = ()

    def __enter__(self):
        super().__enter__()
        if not self._armed:
            deadline._state.current = deadline._Armed(math.inf)
        deadline.check_now()
        return self


own_check_now = deadline.check_now


def check_now():
    """Raise what ends this thread's command, if something does."""
    if (operation := getattr(_here, "operation", None)) is not None:
        operation.check()
    own_check_now()


def check():
    """Do so once in a while: it is called for each document."""
    armed = getattr(deadline._state, "current", None)
    if armed is not None:
        armed.ticks += 1
        if armed.ticks % deadline.POLL_EVERY == 0:
            check_now()


@replacement(storage.Storage, "_batch_transaction")
def checked_batch(batch_transaction, self, **options):
    """Look between the batches of a statement, and while it waits for another one's lock."""
    deadline.check_now()
    return batch_transaction(self, **options)


@replacement(commands, "_max_time_expired_reply")
def reply_to_interrupted(max_time_expired_reply, exc, command, ctx, doc):
    if type(exc) is deadline.MaxTimeMSExpired:
        return max_time_expired_reply(exc, command, ctx, doc)
    return refusal(exc.code, exc.code_name, str(exc))


@answer_to("killSessions")
def kill_sessions(handler, doc, ctx):
    """End the operations and the cursors of these sessions; without a session named, of all."""
    named = {commands._lsid_bytes_from_arg(entry) for entry in doc["killSessions"] or ()}
    if not named:
        return commands._HANDLERS["killAllSessions"](doc, ctx)
    interrupt(lambda operation: operation.session in named)
    _kill_cursors(ctx, lambda session: session in named)
    return handler(doc, ctx)


@answer_to("killAllSessions", "killAllSessionsByPattern")
def kill_all_sessions(handler, doc, ctx):
    interrupt(lambda operation: operation.session is not None)
    _kill_cursors(ctx, lambda _: True)
    return handler(doc, ctx)


assert hasattr(deadline, "check"), "the deadline is not polled any more: look at this again"
deadline.arm, deadline.check, deadline.check_now = ArmedAlways, check, check_now
