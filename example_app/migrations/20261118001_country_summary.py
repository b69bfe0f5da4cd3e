"""Summarize each country: its number of airports, their time zones, and the highest airport."""

name = "Country summary"
idempotent = True


def up(db):
    # `$out` replaces the old collection in one step, after the new one is complete.
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
