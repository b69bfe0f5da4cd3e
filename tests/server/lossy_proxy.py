"""A proxy that lets the server run a command, and then loses the answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

import bson

if TYPE_CHECKING:
    from types import TracebackType

OP_MSG = 2013
HEADER = struct.Struct("<iiii")
QUIET = frozenset({"hello", "ismaster", "isMaster", "ping", "buildInfo", "endSessions"})
"""What the driver says on its own account, between the commands of a run."""


class _Loss(NamedTuple):
    skip: int
    times: int


class LossyProxy:
    """Listens on a port of its own, in front of the server on another.

    Connect with `directConnection=true`: a driver that discovers the replica set goes around it.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._mutex = threading.Lock()
        self._loss = _Loss(0, 0)
        self._seen = 0
        self.lost: list[str] = []
        self.commands: list[str] = []
        self.port: int = self._listener.getsockname()[1]

    def lose(self, *, skip: int, times: int = 1) -> None:
        """Lose the answers to the `times` commands that follow the next `skip`; forget the past."""
        with self._mutex:
            self._loss, self._seen = _Loss(skip, times), 0
            self.lost, self.commands = [], []

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
        self, message: bytes, server: socket.socket, losing: threading.Event
    ) -> None:
        name = _command(message)
        with self._mutex:
            if name is not None and name not in QUIET:
                self.commands.append(name)
                if 0 <= self._seen - self._loss.skip < self._loss.times:
                    self.lost.append(name)
                    losing.set()
                self._seen += 1
        server.sendall(message)


def _forward_answer(message: bytes, client: socket.socket, losing: threading.Event) -> None:
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
            forward(_message(source), target, losing)
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


def _command(message: bytes) -> str | None:
    """Return the command's name: the first key of the body section of an OP_MSG."""
    if HEADER.unpack_from(message)[3] != OP_MSG:
        return None
    at = HEADER.size + 4
    while message[at] == 1:  # A section of documents may come before the body.
        at += 1 + struct.unpack_from("<i", message, at + 1)[0]
    length = struct.unpack_from("<i", message, at + 1)[0]
    return str(next(iter(bson.decode(message[at + 1 : at + 1 + length]))))
