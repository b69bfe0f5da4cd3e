"""Store every elevation in feet, for pilots, and in metres.

One transaction changes all airports, because no reader supports both forms at the same time.
"""

name = "Elevation in feet and metres"
transactional = True


def up(db):
    metres = {"$round": [{"$multiply": ["$elevation", 0.3048]}, 1]}
    db.airports.update_many(
        {"elevation": {"$type": "number"}},
        [{"$set": {"elevation": {"feet": "$elevation", "metres": metres}}}],
    )


def down(db):
    db.airports.update_many(
        {"elevation.feet": {"$exists": True}}, [{"$set": {"elevation": "$elevation.feet"}}]
    )
