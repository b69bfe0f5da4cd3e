"""Make IATA codes unique.

Three airports in four have no code, and say so with an empty text. Such a text would count as a
code that they share, so it goes, and the index covers only those that have one.
"""

name = "Blank IATA codes"
idempotent = True


def up(db):
    db.airports.update_many({"iata": ""}, {"$unset": {"iata": ""}})
    db.airports.create_index(
        "iata",
        name="iata_unique",
        unique=True,
        partialFilterExpression={"iata": {"$exists": True}},
    )


def down(db):
    if "iata_unique" in db.airports.index_information():
        db.airports.drop_index("iata_unique")
    db.airports.update_many({"iata": {"$exists": False}}, {"$set": {"iata": ""}})
