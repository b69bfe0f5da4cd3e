"""The endpoints of the API: which request needs which scope."""

from __future__ import annotations

from dataclasses import dataclass

from flask_migrate_mongo.model.access import Scope


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: the action, the request that asks for it, the scope it needs, and what it does."""

    action: str
    method: str
    path: str
    scope: Scope
    summary: str

    @property
    def view(self) -> str:
        """The name of its function in `views`."""
        return self.action.replace("-", "_")


ROUTES = (
    Route(
        "status",
        "GET",
        "/status",
        Scope.READ,
        "Show what is applied, pending and failed, and the lock.",
    ),
    Route(
        "up", "POST", "/up", Scope.RUN, "Apply every pending migration, the lowest number first."
    ),
    Route(
        "down", "POST", "/down", Scope.RUN, "Roll back the last applied migration, or the last few."
    ),
    Route("run", "GET", "/runs/<run_id>", Scope.READ, "Show the progress of an asynchronous run."),
    Route(
        "run-events",
        "GET",
        "/runs/<run_id>/events",
        Scope.READ,
        "Stream the progress of an asynchronous run as server-sent events.",
    ),
    Route(
        "run-cancel",
        "POST",
        "/runs/<run_id>/cancel",
        Scope.RUN,
        "Request an asynchronous run to stop after the current batch or migration.",
    ),
    Route("history", "GET", "/history", Scope.READ, "Show what is recorded, the newest first."),
    Route(
        "events",
        "GET",
        "/history/<version>/events",
        Scope.READ,
        "Show the event log of one migration, the oldest first.",
    ),
    Route("create", "POST", "/", Scope.ADMIN, "Create a new migration file."),
    Route(
        "lock-status",
        "GET",
        "/lock/status",
        Scope.READ,
        "Show who holds the lock, since when and until when.",
    ),
    Route("lock-release", "POST", "/lock/release", Scope.ADMIN, "Release the lock of any holder."),
    Route(
        "health",
        "GET",
        "/health",
        Scope.READ,
        "Show whether everything is applied; a caller without a token sees only that.",
    ),
    Route("openapi", "GET", "/openapi.json", Scope.READ, "Describe this API."),
)
"""The endpoints; the view of an action is the function of its name in `views`, with `_` in place of `-`."""
