"""The endpoints of the API and the pages of the dashboard: which request needs which scope."""

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


READ, UP, RUN, ADMIN = Scope

ROUTES = (
    Route("status", "/status", READ, "Show what is applied, pending and failed, and the lock."),
    Route("plan", "/plan", READ, "Show what a run would run, without running it."),
    Route("up", "/up", UP, "Apply every pending migration, the lowest number first."),
    Route("down", "/down", RUN, "Roll back the last applied migration, or the last few."),
    Route("runs", "/runs", READ, "List the newest asynchronous runs."),
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
        UP,
        "Request an asynchronous run to stop after the current batch or migration.",
    ),
    Route(
        "run-pause",
        "/runs/<run_id>/pause",
        UP,
        "Pause the backfill of an asynchronous run after its current batch.",
    ),
    Route(
        "run-resume",
        "/runs/<run_id>/resume",
        UP,
        "Resume the paused backfill of an asynchronous run.",
    ),
    Route(
        "check",
        "/check",
        READ,
        "Compare the database with the files and the declared schema; each problem has its remedy.",
    ),
    Route(
        "show",
        "/show/<version>",
        READ,
        "Show everything that is known of one migration, with its source if requested.",
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
    Route("schema", "/schema", READ, "Compare the declared schema with the database."),
    Route(
        "health",
        "/health",
        READ,
        "Show whether everything is applied; a caller without a token sees only that.",
    ),
    Route("openapi", "/openapi.json", READ, "Describe this API."),
)


class Page(NamedTuple):
    """One page of the dashboard, or one of its forms. It needs the access that the action of the API needs.

    Its view is the function of its name in the `module` of the dashboard. Without an action it holds no data, and everybody may
    read it.
    """

    name: str
    path: str
    action: str | None
    method: str = "GET"
    module: str = "views"

    @property
    def endpoint(self) -> str:
        """Its endpoint in the blueprint, which no action of the API has."""
        return f"page-{self.name}"


PAGES = (
    Page("overview", "/", "status"),
    Page("migration", "/dashboard/migrations/<version>", "show"),
    Page("schema", "/dashboard/schema", "schema"),
    Page("plan", "/dashboard/plan", "plan", module="runs"),
    Page("up", "/dashboard/up", "up", "POST", module="runs"),
    Page("down", "/dashboard/down", "down", "POST", module="runs"),
    Page("runs", "/dashboard/runs", "runs", module="runs"),
    Page("run", "/dashboard/runs/<run_id>", "run", module="runs"),
    Page("run-pause", "/dashboard/runs/<run_id>/pause", "run-pause", "POST", module="runs"),
    Page("run-resume", "/dashboard/runs/<run_id>/resume", "run-resume", "POST", module="runs"),
    Page("cancel", "/dashboard/runs/<run_id>/cancel", "run-cancel", module="runs"),
    Page("run-cancel", "/dashboard/runs/<run_id>/cancel", "run-cancel", "POST", module="runs"),
    Page("lock", "/dashboard/lock", "lock-release", module="runs"),
    Page("lock-release", "/dashboard/lock", "lock-release", "POST", module="runs"),
    Page("asset", "/dashboard/static/<name>", None),
    Page("unknown", "/dashboard/<path:rest>", "status"),
)

BY_ACTION = {route.action: route for route in ROUTES}
BY_ENDPOINT = {page.endpoint: page for page in PAGES}


def page_of(endpoint: str | None) -> Page | None:
    """Find the page of an endpoint; None for the API and all else."""
    return BY_ENDPOINT.get((endpoint or "").rpartition(".")[2])
