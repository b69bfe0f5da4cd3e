"""What commands have in common: options, and printing text, JSON or an error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TextIO, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from flask import current_app
from flask.cli import FlaskGroup, ScriptInfo, with_appcontext
from werkzeug.utils import import_string

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.outages import remedy_of_set_up
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.parsing import slug_of, version_of
from flask_migrate_mongo.model.documents import MigratedDatabase, Report
from flask_migrate_mongo.model.errors import (
    CheckFailedError,
    ConfigurationError,
    InvalidRequestError,
    MigrateError,
    OutputError,
    message_of,
)
from flask_migrate_mongo.process import discard_output, exit_promptly
from flask_migrate_mongo.reports import console

from . import VERBOSE

_T = TypeVar("_T")

CHECK_FAILED = CheckFailedError.exit_code
"""The exit code of a command that reports, rather than raises, what it found."""

SILENT_SECONDS = 2
"""How long a command waits for its database before it says so."""

_JSON = "flask_migrate_mongo.json"
_NAMED = "flask_migrate_mongo.named"
_STREAM = "flask_migrate_mongo.stream"
_STDOUT, _STDERR = 1, 2


def command(function: Callable[..., None]) -> click.Command:
    """Make a command that runs in the application's context."""
    run = with_appcontext(function)

    @wraps(function)
    def load_and_run(**parameters: object) -> None:
        if not current_app:
            _load_app()
        run(**parameters)

    return click.command(load_and_run)


def _load_app() -> None:
    """Load the application. Raises ConfigurationError if it cannot make its MongoDB client."""
    try:
        click.get_current_context().ensure_object(ScriptInfo).load_app()
    except Exception as exc:
        *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
        # The driver also raises errors that are not its own, such as that of a file that is missing.
        if frame.f_globals["__name__"].partition(".")[0] != "pymongo":
            raise
        seen = message_of(exc).rstrip(".")
        msg = f"The application cannot make its MongoDB client: {seen}."
        remedy = f"Check its connection string, such as MONGO_URI. {remedy_of_set_up(seen)}"
        raise ConfigurationError(msg, remedy) from exc


def note_format(ctx: click.Context, _: click.Parameter, value: _T) -> _T:
    """Note whether the output is JSON, for results and for errors."""
    ctx.meta[_JSON] = value in {True, "json"}
    if ctx.meta[_JSON] and not ctx.resilient_parsing:
        ctx.meta[_STREAM] = ctx.find_root().with_resource(_only_the_document())
    return value


@contextlib.contextmanager
def _only_the_document() -> Iterator[TextIO]:
    """Send to standard error whatever is printed in the block, but for what is written to the yielded stream."""
    stream = sys.stdout
    with contextlib.redirect_stdout(console.lenient(sys.stderr)):
        if stream is not sys.__stdout__ or stream is None or sys.stderr is None:
            # One of the streams is closed, or a test has replaced them.
            yield stream
            return
        # The descriptor, too: child processes, libraries in C and handlers of the log have that alone.
        stream.flush()
        kept = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        try:
            with open(kept, "w", encoding="ascii", closefd=False) as document:
                yield document
        finally:
            stream.flush()
            os.dup2(kept, _STDOUT)
            os.close(kept)


def is_verbose() -> bool:
    """Whether tracebacks are shown."""
    return bool(click.get_current_context().meta.get(VERBOSE))


class _Version(click.ParamType[str]):
    """A version: its number, the beginning of it, or its slug. A shell completes numbers and slugs of the files."""

    name = "version"

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            app = ctx.ensure_object(ScriptInfo).load_app()
            paths = Folder(app_state.of(app).settings.directory).choose(())
        except (Exception, SystemExit):  # noqa: BLE001  (what an application raises is no concern of a prompt)
            return []
        named = [(str(version_of(p.name)), slug_of(p.stem)) for p in paths if version_of(p.name)]
        numbers = [CompletionItem(n, help=slug) for n, slug in named if n.startswith(incomplete)]
        slugs = [CompletionItem(slug, help=n) for n, slug in named if slug.startswith(incomplete)]
        return numbers or slugs


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


@contextlib.contextmanager
def _saying_what_is_waited_for(locate: Callable[[], MigratedDatabase]) -> Iterator[None]:
    """Say on standard error which hosts the block waits for, if it takes long."""
    timer = threading.Timer(
        SILENT_SECONDS, lambda: console.err().say(f"Waiting for {locate()} ...")
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def state() -> app_state.AppState:
    """Get the application's state, for a command that uses its database until the process ends."""
    found = app_state.current()
    context = click.get_current_context()
    context.call_on_close(found.close)
    found.while_waiting = _saying_what_is_waited_for
    context.call_on_close(found.wait_in_silence)
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


def name_database(database: MigratedDatabase) -> None:
    """Print, among the progress, the database that a run is about; not with JSON, which has it."""
    meta = click.get_current_context().meta
    if not meta.get(_JSON):
        console.database(database, console.err())
        # The result names it, too, if it goes somewhere else.
        meta[_NAMED] = console.is_one_place()


def begin_result(database: MigratedDatabase | None) -> None:
    """Print, before the first line of a result, the database that it is about, unless that stands there already."""
    meta = click.get_current_context().meta
    if database is not None and not (meta.get(_JSON) or meta.get(_NAMED)):
        meta[_NAMED] = True
        console.database(database, console.out())


def exit_code(report: Report) -> int:
    """Choose the exit code of a command that reports, rather than raises, what it found."""
    return report.failure.exit_code if report.failure else 0


def show(name: str, text: Callable[[_T], None], what: _T, *, exit_code: int = 0) -> None:
    """Print a result as the JSON document of this name, or as text, and end the command."""
    ctx = click.get_current_context()
    try:
        if ctx.meta.get(_JSON):
            _print_document(name, what)
        else:
            begin_result(getattr(what, "database", None))
            text(what)
    except OutputError as exc:
        discard_output(ctx.meta.get(_STREAM) or sys.stdout)
        console.error(exc)
        exit_code = exit_code or exc.exit_code
    if exit_code:
        ctx.exit(exit_code)


def _print_document(name: str, value: object) -> None:
    # Imported here, since text output need not wait for marshmallow.
    print_json(import_string("flask_migrate_mongo.interfaces.schemas.document")(name, value))


def print_json(document: object) -> None:
    """Print one JSON document."""
    # Escaped to ASCII, which every encoding of a stream can hold; by `str`, since an event log may
    # hold what another version of this package stored.
    stream = click.get_current_context().meta.get(_STREAM)
    console.out(stream).write([json.dumps(document, indent=2, default=str)])


def fail(ctx: click.Context, exc: MigrateError | click.UsageError) -> None:
    """Print an error and end with its exit code."""
    if isinstance(exc, click.UsageError):
        if not ctx.meta.get(_JSON):
            with contextlib.suppress(OSError):
                exc.show()
            ctx.exit(exc.exit_code)
        exc = InvalidRequestError(exc.format_message())
    show("error", console.error, exc, exit_code=exc.exit_code)
