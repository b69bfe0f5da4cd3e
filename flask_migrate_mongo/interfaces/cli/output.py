"""What commands have in common: options, and printing text, JSON or an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click
from click.core import ParameterSource
from flask.cli import FlaskGroup, with_appcontext
from werkzeug.utils import import_string

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model.errors import InvalidRequestError, MigrateError
from flask_migrate_mongo.process import exit_promptly
from flask_migrate_mongo.reports import words

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_JSON = "flask_migrate_mongo.json"


def command(name: str | None = None) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command that runs in the application's context."""

    def decorate(function: Callable[..., None]) -> click.Command:
        return click.command(name)(with_appcontext(function))

    return decorate


def _json_wanted(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001  (Click calls it)
    ctx.meta[_JSON] = value
    return value


as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_json_wanted,
    help="Print one JSON document instead of text.",
)


def json_format(ctx: click.Context, _: click.Parameter, value: str) -> str:
    """Print errors as JSON, too, if the output is JSON."""
    ctx.meta[_JSON] = value == "json"
    return value


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
    given = [n for n in names if _was_given(ctx, n)]
    if given:
        msg = f"--{given[0]} does not go with this: {', '.join(f'--{n}' for n in names)} {because}."
        raise click.UsageError(msg, ctx)


def _was_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option.replace("-", "_")) is ParameterSource.COMMANDLINE


def show(name: str, text: Callable[[_T], None], what: _T, *, as_json: bool) -> None:
    """Print a result as the JSON document of this name, or as text."""
    if as_json:
        print_document(name, what)
    else:
        text(what)


def print_document(name: str, value: object) -> None:
    """Print the JSON document of this name, one of `schemas.DOCUMENTS`."""
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
        print_document("error", exc)
    else:
        words.error(exc)
    ctx.exit(exc.exit_code)
