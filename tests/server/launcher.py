"""Starts a server of the tests' own, as a process that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS = 30
_DAEMON = Path(__file__).with_name("strict_server.py")


class TestServer:
    """One server on a port and a folder of its own; `flags` are the daemon's.

    `lifetime` is how long a transaction may last, in seconds, and `majority` how long a write
    concern of `w: majority` takes, in milliseconds. With `durable`, an acknowledged write survives a
    kill.
    """

    __test__ = False

    def __init__(
        self,
        *flags: str,
        lifetime: float = 60,
        majority: float = 2,
        durable: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mongo-"))
        self.port = _free_port()
        self._flags = (*flags, *(["--sync-on-commit"] if durable else []))
        self._settings = {
            "STRICT_TXN_LIFETIME": str(lifetime),
            "STRICT_MAJORITY_MS": str(majority),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The connection string; a lost primary is looked for twice a second."""
        return (
            f"mongodb://127.0.0.1:{self.port}/?serverMonitoringMode=poll&heartbeatFrequencyMS=500"
        )

    def start(self) -> TestServer:
        """Start it, again on the same data after a kill, and return when it accepts connections."""
        command = [
            *(sys.executable, str(_DAEMON), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--storage-path", str(self.folder / "db"), "--log-level", "WARNING"),
            *("--enable-test-commands", *self._flags),
        ]
        environ = {**os.environ, **self._settings}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
            )
        self._wait()
        return self

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
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

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

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=0.2),
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
