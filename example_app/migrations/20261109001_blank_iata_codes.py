"""Make IATA codes unique.

Three of four airports have an empty string as their code. A unique index counts these strings as
duplicates. So the migration removes them, and the index covers only airports with a code.
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
