"""The command line: `flask db-migrate …`.

Exports the group `db_migrate`. A command's module is imported when the command is called. May use Click, Flask
and every layer below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup, NoAppException
from werkzeug.utils import import_string

from flask_migrate_mongo.model.errors import ConfigurationError, MigrateError

_SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Apply": {
        "up": "running",
        "down": "running",
        "redo": "running",
        "rehearse": "rehearsing",
        "pause": "running",
        "resume": "running",
        "cancel": "running",
    },
    "Look": {
        "status": "looking",
        "plan": "checking",
        "show": "checking",
        "history": "looking",
        "check": "checking",
        "lock-status": "looking",
        "doctor": "examining",
    },
    "Write": {
        "create": "creating",
        "lint": "linting",
        "schema": "comparing",
        "squash": "creating",
        "renumber": "settling",
    },
    "Repair and take over": {
        "resolve": "settling",
        "baseline": "settling",
        "force-unlock": "running",
        "import-history": "settling",
    },
}
"""The commands in the order of `--help`, each with the module that it is in, under its name with `_` in place of `-`."""

_MODULES: Mapping[str, str] = {
    **{name: module for section in _SECTIONS.values() for name, module in section.items()},
    # The package starts it itself.
    "run-async": "queued",
}

VERBOSE = "flask_migrate_mongo.verbose"
"""Where Click's context has whether more is shown."""

_VERBOSE_OPTIONS = frozenset({"-v", "--verbose"})


class SetUpError(NoAppException):
    """Shows why an application cannot be set up in one line, where Flask's command line loads it."""

    exit_code = ConfigurationError.exit_code

    def __init__(self, cause: ConfigurationError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _LazyGroup(AppGroup):
    """Imports a command when it is called, and turns every error into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (Click's signature)
        return [name for section in _SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        found: click.Command = import_string(
            f"{__name__}.{_MODULES[cmd_name]}.{cmd_name.replace('-', '_')}"
        )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in _MODULES or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        hint = import_string(f"{__name__}.hints.hint")
        # Without the usage, which would stand before the one line that helps.
        raise click.UsageError(hint(name, self.list_commands(ctx)))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # People type -v behind the command, too.
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[VERBOSE] = not _VERBOSE_OPTIONS.isdisjoint(args[:end])
        own = [each for each in args[:end] if each not in _VERBOSE_OPTIONS]
        return super().parse_args(ctx, own + args[end:])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, self.list_commands(ctx)))
        for section, names in _SECTIONS.items():
            found = ((name, self.get_command(ctx, name)) for name in names)
            # Whole sentences, and padded, so that all sections have one width.
            rows = [
                (f"{n:<{longest}}", each.get_short_help_str(1_000)) for n, each in found if each
            ]
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (Click's signature)
        with import_string("flask_migrate_mongo.process.usable_streams")():
            try:
                return super().invoke(ctx)
            except (MigrateError, click.UsageError) as exc:
                error = exc.cause if isinstance(exc, SetUpError) else exc
                return import_string(f"{__name__}.output.fail")(ctx, error)


@click.group("db-migrate", cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    None,
    "--version",
    package_name="flask-migrate-mongo",
    message="Flask-Migrate-Mongo %(version)s",
    help="Show the version of Flask-Migrate-Mongo.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    help="Show more, with tracebacks of errors.",
)
def db_migrate() -> None:
    """Migrate the application's MongoDB database.

    \b
    Exit codes:
      0  done, or nothing to do
      1  a migration failed, or a rehearsal found a problem
      2  the command line is not valid
      3  another process holds the lock
      4  a check found something: `check`, `status --check`, `doctor`, `lint`,
         `schema diff`, `rehearse --fail-on`, or a dry run that could
         execute nothing
      5  refused, because it could do harm
      6  the configuration is wrong, the database does not answer,
         or the result cannot be written
    """  # noqa: D301  (Click's mark for lines that stay as they are)
