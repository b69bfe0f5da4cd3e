"""The application of the floor: it sends again what ours has sent, and does nothing else.

A copy of this file lies beside the migrations and runs in the environment of ours, which has no
`benchmarks`; it imports nothing of ours either.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
from flask import Flask
from flask_pymongo import PyMongo
from pymongo import monitoring, periodic_executor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo import MongoClient

RECORDING = "commands.bson"


class Recorder(monitoring.CommandListener):
    """Writes down every command with how much its answer held, in a file where the process runs."""

    def __init__(self) -> None:
        self._sent: dict[int, Mapping[str, Any]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Keep it until its answer comes."""
        self._sent[event.request_id] = event.command

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Write it down."""
        self._write(event.request_id, _extent(event.reply))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Write it down: it fails when it is sent again, too, and the floor has no figure."""
        self._write(event.request_id, [])

    def _write(self, request: int, extent: list[int]) -> None:
        line = bson.encode({"command": self._sent.pop(request), "extent": extent})
        with Path(RECORDING).open("ab") as file:
            file.write(line)


def create_app() -> Flask:
    """Make the application without ours, and with one command."""
    app = Flask(__name__)
    app.config["MONGO_URI"] = os.environ["MONGO_URI"]
    mongo = PyMongo(app)

    @app.cli.command("replay")
    def _() -> None:
        # As ours: the driver's exit handler runs after this one, and finds no thread to wait for.
        atexit.register(periodic_executor._EXECUTORS.clear)  # noqa: SLF001
        assert mongo.cx is not None
        _replay(mongo.cx)

    return app


def _replay(client: MongoClient[Any]) -> None:
    with Path(RECORDING).open("rb") as file:
        for line in bson.decode_file_iter(file):
            # The driver puts its own session and cluster time in; the numbers of the retryable
            # writes are sent as recorded.
            command = line["command"]
            reply = client[command["$db"]].command(command)
            if (extent := _extent(reply)) != line["extent"]:
                msg = f"{next(iter(command))} is answered with {extent}, not {line['extent']}"
                raise ValueError(msg)


def _extent(reply: Mapping[str, Any]) -> list[int]:
    """Return how many documents it holds, and how many a write has found and changed."""
    read = len(reply.get("cursor", {}).get("firstBatch", ()))
    return [read, reply.get("n", 0), reply.get("nModified", 0)]
