"""What commands have in common: options, and printing text, JSON or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NoReturn, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from flask.cli import FlaskGroup, ScriptInfo, with_appcontext
from werkzeug.utils import import_string

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.parsing import slug_of, version_of
from flask_migrate_mongo.model.errors import InvalidRequestError, MigrateError, NoFolderError
from flask_migrate_mongo.process import exit_promptly
from flask_migrate_mongo.reports import console

_T = TypeVar("_T")

CHECK_FAILED = 4
"""The exit code of a command that reports, rather than raises, what it found."""

_JSON = "flask_migrate_mongo.json"


def command(function: Callable[..., None]) -> click.Command:
    """Make a command that runs in the application's context."""
    return click.command(with_appcontext(function))


def note_format(ctx: click.Context, _: click.Parameter, value: _T) -> _T:
    """Note whether the output is JSON, for results and for errors."""
    ctx.meta[_JSON] = value in {True, "json"}
    return value


class _Version(click.ParamType[str]):
    """A version: its number, the beginning of it, or its slug. A shell completes the numbers of the files."""

    name = "version"

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        app = ctx.ensure_object(ScriptInfo).load_app()
        folder = Folder(app_state.of(app).settings.directory)
        try:
            paths = folder.choose(())
        except NoFolderError:
            return []
        numbers = [(str(version_of(p.name)), slug_of(p.stem)) for p in paths if version_of(p.name)]
        return [
            CompletionItem(number, help=slug)
            for number, slug in numbers
            if number.startswith(incomplete)
        ]


VERSION = _Version()

as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=note_format,
    help="Print one JSON document instead of text.",
)


def state() -> app_state.AppState:
    """Get the application's state, for a command that uses its database until the process ends."""
    found = app_state.current()
    context = click.get_current_context()
    context.call_on_close(found.close)
    # Not for `app.test_cli_runner()`, whose process was started for something else. Registered when
    # the command ends, since pymongo is imported by then.
    if isinstance(context.find_root().command, FlaskGroup):
        context.call_on_close(exit_promptly)
    return found


def refuse(*names: str, because: str) -> None:
    """Raise UsageError if one of these options was given."""
    ctx = click.get_current_context()
    for name in names:
        if ctx.get_parameter_source(name.replace("-", "_")) is ParameterSource.COMMANDLINE:
            listed = ", ".join(f"--{n}" for n in names)
            msg = f"--{name} does not go with this: {listed} {because}."
            raise click.UsageError(msg, ctx)


def show(name: str, text: Callable[[_T], None], what: _T, *, exit_code: int = 0) -> None:
    """Print a result as the JSON document of this name, or as text, and end the command."""
    ctx = click.get_current_context()
    if ctx.meta.get(_JSON):
        _print_document(name, what)
    else:
        text(what)
    if exit_code:
        ctx.exit(exit_code)


def _print_document(name: str, value: object) -> None:
    # Imported here, since text output need not wait for marshmallow.
    print_json(import_string("flask_migrate_mongo.interfaces.schemas.document")(name, value))


def print_json(document: object) -> None:
    """Print one JSON document."""
    # Escaped to ASCII, which every encoding of a stream can hold; by `str`, since an event log may
    # hold what another version of this package stored.
    click.echo(json.dumps(document, indent=2, default=str))


def fail(ctx: click.Context, exc: MigrateError | click.UsageError) -> NoReturn:
    """Print an error and end with its exit code."""
    if isinstance(exc, click.UsageError):
        if not ctx.meta.get(_JSON):
            raise exc
        exc = InvalidRequestError(exc.format_message())
    if ctx.meta.get(_JSON):
        _print_document("error", exc)
    else:
        console.error(exc)
    ctx.exit(exc.exit_code)
