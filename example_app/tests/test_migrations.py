"""The migrations of the application, tested with the pytest plugin of Flask-Migrate-Mongo."""

from __future__ import annotations

import pytest
from flask import Flask
from pymongo.errors import DuplicateKeyError

from flask_migrate_mongo.testing import *  # noqa: F403  (the tests that fit every project)
from flask_migrate_mongo.testing import Migrations

pytestmark = pytest.mark.usefixtures("migration_data")


def test_after_the_migration_two_airports_cannot_have_one_iata_code(migrations: Migrations) -> None:
    migrations.up_to("blank_iata_codes")
    db = migrations.db
    assert db.airports.find_one({"_id": "00AK"}, {"_id": 0, "iata": 1}) == {}
    with pytest.raises(DuplicateKeyError):
        db.airports.insert_one({"_id": "XXXX", "iata": "FRA"})


def test_an_airfield_that_no_airline_serves_is_archived(migrations: Migrations) -> None:
    migrations.up_before("archive_local_airfields")
    assert migrations.db.archived_airfields.count_documents({}) == 0
    migrations.up_to("archive_local_airfields")
    assert migrations.db.archived_airfields.distinct("_id") == ["00AK"]
    assert sorted(migrations.db.airports.distinct("_id")) == ["EDDF", "KJFK"]


def test_elevations_are_in_metres_and_in_feet_again_after_down(migrations: Migrations) -> None:
    migrations.up_before("elevation_in_feet_and_metres")
    before = migrations.db.airports.find_one("EDDF")
    assert before is not None
    migrations.up(steps=1)
    after = migrations.db.airports.find_one("EDDF")
    assert after is not None
    assert after["elevation"] == {"feet": before["elevation"], "metres": 110.9}
    migrations.down()
    assert migrations.db.airports.find_one("EDDF") == before


def test_the_pages_show_what_the_migrations_made(migrations: Migrations, app: Flask) -> None:
    client = app.test_client()
    assert client.get("/airports/near?lat=50&lon=8.6&km=50").status_code == 503
    migrations.up()
    near = client.get("/airports/near?lat=50&lon=8.6&km=50").get_json()
    assert [airport["iata"] for airport in near["airports"]] == ["FRA"]
    countries = client.get("/countries").get_json()["countries"]
    assert {country["_id"] for country in countries} == {"DE", "US"}
