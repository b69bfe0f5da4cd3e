"""Loads the airports of the package `airportsdata` into the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import airportsdata
import click
from flask.cli import with_appcontext
from pymongo.errors import ConnectionFailure

from . import mongo

if TYPE_CHECKING:
    from pymongo.database import Database


def database() -> Database[dict[str, Any]]:
    """Get the current application's database; create_app() has checked that there is one."""
    return cast("Database[dict[str, Any]]", mongo.db)


def load(db: Database[dict[str, Any]]) -> int:
    """Load all airports into a database without airports, and count them. Loads all or none."""
    if db.airports.find_one() is not None:
        return 0
    airports = [{"_id": icao, **airport} for icao, airport in airportsdata.load("ICAO").items()]
    # Renamed at the end, so that an interrupted load does not look complete.
    db.airports_incoming.drop()
    db.airports_incoming.insert_many(airports)
    db.airports_incoming.rename("airports", dropTarget=True)
    return len(airports)


@click.command("load-airports")
@with_appcontext
def load_airports() -> None:
    """Load the airports of the world into an empty database."""
    try:
        loaded = load(database())
    except ConnectionFailure as exc:
        msg = (
            f"The database does not answer. Is its server running, and is MONGO_URI right? ({exc})"
        )
        raise click.ClickException(msg) from exc
    if loaded:
        click.echo(f"Loaded {loaded} airports.")
    else:
        click.echo("Nothing to do: the airports are already loaded.")
