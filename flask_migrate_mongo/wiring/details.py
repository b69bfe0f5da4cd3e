"""Finds everything that is known of one version: in its file, its record, and the report of the last rehearsal."""

from __future__ import annotations

import json
from dataclasses import replace

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.model.errors import ConfigurationError
from flask_migrate_mongo.planning.details import VersionDetails, details
from flask_migrate_mongo.planning.plans import Inspector
from flask_migrate_mongo.state import AppState

from .linting import linter

_SHOWN = frozenset(
    (
        "failed",
        "up",
        "down",
        "again",
        "undoes",
        "differences",
        "differencesTotal",
        "collections",
        "estimate",
    )
)
"""What is shown of a rehearsal: a report of another version, or of another program, can lack it."""


def version_details(
    state: AppState, inspector: Inspector, name: str, *, with_source: bool
) -> VersionDetails:
    """Find a version as `details` does. Raises ConfigurationError if the report that is kept cannot be read, too."""
    found = details(inspector, linter(state), name, with_source=with_source)
    return replace(found, rehearsal=_kept(state, found.version))


def _kept(state: AppState, version: int) -> Document | None:
    path = state.settings.rehearsal_report
    if path is None:
        return None
    try:
        report = json.loads(path.read_bytes())
        entries = [each for each in report["migrations"] if each["version"] == str(version)]
        if not entries:
            return None
        shown = {key: entries[0][key] for key in _SHOWN}
        return {**entries[0], **shown, "rehearsedAt": str(report["rehearsedAt"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
        why = f"cannot be read ({exc.strerror})" if isinstance(exc, OSError) else "is no report"
        msg = f"MIGRATE_REHEARSAL_REPORT: {path} {why}."
        raise ConfigurationError(msg, "Delete it, or have it written again: [rehearse].") from exc
