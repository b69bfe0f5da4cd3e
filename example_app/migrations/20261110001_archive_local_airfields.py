"""Archive the airfields of the United States that have no IATA code, only the FAA's own.

Nobody flies there by airline. What stays of them is the code, the name and the city: the rest is
deleted, so there is no way back and no down(). The copy comes first, and each half can be repeated.
"""

name = "Archive local airfields"
idempotent = True

LOCAL = {"lid": {"$nin": ["", None]}, "iata": {"$exists": False}}


# migrate: allow MM001 because the rest of each document is deleted for good
def up(db):
    db.airports.aggregate(
        [
            {"$match": LOCAL},
            {"$project": {"name": 1, "city": 1, "archived_at": "$$NOW"}},
            {"$merge": {"into": "archived_airfields", "whenMatched": "keepExisting"}},
        ]
    )
    db.airports.delete_many(LOCAL)
