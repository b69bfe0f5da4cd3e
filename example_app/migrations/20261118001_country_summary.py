"""Sum up each country: how many airports, in which time zones, and the highest of them."""

name = "Country summary"
idempotent = True


def up(db):
    # `$out` puts the new collection in the place of the old one at the very end, all at once.
    db.airports.aggregate(
        [
            {"$sort": {"elevation.feet": -1, "_id": 1}},
            {
                "$group": {
                    "_id": "$country",
                    "airports": {"$sum": 1},
                    "highest": {"$first": {"name": "$name", "elevation": "$elevation"}},
                    "time_zones": {"$addToSet": "$tz"},
                }
            },
            {"$out": "countries"},
        ]
    )


def down(db):
    db.countries.drop()
