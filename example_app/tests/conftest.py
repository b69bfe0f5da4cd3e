"""The application for its tests, with three airports in the database before the migrations."""

from __future__ import annotations

import airportsdata
import pytest
from flask import Flask

from example_app import create_app
from flask_migrate_mongo.testing import Migrations

SOME = ("EDDF", "KJFK", "00AK")
"""With each code that the migrations look at: IATA, IATA and FAA, FAA alone."""


@pytest.fixture
def app() -> Flask:
    """The application; the plugin lets it lead to the database of the test."""
    return create_app("mongodb://localhost:27017/aviation")


@pytest.fixture
def migration_data(migrations: Migrations) -> None:
    """Three airports, as `load-airports` stores them."""
    airports = airportsdata.load("ICAO")
    migrations.db.airports.insert_many([{"_id": icao, **airports[icao]} for icao in SOME])
