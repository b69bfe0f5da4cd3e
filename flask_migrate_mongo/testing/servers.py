"""The server of a test session, if no setting names one: SecantusDB in a process of its own, or mongomock."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flask_migrate_mongo.model.errors import ConfigurationError

MONGOMOCK = "mongomock://"
"""In place of a connection string: each test has a mongomock of its own."""

HOST = "127.0.0.1"
START_SECONDS = 30

_PROGRAM = "secantusd-py"
# However the tests end, their end of the pipe is closed then.
_WATCH = 'PATH=/usr/bin:/bin; read -r _; kill -9 "$1"; rm -rf "$2"'
_LISTENING = re.compile(rb"listening on \S+:([0-9]+)")
_LOG_BYTES = 1_000


@contextlib.contextmanager
def local_server() -> Iterator[str]:
    """Start a server until the block ends, and give its connection string, or else MONGOMOCK.

    Raises ConfigurationError if neither is installed, or if the server does not start.
    """
    if program := _program():
        with _started(program) as uri:
            yield uri
    elif importlib.util.find_spec("mongomock"):
        yield MONGOMOCK
    else:
        msg = "There is no server for the tests of migrations, and no mongomock. No test of them can run."
        remedy = "Set MIGRATE_TEST_URI=mongodb://localhost:27017, or install a server: `pip install 'flask-migrate-mongo[test,demo]'`."
        raise ConfigurationError(msg, remedy)


def _program() -> str | None:
    beside = Path(sys.executable).with_name(_PROGRAM)
    return str(beside) if beside.exists() else shutil.which(_PROGRAM)


@contextlib.contextmanager
def _started(program: str) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="migrate-test-"))
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(  # noqa: S603  (the program of the extra `demo`)
            [program, "--host", HOST, "--port", "0", "--storage-path", str(folder / "db")],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # Ctrl-C ends the tests, which need their server until they have ended.
            start_new_session=True,
        )
    with server, _watching(server, folder):
        yield f"mongodb://{HOST}:{_port(server, log)}/"


def _watching(server: subprocess.Popen[bytes], folder: Path) -> subprocess.Popen[bytes]:
    """Start what kills the server and deletes its data as soon as this process closes it, or ends."""
    return subprocess.Popen(  # noqa: S603  (our own script)
        ["/bin/sh", "-c", _WATCH, "sh", str(server.pid), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the server listens on the port that it chose. Raises ConfigurationError."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        if found := _LISTENING.search(log.read_bytes()):
            return int(found[1])
        time.sleep(0.02)
    said = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
    msg = f"The server of the tests, {_PROGRAM}, does not start. Its log:\n{said}"
    raise ConfigurationError(
        msg, "Name another server: MIGRATE_TEST_URI=mongodb://localhost:27017."
    )
