"""Looks at an application's files and database together with what lint finds."""

from __future__ import annotations

from collections.abc import Iterable

from flask_migrate_mongo.driver.server import DocumentView
from flask_migrate_mongo.planning import gate
from flask_migrate_mongo.planning.plans import EVERYTHING_PENDING, Inspector, ProjectState, Target
from flask_migrate_mongo.planning.preview import Preview, preview
from flask_migrate_mongo.state import AppState

from .comparing import schema_diff
from .linting import linter
from .looking import inspector


def plan(state: AppState, target: Target = EVERYTHING_PENDING) -> Preview:
    """Preview a run. Raises what refuses the plan."""
    return preview(inspector(state), linter(state), target)


def check(
    state: AppState, allow: Iterable[str], new_only: DocumentView | None = None
) -> gate.CheckReport:
    """Compare an application's files, and its schema if it declares one, with its database.

    Problems of these kinds do not count, nor do differences of the schema that the saved diff `new_only` has too.
    """
    settings, allowed = state.settings, tuple(map(gate.Kind, allow))
    declares = settings.schema is not None or new_only is not None
    schema = schema_diff(state, new_only=new_only, with_usage=False) if declares else None
    return gate.check(
        inspector(state),
        linear=settings.linear,
        allowed=allowed,
        linter=linter(state),
        schema=schema,
    )


def quick_check(
    state: AppState, inspector: Inspector, seen: ProjectState | None = None
) -> gate.CheckReport:
    """Compare as `check` does, but without lint and the schema: it reads no more than `status`, or what was `seen`."""
    return gate.check(inspector, linear=state.settings.linear, seen=seen)
