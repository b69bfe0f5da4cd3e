"""The command that checks the set-up."""

from __future__ import annotations

from flask_migrate_mongo.reports import examining
from flask_migrate_mongo.wiring.examining import examine

from .output import CHECK_FAILED, as_json, command, show, state


@command
@as_json
def doctor() -> None:
    """Check the server, the rights, the files and the settings.

    Exits with 4 if there is a problem. Writes nothing, and executes no migration's code.
    """
    report = examine(state())
    show("doctor", examining.doctor, report, exit_code=CHECK_FAILED if report.problems else 0)
