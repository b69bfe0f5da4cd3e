"""The views of runs: what would run, what runs, and the forms that start, pause, stop and release.

Each form does what an action of the API does, with its function. It says before what that will do.
"""

from __future__ import annotations

from hashlib import sha256

from flask import Response, request, url_for

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.interfaces.rest.access import may
from flask_migrate_mongo.interfaces.rest.answers import document
from flask_migrate_mongo.interfaces.rest.operations import parse
from flask_migrate_mongo.model.values import Direction, Request
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.wiring import checking, running
from flask_migrate_mongo.wiring import looking as wired
from flask_migrate_mongo.wiring.looking import looking

from . import asked, charts, pages

MOST_LISTED = 50
MOST_STEPS = 500
"""How many steps a page shows: a report can have thousands."""

_CHANGED = (
    "What would run has changed since this page was opened. Nothing was started: read it again."
)
_OTHER_LOCK = (
    "The lock has changed since this page was opened. Nothing was released: read it again."
)
_OTHER_NAME = "This is not the name of the database. Nothing was done."


# --- what runs


def runs() -> Response:
    """List the newest asynchronous runs."""
    state = app_state.current()
    with looking(state):
        found = document("runs", async_runs.newest(state, MOST_LISTED))
    return pages.show("runs.html", found)


def run(run_id: str) -> Response:
    """Show an asynchronous run; its script keeps the page up to date."""
    stored = async_runs.read(app_state.current(), run_id)
    found = document("run", stored)
    report = found["report"]
    steps = found["steps"] if report is None else report["steps"]
    progress = (found["current"] or {}).get("progress")
    values = {
        "run": found,
        "is_over": stored.state.is_over,
        "steps": steps[:MOST_STEPS],
        "more_steps": len(steps[MOST_STEPS:]),
        "done_steps": sum(step["state"] not in _UNDONE for step in steps),
        "progress": progress,
        "line": progress and charts.line(progress["rates"]),
        "may_change": may("run-pause"),
        # Otherwise a stream would keep the only thread of this process from all other requests.
        "streams": request.is_multithread,
    }
    return pages.show("run.html", values)


_UNDONE = frozenset({"waiting", "running", "not-run"})


def run_pause(run_id: str) -> Response:
    """Pause the backfill of a run after its current batch."""
    return _request(run_id, Request.PAUSE)


def run_resume(run_id: str) -> Response:
    """Resume the paused backfill of a run."""
    return _request(run_id, Request.RESUME)


def _request(run_id: str, wanted: Request) -> Response:
    parse(asked.Form, request, "form")
    state = app_state.current()
    async_runs.request(state, run_id, wanted)
    return _to_run(run_id)


def cancel(run_id: str) -> Response:
    """Say what it means to stop a run, and ask whether to."""
    found = async_runs.read(app_state.current(), run_id)
    return pages.show("cancel.html", {"run": document("run", found)})


def run_cancel(run_id: str) -> Response:
    """Request a run to stop."""
    parse(asked.Form, request, "form")
    state = app_state.current()
    async_runs.cancel(state, run_id)
    return _to_run(run_id)


def _to_run(run_id: str) -> Response:
    headers = {**pages.HEADERS, "Location": url_for(".page-run", run_id=run_id)}
    return Response(status=303, headers=headers)


# --- what would run


def plan() -> Response:
    """Show what a run would run, with the forms that start it."""
    state = app_state.current()
    target = Target(**parse(asked.PlanForm, request))
    return _show_plan(target, _planned(state, target))


def up() -> Response:
    """Start a run of `up`, or a dry run of it."""
    return _start(Direction.UP, parse(asked.UpForm, request, "form"))


def down() -> Response:
    """Start a run of `down`, or a dry run of it."""
    return _start(Direction.DOWN, parse(asked.DownForm, request, "form"))


def _start(direction: Direction, given: Document) -> Response:
    state = app_state.current()
    expected, typed = given.pop("expected"), given.pop("typed_name")
    del given["form_token"]
    target = Target(direction, **{n: given[n] for n in ("to", "steps", "batch") if n in given})
    planned = _planned(state, target)
    if _fingerprint(planned) != expected:
        return _show_plan(target, planned, 409, _CHANGED)
    is_named = given["dry_run"] or direction is Direction.UP or _names(planned, typed)
    if not is_named:
        return _show_plan(target, planned, 400, _OTHER_NAME)
    # Its plan is made under the lock, and can be another one until then.
    given[async_runs.EXPECTED] = [step["version"] for step in planned["steps"]]
    return _to_run(async_runs.start(state, direction, given))


def _planned(state: AppState, target: Target) -> Document:
    with looking(state):
        return document("plan", checking.plan(state, target))


def _show_plan(target: Target, planned: Document, status: int = 200, notice: str = "") -> Response:
    steps = planned["steps"]
    values = {
        "plan": planned,
        "steps": steps[:MOST_STEPS],
        "more_steps": len(steps[MOST_STEPS:]),
        "target": target,
        "expected": _fingerprint(planned),
        "may_run": may(planned["direction"]),
        "notice": notice,
    }
    return pages.show("plan.html", values, status)


def _fingerprint(planned: Document) -> str:
    """Name a plan in one word, so that a form starts the plan that its page has shown, or none."""
    versions = [step["version"] for step in planned["steps"]]
    shown = " ".join([_database(planned), planned["direction"], *versions])
    return sha256(shown.encode()).hexdigest()


def _database(found: Document) -> str:
    return str((found["database"] or {}).get("name"))


def _names(found: Document, typed: str) -> bool:
    """Whether somebody typed the name of the database that a document is about."""
    return typed.strip() == _database(found)


# --- the lock


def lock() -> Response:
    """Show who holds the lock, and what it means to release it."""
    return _show_lock(_lock(app_state.current()))


def lock_release() -> Response:
    """Release the lock that the page has shown."""
    state, given = app_state.current(), parse(asked.ReleaseForm, request, "form")
    found = _lock(state)
    if (found["lock"] or {}).get("fence") != given["fence"]:
        return _show_lock(found, 409, _OTHER_LOCK)
    if not _names(found, given["typed_name"]):
        return _show_lock(found, 400, _OTHER_NAME)
    released = running.force_unlock(state, confirmed=True, fence=given["fence"])
    return pages.show("released.html", document("lock-release", released))


def _lock(state: AppState) -> Document:
    with looking(state) as inspector:
        return document("lock-status", wired.lock(inspector))


def _show_lock(found: Document, status: int = 200, notice: str = "") -> Response:
    return pages.show("lock.html", {**found, "notice": notice}, status)
