"""Archive the airfields of the United States that have an FAA code but no IATA code.

No airline serves them. The archive keeps the code, the name and the city. The other fields are
deleted and cannot be restored, so there is no down(). The copy is made before the deletion, and
both are safe to repeat.
"""

name = "Archive local airfields"
idempotent = True

LOCAL = {"lid": {"$nin": ["", None]}, "iata": {"$exists": False}}


# migrate: allow MM001 because the other fields are deleted on purpose
def up(db):
    db.airports.aggregate(
        [
            {"$match": LOCAL},
            {"$project": {"name": 1, "city": 1, "archived_at": "$$NOW"}},
            {"$merge": {"into": "archived_airfields", "whenMatched": "keepExisting"}},
        ]
    )
    db.airports.delete_many(LOCAL)
