"""The pages of the application."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, request

from .data import database

views = Blueprint("airports", __name__)

NEARBY = 10
"""The number of airports that a search around a place returns at most."""

Document = dict[str, Any]


@views.get("/")
def index() -> Document:
    return {"try": ["/airports/FRA", "/airports/near?lat=50.03&lon=8.57&km=30", "/countries"]}


@views.get("/airports/<iata>")
def airport(iata: str) -> Document:
    found: Document | None = database().airports.find_one({"iata": iata.upper()})
    if found is None:
        abort(404, f"No airport has the IATA code {iata.upper()}.")
    return found


@views.get("/airports/near")
def near() -> Document:
    lat, lon, km = _number("lat"), _number("lon"), _number("km", default=50)
    if not (-90 <= lat <= 90 and -180 <= lon <= 180 and km >= 0):  # noqa: PLR2004  (degrees)
        abort(400, "lat must be from -90 to 90, lon from -180 to 180, and km at least 0.")
    if "location_2dsphere" not in database().airports.index_information():
        abort(503, "Airports have no location yet. Run `flask --app example_app db-migrate up`.")
    around = {
        "near": {"type": "Point", "coordinates": [lon, lat]},
        "distanceField": "metres",
        "maxDistance": km * 1000,
        "spherical": True,
    }
    found = database().airports.aggregate([{"$geoNear": around}, {"$limit": NEARBY}])
    return {"airports": list(found)}


@views.get("/countries")
def countries() -> Document:
    return {"countries": list(database().countries.find().sort("airports", -1))}


def _number(name: str, default: float | None = None) -> float:
    value = request.args.get(name, default, type=float)
    if value is None:
        abort(400, f"{name} is missing or not a number. Try ?lat=50.03&lon=8.57")
    return value
