"""The views of the dashboard, one function for each page: it builds documents of the API, and a template shows them."""

from __future__ import annotations

from flask import Response, request

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest.access import may
from flask_migrate_mongo.interfaces.rest.answers import document
from flask_migrate_mongo.model.errors import UnknownPathError
from flask_migrate_mongo.model.reports import LockReport
from flask_migrate_mongo.wiring import checking
from flask_migrate_mongo.wiring.comparing import schema_inventory
from flask_migrate_mongo.wiring.details import version_details
from flask_migrate_mongo.wiring.looking import looking

from . import charts, lists, pages, sources

MOST_PROBLEMS = 50
"""How many problems the overview lists."""


def overview() -> Response:
    """Show the state of all migrations, what to do, the lock, and the last batches."""
    state = app_state.current()
    with looking(state) as inspector:
        seen = inspector.look()
        report = inspector.status(seen)
        check = checking.quick_check(state, inspector, seen)
    status = document("status", report)
    rows = lists.listed(status)
    batches = charts.batches(status["applied"])
    months = charts.months(status["applied"])
    asked = request.args.get
    page = lists.page(rows, asked("q", "").strip(), asked("state", ""), asked("page", 1, int))
    problems = document("check", check)["problems"]
    values = {
        "status": status,
        # What is only pending comes last.
        "problems": sorted(problems, key=lambda problem: problem["kind"] == "pending"),
        "most_problems": MOST_PROBLEMS,
        "may_release": may("lock-release"),
        "lock": document("lock-status", LockReport(report.lock)),
        "counts": lists.counts(rows),
        "page": page,
        "batches": batches,
        "batch_bars": charts.bars([(str(each.number), each.took_ms) for each in batches]),
        "month_bars": charts.bars(months),
    }
    return pages.show("overview.html", values)


def migration(version: str) -> Response:
    """Show everything that is known of one migration."""
    state = app_state.current()
    with looking(state) as inspector:
        seen = version_details(state, inspector, version, with_source=True)
    found = document("show", seen)
    texts = {
        file["path"]: sources.lines(file["source"], sources.findings_of(file, found))
        for file in found["files"]
        if file["source"] is not None
    }
    return pages.show("migration.html", {"found": found, "sources": texts})


def schema() -> Response:
    """Show the declared schema beside the live one."""
    state = app_state.current()
    with looking(state):
        found = schema_inventory(state)
    return pages.show("schema.html", {"schema": document("schema", found)})


def asset(name: str) -> Response:
    """Answer with the stylesheet or the script."""
    return pages.asset(name)


def unknown(rest: str) -> Response:  # noqa: ARG001  (Flask passes what the path has)
    """Answer to a path below that of the dashboard without a page."""
    raise UnknownPathError
