"""Commands that compare the declared schema with the database. They change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import click

from flask_migrate_mongo.driver.server import DocumentView
from flask_migrate_mongo.files.writing import write_new
from flask_migrate_mongo.model.errors import OutputError, OutputExistsError
from flask_migrate_mongo.reports import comparing
from flask_migrate_mongo.reports.console import out
from flask_migrate_mongo.wiring.comparing import dumped_schema, save_diff, schema_diff

from .output import as_json, command, exit_code, show, state


def _document_in(_: click.Context, __: click.Parameter, path: str | None) -> DocumentView | None:
    if path is None:
        return None
    try:
        with click.open_file(path, encoding="utf-8") as file:
            # Not None for `null`: a file is given.
            return json.load(file) or {}
    except ValueError:
        msg = "The file is not valid JSON."
        raise click.BadParameter(msg) from None


new_only_option = click.option(
    "--new-only",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    callback=_document_in,
    help="Do not count differences that this saved diff has; - reads it from standard input.",
)


@click.group
def schema() -> None:
    """Declare collections and indexes, and compare."""


@command
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it into a new file.",
)
def dump(*, output: Path | None) -> None:
    """Print the database's collections and indexes as a Python module for MIGRATE_SCHEMA.

    Replace each `why="?"` by what the index is for.
    """
    text = dumped_schema(state())
    if output is None:
        out().write(text.removesuffix("\n").split("\n"))
        return
    try:
        write_new(output, text.encode())
    except FileExistsError:
        raise OutputExistsError(output) from None
    except OSError as exc:
        raise OutputError(exc) from exc
    click.echo(output)


@command
@click.option("--strict", is_flag=True, help="Exit with 4 also for what nobody declared.")
@new_only_option
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save what is found, for --new-only. Replaces a saved diff, but no other file.",
)
@as_json
def diff(*, strict: bool, new_only: DocumentView | None, save: Path | None) -> None:
    """Compare the declared collections with the live ones.

    Exits with 4 if something declared is missing or different. What nobody declared is a note.
    """
    found = schema_diff(state(), strict=strict, new_only=new_only)
    if save is not None:
        save_diff(found, save)
    show("schema-diff", comparing.schema_diff, found, exit_code=exit_code(found))


schema.add_command(dump)
schema.add_command(diff)
