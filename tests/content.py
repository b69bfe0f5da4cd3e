"""All that is in a database, to be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bson import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.database import Database


class Content(NamedTuple):
    """What a collection holds: documents as bytes by their id, indexes and options."""

    documents: Mapping[bytes, bytes]
    indexes: Mapping[str, Any]
    options: Mapping[str, Any]


class Difference(NamedTuple):
    """How many documents came, changed and went."""

    created: int
    changed: int
    gone: int


def content(db: Database[Any]) -> dict[str, Content]:
    """Return every document, every index and every option of a database."""
    return {
        name: Content(
            {encode({"": d["_id"]}): encode(d) for d in db[name].find()},
            db[name].index_information() if info["type"] == "collection" else {},
            info.get("options", {}),
        )
        for name, info in sorted((each["name"], each) for each in db.list_collections())
    }


def differences(
    before: Mapping[str, Content], after: Mapping[str, Content]
) -> dict[str, Difference]:
    """Return what changed in the documents, by collection; those that stayed as they were are left out."""
    nothing = Content({}, {}, {})
    found = {
        name: _difference(before.get(name, nothing).documents, after.get(name, nothing).documents)
        for name in before.keys() | after.keys()
    }
    return {name: difference for name, difference in found.items() if any(difference)}


def _difference(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> Difference:
    return Difference(
        created=len(after.keys() - before.keys()),
        changed=sum(before[key] != after[key] for key in before.keys() & after.keys()),
        gone=len(before.keys() - after.keys()),
    )
