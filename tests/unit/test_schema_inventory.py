"""Every collection and index, with whether its declared side and its live one agree."""

from __future__ import annotations

from datetime import datetime, timezone

from flask_migrate_mongo.model.values import INDEX_DROPPED, Event
from flask_migrate_mongo.schema import Collection, Index, SearchIndex
from flask_migrate_mongo.schema.comparison import DifferenceKind, compare
from flask_migrate_mongo.schema.inventory import Agreement, InventoryCollection, inventory
from flask_migrate_mongo.schema.live import IndexUse, LiveCollection, LiveIndex, Scanned, Usage
from flask_migrate_mongo.schema.search import LiveSearchIndex

ID = LiveIndex({"v": 2, "key": {"_id": 1}, "name": "_id_"})


def index(name: str, *, building: bool = False, **options: object) -> LiveIndex:
    return LiveIndex({"v": 2, "key": {name: 1}, "name": f"{name}_1", **options}, building)


def listed(
    declared: list[Collection], live: list[LiveCollection]
) -> dict[str, InventoryCollection]:
    usage: Usage = {("users", "a_1"): IndexUse(4096, 7)}
    found = inventory(declared, live, compare(declared, live), usage, {"users": Scanned(30, 40)})
    return {each.name: each for each in found}


def test_each_index_says_how_its_two_sides_agree() -> None:
    users = Collection("users", [Index(name) for name in ("a", "b", "c", "d")])
    live = LiveCollection(
        "users",
        indexes=(
            ID,
            index("a"),
            index("b", expireAfterSeconds=60),
            index("c", building=True),
            index("e"),
        ),
    )
    found = {each.name: each for each in listed([users], [live])["users"].indexes}
    assert {name: each.agreement for name, each in found.items()} == {
        "a_1": Agreement.SAME,
        "b_1": Agreement.DIFFERENT,
        "c_1": Agreement.BUILDING,
        "d_1": Agreement.MISSING,
        "e_1": Agreement.UNDECLARED,
        "_id_": Agreement.AUTOMATIC,
    }
    assert found["a_1"].use == IndexUse(4096, 7)
    assert {name: each.build for name, each in found.items() if each.build} == {"c_1": (30, 40)}
    assert found["d_1"].live is None
    assert found["e_1"].declared is None


def test_an_index_that_a_migration_dropped_and_that_is_there_again_is_listed() -> None:
    users, live = Collection("users"), LiveCollection("users", indexes=(ID, index("a")))
    dropped = Event(INDEX_DROPPED, datetime(2026, 11, 2, tzinfo=timezone.utc), 1, {})
    diff = compare([users], [live]).with_dropped({("users", "a_1"): dropped})
    assert [each.kind for each in diff.differences] == [DifferenceKind.RETURNED_INDEX]
    [found] = inventory([users], [live], diff, {}, {})
    assert {each.name: each.agreement for each in found.indexes} == {
        "_id_": Agreement.AUTOMATIC,
        "a_1": Agreement.UNDECLARED,
    }


def test_a_collection_whose_search_indexes_no_server_has_is_the_same() -> None:
    films = Collection("films", search_indexes=[SearchIndex({"mappings": {"dynamic": True}})])
    assert listed([films], [LiveCollection("films")])["films"].agreement is Agreement.SAME


def test_each_search_index_says_how_its_two_sides_agree_and_how_far_the_server_is() -> None:
    definition = {"mappings": {"dynamic": True}}
    films = Collection(
        "films",
        search_indexes=[
            SearchIndex(definition, name=name, why="the search page")
            for name in ("same", "other", "built", "gone")
        ],
    )
    live = LiveCollection(
        "films",
        indexes=(ID,),
        search_indexes=(
            LiveSearchIndex("same", "search", definition),
            LiveSearchIndex("other", "search", {"mappings": {"dynamic": False}}),
            LiveSearchIndex("built", "search", definition, "BUILDING", queryable=False),
            LiveSearchIndex("new", "vectorSearch", {"fields": []}),
        ),
    )
    found = {each.name: each for each in listed([films], [live])["films"].search_indexes}
    assert {name: each.agreement for name, each in found.items()} == {
        "same": Agreement.SAME,
        "other": Agreement.DIFFERENT,
        "built": Agreement.BUILDING,
        "gone": Agreement.MISSING,
        "new": Agreement.UNDECLARED,
    }
    assert (found["built"].status, found["built"].queryable) == ("BUILDING", False)
    assert (found["gone"].status, found["gone"].live) == (None, None)
    assert (found["new"].kind, found["new"].declared) == ("vectorSearch", None)
    assert found["same"].why == "the search page"


def test_a_search_index_that_no_server_can_have_is_unsupported_and_one_without_its_collection_missing() -> (
    None
):
    films = Collection("films", search_indexes=[SearchIndex({"mappings": {"dynamic": True}})])
    unsupported = listed([films], [LiveCollection("films")])["films"]
    missing = listed([films], [])["films"]
    assert [each.agreement for each in unsupported.search_indexes] == [Agreement.UNSUPPORTED]
    assert [each.agreement for each in missing.search_indexes] == [Agreement.MISSING]


def test_a_collection_is_the_same_missing_different_or_undeclared() -> None:
    declared = [
        Collection("same"),
        Collection("gone", [Index("a")]),
        Collection("other", level="off"),
    ]
    live = [
        LiveCollection("same", options={"uuid": 1}),
        LiveCollection("other"),
        LiveCollection("new"),
    ]
    found = listed(declared, live)
    assert {name: each.agreement for name, each in found.items()} == {
        "same": Agreement.SAME,
        "gone": Agreement.MISSING,
        "other": Agreement.DIFFERENT,
        "new": Agreement.UNDECLARED,
    }
    assert found["same"].live == {}
    assert [each.agreement for each in found["gone"].indexes] == [Agreement.MISSING]
    assert found["new"].declared is None
