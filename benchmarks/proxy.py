"""A proxy that adds latency: the bytes of a client arrive so many milliseconds later.

    python -m benchmarks.proxy PORT MILLISECONDS

prints the port that it listens on. Replies are not delayed, so each round trip takes that much longer.
Delays do not add up: the proxy has latency but no limit of bandwidth.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .environments import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 16


@contextlib.contextmanager
def delaying(port: int, milliseconds: float) -> Iterator[int]:
    """Run the proxy in its own process, in front of a port; yield the port to connect to."""
    command = [sys.executable, "-m", "benchmarks.proxy", str(port), str(milliseconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline())
        finally:
            child.kill()


def serve(port: int, delay: float) -> None:
    """Accept connections until killed."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
            _start(_receive, client, line, delay)
            _start(_deliver, line, server)
            _start(_forward, server, client)


def _start(target: object, *args: object) -> None:
    assert callable(target)
    threading.Thread(target=target, args=args, daemon=True).start()


def _receive(source: socket.socket, line: SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    chunk = b"-"
    while chunk:
        try:
            chunk = source.recv(_CHUNK)
        except OSError:
            chunk = b""
        line.put((time.monotonic() + delay, chunk))


def _deliver(line: SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, chunk = line.get()
            if not chunk:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            target.sendall(chunk)
    _end(target)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    _end(target)


def _end(target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) / 1000)
