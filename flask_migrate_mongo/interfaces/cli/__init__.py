"""The command line: `flask db-migrate …`.

Exports the group `db_migrate`. A command's module is imported when the command is called. May use Click, Flask
and every layer below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup
from werkzeug.utils import import_string

from flask_migrate_mongo.model.errors import MigrateError

_MODULES: Mapping[str, str] = {
    "status": "looking",
    "plan": "checking",
    "history": "looking",
    "lock-status": "looking",
    "create": "creating",
    "lint": "linting",
    "rehearse": "rehearsing",
    "up": "running",
    "down": "running",
    "pause": "running",
    "resume": "running",
    "cancel": "running",
    "force-unlock": "running",
    "redo": "running",
    "resolve": "settling",
    "baseline": "settling",
    "renumber": "settling",
    "squash": "creating",
    "import-history": "settling",
    "check": "checking",
    "show": "checking",
    "doctor": "examining",
    "run-async": "queued",
}
"""The commands, each with the module that it is in, under its name with `_` in place of `-`."""


class _LazyGroup(AppGroup):
    """Imports a command when it is called, and turns every error into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (Click's signature)
        # Without the command that the package starts itself.
        return [name for name in _MODULES if name != "run-async"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        found: click.Command = import_string(
            f"{__name__}.{_MODULES[cmd_name]}.{cmd_name.replace('-', '_')}"
        )
        return found

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (Click's signature)
        try:
            return super().invoke(ctx)
        except (MigrateError, click.UsageError) as exc:
            return import_string(f"{__name__}.output.fail")(ctx, exc)


@click.group("db-migrate", cls=_LazyGroup)
def db_migrate() -> None:
    """Migrate the application's MongoDB database.

    \b
    Exit codes:
      0  done, or nothing to do
      1  a migration failed, or a rehearsal found a problem
      2  the command line is not valid
      3  another process holds the lock
      4  a check found something: `check`, `status --check`, `doctor`, `lint`,
         `rehearse --fail-on`, or a dry run that could execute nothing
      5  refused, because it could do harm
      6  the configuration is wrong, or the database does not answer
    """  # noqa: D301  (Click's mark for lines that stay as they are)
