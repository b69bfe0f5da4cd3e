"""Settles by hand what is recorded of an application's migrations."""

from __future__ import annotations

from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.engine.settling import BaselineReport
from flask_migrate_mongo.model.errors import InvalidRequestError
from flask_migrate_mongo.model.reports import HistoryReport
from flask_migrate_mongo.state import AppState

from .running import runner


def baseline(
    state: AppState, *, to: str | int | None, reason: str, dry_run: bool
) -> BaselineReport:
    """Record pending migrations as applied, without running them."""
    return settling.baseline(runner(state), reason=reason, to=to, dry_run=dry_run)


def resolve(
    state: AppState,
    version: str | int,
    *,
    reason: str,
    applied: bool | None = None,
    accept_file: bool = False,
    forget: bool = False,
) -> HistoryReport:
    """Settle what is recorded of a version, in one of three ways. Raises InvalidRequestError for another number."""
    if (applied is not None) + accept_file + forget != 1:
        msg = "One of `applied`, `accept_file` and `forget` is needed. Nothing was changed."
        raise InvalidRequestError(msg, "Give one of them.")
    acting = runner(state)
    if accept_file:
        record = settling.accept_file(acting, version, reason=reason)
    elif forget:
        record = settling.forget(acting, version, reason=reason)
    else:
        record = settling.resolve(acting, version, applied=bool(applied), reason=reason)
    return HistoryReport((record,), database=acting.server.location)
