"""The endpoints of the API: which request needs which scope."""

from __future__ import annotations

from typing import NamedTuple

from flask_migrate_mongo.model.access import Scope


class Route(NamedTuple):
    """One endpoint. Its view is the function of the action's name in `views`, with `_` in place of `-`."""

    action: str
    path: str
    scope: Scope
    summary: str

    @property
    def method(self) -> str:
        """The method of its requests: only what reads is a GET."""
        return "GET" if self.scope is Scope.READ else "POST"


READ, RUN, ADMIN = Scope.READ, Scope.RUN, Scope.ADMIN

ROUTES = (
    Route("status", "/status", READ, "Show what is applied, pending and failed, and the lock."),
    Route("up", "/up", RUN, "Apply every pending migration, the lowest number first."),
    Route("down", "/down", RUN, "Roll back the last applied migration, or the last few."),
    Route("run", "/runs/<run_id>", READ, "Show the progress of an asynchronous run."),
    Route(
        "run-events",
        "/runs/<run_id>/events",
        READ,
        "Stream the progress of an asynchronous run as server-sent events.",
    ),
    Route(
        "run-cancel",
        "/runs/<run_id>/cancel",
        RUN,
        "Request an asynchronous run to stop after the current batch or migration.",
    ),
    Route("history", "/history", READ, "Show what is recorded, the newest first."),
    Route(
        "events",
        "/history/<version>/events",
        READ,
        "Show the event log of one migration, the oldest first.",
    ),
    Route("create", "/", ADMIN, "Create a new migration file."),
    Route(
        "lock-status", "/lock/status", READ, "Show who holds the lock, since when and until when."
    ),
    Route("lock-release", "/lock/release", ADMIN, "Release the lock of any holder."),
    Route(
        "health",
        "/health",
        READ,
        "Show whether everything is applied; a caller without a token sees only that.",
    ),
    Route("openapi", "/openapi.json", READ, "Describe this API."),
)
