"""The demo's server: a separate process. The first command starts it, and later commands find it.

    python -m example_app.embedded start | stop | status | uri

It is the daemon of SecantusDB, which speaks MongoDB's wire protocol. Its licence is GPL-2.0-only, so
the demo runs it as a program and never imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import bson
import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
DATABASE = "aviation"
START_SECONDS = 30
STOP_SECONDS = 15

_OP_MSG = 2013
# The shell ends immediately, so the daemon is not a child of this process. The shell itself writes
# server.json: if this process is killed, the file is still written.
_DETACHED = """
exec_daemon() { exec "$@" </dev/null >>server.log 2>&1; }
exec_daemon "$@" &
printf '{"pid": %d, "port": %d}' "$!" "$PORT" >server.json
"""


class EmbeddedServerError(click.ClickException):
    """The server cannot be started or stopped."""


class Started(NamedTuple):
    """The process and the port of a started server, as `server.json` stores them."""

    pid: int
    port: int

    @property
    def uri(self) -> str:
        """The connection string."""
        return f"mongodb://{HOST}:{self.port}/{DATABASE}"


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """At most one server, with its data and its `server.json`, in a folder.

    The daemon inherits a locked file. The kernel unlocks the file when the daemon ends, for any reason.
    So the lock shows whether the daemon runs; its process id could belong to another process by now.
    """

    folder: Path

    def start(self) -> str:
        """Start the server unless it runs, and get its URI. Raises EmbeddedServerError."""
        with self._alone():
            if not self._lives():
                self._launch()
            if started := self._answering():
                return started.uri
        log = (self.folder / "server.log").read_text(errors="replace")[-1000:]
        msg = f"The server ended at once. Its log:\n{log}\nTry again, or set MONGO_URI."
        raise EmbeddedServerError(msg)

    def stop(self) -> bool:
        """Stop the server and keep its data. False if it does not run."""
        with self._alone():
            if not self._lives():
                return False
            pid = self._started().pid
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _until(lambda: not self._lives(), STOP_SECONDS):
                    return True
        msg = f"The server, process {pid}, does not stop. See {self.folder / 'server.log'}."
        raise EmbeddedServerError(msg)

    def find(self) -> Started | None:
        """Find the server; None if it does not run."""
        with self._alone():
            return self._answering()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time check and act, so that two processes never start two servers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "start.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lives(self) -> bool:
        with (self.folder / "server.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _launch(self) -> None:
        port = _free_port()
        data = str(self.folder.resolve() / "db")
        command = [_daemon(), "--host", HOST, "--port", str(port), "--storage-path", data]
        with (self.folder / "server.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(
                ["/bin/sh", "-c", _DETACHED, "sh", *command, "--log-level", "WARNING"],
                cwd=self.folder,
                env={**os.environ, "PORT": str(port)},
                pass_fds=[lock.fileno()],
                start_new_session=True,
                check=True,
            )

    def _answering(self) -> Started | None:
        """Wait until the server answers; None if it does not run, or ends meanwhile."""
        if not self._lives():
            return None
        started = self._started()
        if not _until(lambda: _answers(started.port) or not self._lives(), START_SECONDS):
            msg = (
                f"The server, process {started.pid}, runs but does not answer. Stop it with "
                "`python -m example_app.embedded stop`, then try again."
            )
            raise EmbeddedServerError(msg)
        return started if self._lives() else None

    def _started(self) -> Started:
        return Started(**json.loads((self.folder / "server.json").read_text()))


DEMO = EmbeddedServer(Path(__file__).resolve().parents[1] / ".mongo-data")


def _daemon() -> str:
    beside = Path(sys.executable).with_name("secantusd-py")
    found = str(beside) if beside.exists() else shutil.which("secantusd-py")
    if found is None:
        msg = "The demo's server is not installed. Run `make demo`, or set MONGO_URI."
        raise EmbeddedServerError(msg)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    """Send a ping in MongoDB's wire protocol; a MongoClient takes half a second longer."""
    body = struct.pack("<IB", 0, 0) + bson.encode({"ping": 1, "$db": "admin"})
    head = struct.pack("<iiii", 16 + len(body), 1, 0, _OP_MSG)
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(head + body)
            return bool(connection.recv(16))
    except OSError:
        return False


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds


@click.command()
@click.argument("action", type=click.Choice(["start", "stop", "status", "uri"]))
def main(action: str) -> None:
    """Start, stop or find the demo's server."""
    if action == "start" and os.environ.get("MONGO_URI"):
        click.echo("MONGO_URI is set: the demo uses that server and starts none.")
        return
    click.echo({"start": _start, "stop": _stop, "status": _status, "uri": _uri}[action]())


def _start() -> str:
    return f"The demo's server answers at {DEMO.start()}"


def _stop() -> str:
    kept = f"Its data stays in {DEMO.folder.name}/."
    return (
        f"Stopped the demo's server. {kept}" if DEMO.stop() else "Nothing to do: it does not run."
    )


def _status() -> str:
    started = DEMO.find()
    if started is None:
        return "The demo's server does not run."
    return f"The demo's server, process {started.pid}, answers at {started.uri}"


def _uri() -> str:
    started = DEMO.find()
    if started is None:
        msg = "The demo's server does not run. Start it: `python -m example_app.embedded start`"
        raise EmbeddedServerError(msg)
    return started.uri


if __name__ == "__main__":
    main()
