"""Give every elevation in feet, as pilots read it, and in metres.

Half the airports in one form and half in the other is what no reader could cope with: it all
happens in one transaction, or not at all.
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
