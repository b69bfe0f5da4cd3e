"""The application of a project, served by a real server in processes of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.project import Project

START_SECONDS = 100


def gunicorn(port: int, *options: str) -> list[str]:
    """Return the command line of gunicorn, serving `app:app`; options: `--workers`, `--preload` …"""
    address = f"127.0.0.1:{port}"
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        address,
        "--graceful-timeout",
        "20",
        *options,
        "app:app",
    ]


def uwsgi(port: int, *options: str) -> list[str]:
    """Return the command line of uWSGI, serving `app:app`; options: `--threads`, `--processes` …"""
    program = str(Path(sys.executable).with_name("uwsgi"))
    address = ("--http-socket", f"127.0.0.1:{port}")
    return [program, *address, "--module", "app:app", "--enable-threads", "--die-on-term", *options]


def waitress(port: int) -> list[str]:
    """Return the command line of waitress, serving `app:app`."""
    return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "app:app"]


def flask_run(port: int, *options: str) -> list[str]:
    """Return the command line of Flask's own server, serving `app.py`."""
    return [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port), *options]


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Serving:
    """A server process with all its workers, and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What its processes have written to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def answers(self) -> bool:
        """Whether it answers an HTTP request at all, whatever the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def wait_until_it_listens(self, seconds: float = START_SECONDS) -> None:
        """Wait for its port; nothing has been asked then."""
        end = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < end, f"no port in {seconds} s:\n{self.log}"
                time.sleep(0.01)
            else:
                return

    def wait_until_it_answers(self, seconds: float = START_SECONDS) -> None:
        """Wait for the first answer; fail when the process ends before or takes too long."""
        end = time.monotonic() + seconds
        while not self.answers():
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode}:\n{self.log}"
            )
            assert time.monotonic() < end, f"no answer in {seconds} s:\n{self.log}"
            time.sleep(0.05)


@contextlib.contextmanager
def serving(
    project: Project, command: list[str], port: int, environ: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Start a server in the project's folder; at the end all its processes are killed.

    The project's `app.py` is written first if there is none. Does not wait for an answer.
    """
    project.command()
    log = project.root / f"server-{port}.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=project.root,
            env=project.environ(**(environ or {})),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield Serving(process, port, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
