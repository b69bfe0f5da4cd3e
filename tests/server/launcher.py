"""Starts a server of the tests' own, or a mongod, as processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

from . import mongod

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS = 100
_DAEMON = Path(__file__).with_name("strict_server.py")


class TestServer:
    """One server on a port and a folder of its own, or a replica set; `flags` are the daemon's.

    `lifetime` is how long a transaction may last, in seconds, and `majority` how long a write
    concern of `w: majority` takes, in milliseconds, unless the server is a real one. With `durable`, an
    acknowledged write survives a kill. Without `transactions`, it answers as FerretDB does: it has the name
    of a set, but writes at once, and does not know how to commit. A `newer` one converts indexes to unique ones,
    as MongoDB 6.0 does, and has search indexes, as Atlas does. A `sharded` one answers as the mongos of a cluster.
    """

    __test__ = False

    def __init__(
        self,
        *flags: str,
        lifetime: float = 60,
        majority: float = 2,
        durable: bool = False,
        transactions: bool = True,
        newer: bool = False,
        sharded: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mongo-"))
        self.ports = [
            _free_port() for _ in range(mongod.members(flags) if mongod.executable() else 1)
        ]
        self.port = self.ports[-1]
        self._flags = (*flags, *(["--sync-on-commit"] if durable else []))
        self._lifetime = lifetime
        self._majority = majority
        self._transactions, self._newer, self._sharded = transactions, newer, sharded
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def uri(self) -> str:
        """The connection string; a lost primary is looked for twice a second."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"mongodb://{hosts}/?serverMonitoringMode=poll&heartbeatFrequencyMS=500"

    def start(self) -> TestServer:
        """Start it, again on the same data after a kill, and return when it accepts connections."""
        environ = {
            **os.environ,
            "STRICT_TXN_LIFETIME": str(self._lifetime),
            "STRICT_MAJORITY_MS": str(self._majority),
            "STRICT_TRANSACTIONS": str(int(self._transactions)),
            "STRICT_NEWER": str(int(self._newer)),
            "STRICT_SHARDED": str(int(self._sharded)),
        }
        with (self.folder / "server.log").open("ab") as log:
            for port in self.ports:
                process = subprocess.Popen(
                    self._command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environ,
                )
                self._processes.append(process)
        for port in self.ports:
            self._wait(port)
        if mongod.executable():
            mongod.wait_for_primary(self.ports)
        return self

    def _command(self, port: int) -> list[str]:
        if real := mongod.executable():
            return mongod.command_line(
                real, self.folder, port, self._flags, lifetime=self._lifetime
            )
        return [
            *(sys.executable, str(_DAEMON), "--host", "127.0.0.1", "--port", str(port)),
            *("--storage-path", str(self.folder / "db"), "--log-level", "WARNING"),
            *("--enable-test-commands", *self._flags),
        ]

    def require_auth(self) -> None:
        """Start it again, so that only users who were created get in, each with the rights of its roles.

        The server must be durable, or the users may be lost.
        """
        self.kill()
        self._flags = (*self._flags, "--auth")
        self.start()

    def step_down(self, seconds: int = 12) -> None:
        """Be no primary for a while, as during an election: what runs is ended, writes are refused."""
        with MongoClient[Any](f"mongodb://127.0.0.1:{self.port}/?directConnection=true") as client:
            client.admin.command("replSetStepDown", seconds, force=True)

    def kill(self) -> None:
        """End it with SIGKILL: SIGTERM would take two seconds."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def suspend(self) -> None:
        """Let it hang: it accepts connections, and answers nothing until it is resumed."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def __enter__(self) -> TestServer:  # noqa: PYI034  (Self is not in Python 3.10)
        """Start it."""
        return self.start()

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, port: int) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and all(each.poll() is None for each in self._processes):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=0.2),
            ):
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
