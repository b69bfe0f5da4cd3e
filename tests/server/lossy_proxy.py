"""A proxy that lets the server run a command and then loses the answer, or refuses a command itself."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import bson

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

OP_MSG = 2013
HEADER = struct.Struct("<iiii")
QUIET = frozenset({"hello", "ismaster", "isMaster", "ping", "buildInfo", "endSessions"})
"""What the driver says on its own account, between the commands of a run."""


class _Loss(NamedTuple):
    skip: int
    times: int
    command: str | None

    def counts(self, name: str) -> bool:
        return name not in QUIET if self.command is None else name == self.command


class LossyProxy:
    """Listens on a port of its own, in front of the server on another.

    Connect with `directConnection=true`: a driver that discovers the replica set goes around it.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._mutex = threading.Lock()
        self._loss = _Loss(0, 0, None)
        self._seen = 0
        self.lost: list[str] = []
        self.forbids: Callable[[dict[str, Any]], bool] = lambda _: False
        """Which commands are refused as if the user had no right to them."""
        self.port: int = self._listener.getsockname()[1]

    def lose(self, *, skip: int = 0, times: int = 1, command: str | None = None) -> None:
        """Lose the answers to the `times` commands that follow the next `skip`; forget the past.

        Only those of one name are counted and lost if `command` is given.
        """
        with self._mutex:
            self._loss, self._seen = _Loss(skip, times, command), 0
            self.lost = []

    def __enter__(self) -> LossyProxy:  # noqa: PYI034  (Self is not in Python 3.10)
        """Listen."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        """Accept no more connections; those that are open end with their client."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                return
            losing = threading.Event()
            for source, target, forward in (
                (client, server, self._forward_command),
                (server, client, _forward_answer),
            ):
                arguments = (source, target, forward, losing)
                threading.Thread(target=_pump, args=arguments, daemon=True).start()

    def _forward_command(
        self, message: bytes, server: socket.socket, client: socket.socket, losing: threading.Event
    ) -> None:
        command = _command(message)
        if command is not None and self.forbids(command):
            client.sendall(_refusal(message))
            return
        name = None if command is None else str(next(iter(command)))
        with self._mutex:
            if name is not None and self._loss.counts(name):
                if 0 <= self._seen - self._loss.skip < self._loss.times:
                    self.lost.append(name)
                    losing.set()
                self._seen += 1
        server.sendall(message)


def _forward_answer(
    message: bytes, client: socket.socket, _: socket.socket, losing: threading.Event
) -> None:
    if losing.is_set():
        raise EOFError
    client.sendall(message)


def _pump(
    source: socket.socket,
    target: socket.socket,
    forward: object,
    losing: threading.Event,
) -> None:
    assert callable(forward)
    with contextlib.suppress(EOFError, OSError):
        while True:
            forward(_message(source), target, source, losing)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def _message(source: socket.socket) -> bytes:
    header = _exactly(source, HEADER.size)
    length = HEADER.unpack(header)[0]
    return header + _exactly(source, length - HEADER.size)


def _exactly(source: socket.socket, wanted: int) -> bytes:
    received = bytearray()
    while len(received) < wanted:
        chunk = source.recv(wanted - len(received))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)


def _command(message: bytes) -> dict[str, Any] | None:
    """Return the body section of an OP_MSG, whose first key is the command's name."""
    if HEADER.unpack_from(message)[3] != OP_MSG:
        return None
    at = HEADER.size + 4
    while message[at] == 1:  # A section of documents may come before the body.
        at += 1 + struct.unpack_from("<i", message, at + 1)[0]
    length = struct.unpack_from("<i", message, at + 1)[0]
    found: dict[str, Any] = bson.decode(message[at + 1 : at + 1 + length])
    return found


def _refusal(message: bytes) -> bytes:
    """Answer that the user may not run this command."""
    error = {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized"}
    body = bytes(5) + bson.encode(error)
    return HEADER.pack(HEADER.size + len(body), 0, HEADER.unpack_from(message)[1], OP_MSG) + body
