"""Give every airport a GeoJSON location, for searches by distance."""

name = "Airport location"
idempotent = True


def up(db):
    point = {"type": "Point", "coordinates": ["$lon", "$lat"]}
    db.airports.update_many({"location": {"$exists": False}}, [{"$set": {"location": point}}])
    db.airports.create_index([("location", "2dsphere")])


def down(db):
    # Drop the index first: otherwise the server updates it for each changed location.
    if "location_2dsphere" in db.airports.index_information():
        db.airports.drop_index("location_2dsphere")
    db.airports.update_many({"location": {"$exists": True}}, {"$unset": {"location": ""}})
