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


ROUTES = (
    Route(
        "status", "/status", Scope.READ, "Show what is applied, pending and failed, and the lock."
    ),
    Route("up", "/up", Scope.RUN, "Apply every pending migration, the lowest number first."),
    Route("down", "/down", Scope.RUN, "Roll back the last applied migration, or the last few."),
    Route("run", "/runs/<run_id>", Scope.READ, "Show the progress of an asynchronous run."),
    Route(
        "run-events",
        "/runs/<run_id>/events",
        Scope.READ,
        "Stream the progress of an asynchronous run as server-sent events.",
    ),
    Route(
        "run-cancel",
        "/runs/<run_id>/cancel",
        Scope.RUN,
        "Request an asynchronous run to stop after the current batch or migration.",
    ),
    Route("history", "/history", Scope.READ, "Show what is recorded, the newest first."),
    Route(
        "events",
        "/history/<version>/events",
        Scope.READ,
        "Show the event log of one migration, the oldest first.",
    ),
    Route("create", "/", Scope.ADMIN, "Create a new migration file."),
    Route(
        "lock-status",
        "/lock/status",
        Scope.READ,
        "Show who holds the lock, since when and until when.",
    ),
    Route("lock-release", "/lock/release", Scope.ADMIN, "Release the lock of any holder."),
    Route(
        "health",
        "/health",
        Scope.READ,
        "Show whether everything is applied; a caller without a token sees only that.",
    ),
    Route("openapi", "/openapi.json", Scope.READ, "Describe this API."),
)
