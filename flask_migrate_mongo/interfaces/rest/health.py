"""Whether everything is applied, for callers who may see the figures, and for those who may not."""

from __future__ import annotations

from flask_migrate_mongo.model.errors import MigrateError
from flask_migrate_mongo.model.values import Survey
from flask_migrate_mongo.process import elapsed
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.wiring.looking import looking

REMEMBERED_SECONDS = 1


def survey(state: AppState) -> Survey:
    """Read the state of every migration. Raises as `Inspector.status` does."""
    with looking(state) as inspector:
        return inspector.status().survey


def remembered_survey(state: AppState) -> Survey:
    """Read it at most once a second, since anybody may ask. Raises as `survey` does.

    One request looks, and those that come meanwhile wait for its result: a database that hangs costs each of them
    no more than one look.
    """
    with state.look_mutex:
        if state.last_look is None or elapsed() - state.last_look[0] > REMEMBERED_SECONDS:
            seen = _seen(state)
            state.last_look = (elapsed(), seen)
        seen = state.last_look[1]
    if isinstance(seen, MigrateError):
        # Without the traceback, which would grow with each raise.
        raise seen.with_traceback(None)
    return seen


def _seen(state: AppState) -> Survey | MigrateError:
    try:
        return survey(state)
    except MigrateError as exc:
        return exc
