"""Give every airport a GeoJSON location, so that it can be found by what is near."""

name = "Airport location"
idempotent = True


def up(db):
    point = {"type": "Point", "coordinates": ["$lon", "$lat"]}
    db.airports.update_many({"location": {"$exists": False}}, [{"$set": {"location": point}}])
    db.airports.create_index([("location", "2dsphere")])


def down(db):
    # The index first: while it is there, each change of a location has to be entered in it.
    if "location_2dsphere" in db.airports.index_information():
        db.airports.drop_index("location_2dsphere")
    db.airports.update_many({"location": {"$exists": True}}, {"$unset": {"location": ""}})
