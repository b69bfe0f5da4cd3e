"""The application of the floor: it sends the recorded commands again, and does nothing else.

A copy of this file lies beside the migrations and runs in our environment, which has no `benchmarks`. It
imports nothing of this package either.
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
    """Write every command, with the size of its reply, to a file in the working directory."""

    def __init__(self) -> None:
        self._sent: dict[int, Mapping[str, Any]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Keep it until its reply comes."""
        self._sent[event.request_id] = event.command

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Record it."""
        self._write(event.request_id, _extent(event.reply))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Record it. It fails again in the replay, and the floor has no figure."""
        self._write(event.request_id, [])

    def _write(self, request: int, extent: list[int]) -> None:
        line = bson.encode({"command": self._sent.pop(request), "extent": extent})
        with Path(RECORDING).open("ab") as file:
            file.write(line)


def create_app() -> Flask:
    """Make an application without the extension, with one command."""
    app = Flask(__name__)
    app.config["MONGO_URI"] = os.environ["MONGO_URI"]
    mongo = PyMongo(app)

    @app.cli.command("replay")
    def _() -> None:
        # As ours does: the driver's exit handler runs after this one and finds no thread to join.
        atexit.register(periodic_executor._EXECUTORS.clear)  # noqa: SLF001
        assert mongo.cx is not None
        _replay(mongo.cx)

    return app


def _replay(client: MongoClient[Any]) -> None:
    with Path(RECORDING).open("rb") as file:
        for line in bson.decode_file_iter(file):
            # The driver sets its own session and cluster time; the numbers of the retryable writes
            # are sent as recorded.
            command = line["command"]
            reply = client[command["$db"]].command(command)
            if (extent := _extent(reply)) != line["extent"]:
                msg = f"{next(iter(command))} has the reply {extent}, not {line['extent']}"
                raise ValueError(msg)


def _extent(reply: Mapping[str, Any]) -> list[int]:
    """Count the documents in a reply, and those that a write has matched and modified."""
    read = len(reply.get("cursor", {}).get("firstBatch", ()))
    return [read, reply.get("n", 0), reply.get("nModified", 0)]
