"""The command that shows the plan of `up`."""

from __future__ import annotations

from flask_migrate_mongo.planning.preview import preview
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.linting import linter
from flask_migrate_mongo.wiring.looking import inspector

from .output import as_json, command, show, state


@command
@as_json
def plan() -> None:
    """Show the plan of `up`, and what lint finds in it.

    Executes no migration's code, takes no lock and writes nothing.
    """
    found = state()
    show("plan", states.plan, preview(inspector(found), linter(found)))
