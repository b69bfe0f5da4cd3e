"""Where the airports come from."""

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
    """Return the current application's database; create_app() has made sure that there is one."""
    return cast("Database[dict[str, Any]]", mongo.db)


def load(db: Database[dict[str, Any]]) -> int:
    """Load every airport into a database that has none, all or nothing; return how many it loaded."""
    if db.airports.find_one() is not None:
        return 0
    airports = [{"_id": icao, **airport} for icao, airport in airportsdata.load("ICAO").items()]
    # Renamed at the end, so that a load that was cut short is not taken for a complete one.
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
        click.echo("Nothing to do: the airports are loaded.")
