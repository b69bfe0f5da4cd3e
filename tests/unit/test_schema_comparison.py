"""What differs between declared and live collections, and what is only a note or nothing at all."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from bson import json_util
from bson.int64 import Int64

from flask_migrate_mongo.interfaces.schemas import document
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import (
    DifferenceKind,
    SchemaDiff,
    SchemaDifference,
    Way,
    changed_paths,
    compare,
)
from flask_migrate_mongo.schema.live import IndexUse, LiveCollection, LiveIndex
from flask_migrate_mongo.schema.meanings import sentence
from tests.server.replay import RECORDED

ID = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
DAY = 86_400


def live(*indexes: dict[str, Any], kind: str = "collection", **options: object) -> LiveCollection:
    return LiveCollection("c", kind, options, tuple(map(LiveIndex.of, (ID, *indexes))))


def spec(name: str = "a_1", **options: object) -> dict[str, Any]:
    return {"v": 2, "key": {"a": 1}, "name": name, **options}


def diff(declared: Collection, existing: LiveCollection) -> tuple[SchemaDifference, ...]:
    return compare([declared], [existing]).found


def kinds(declared: Collection, existing: LiveCollection) -> list[DifferenceKind]:
    return [each.kind for each in diff(declared, existing)]


def only(declared: Collection, existing: LiveCollection) -> SchemaDifference:
    (found,) = diff(declared, existing)
    return found


def changes(found: SchemaDifference) -> list[tuple[str, object, object, Way]]:
    return [(each.option, each.declared, each.live, each.way) for each in found.changes]


# --- indexes


def test_what_is_as_declared_is_neither_a_difference_nor_a_note() -> None:
    assert diff(Collection("c", [Index("a")]), live(spec())) == ()


def test_a_missing_index_is_a_difference() -> None:
    found = only(Collection("c", [Index("a", unique=True, why="logins")]), live())
    assert (found.kind, found.index_name, found.is_note) == (
        DifferenceKind.MISSING_INDEX,
        "a_1",
        False,
    )
    assert sentence(found) == (
        "c a_1: The index does not exist. Duplicates are accepted. It is for: logins."
    )


def test_an_index_under_another_name_is_a_note_that_warns_of_hints() -> None:
    found = only(Collection("c", [Index("a")]), live(spec("other")))
    assert (found.kind, found.index_name, found.live_name) == (
        DifferenceKind.OTHER_NAME,
        "a_1",
        "other",
    )
    assert found.is_note
    assert "hint()" in sentence(found)


def test_an_index_that_nobody_declared_is_a_note_with_its_size_and_use() -> None:
    report = compare([Collection("c")], [live(spec())])
    assert report.differences == ()
    (note,) = report.with_usage({("c", "a_1"): IndexUse(1_500_000, 3)}).notes
    assert note.kind is DifferenceKind.UNDECLARED_INDEX
    assert sentence(note) == "c a_1: The index is not declared (1.5 MB, used 3 times)."
    (note,) = report.with_usage({("c", "a_1"): IndexUse(1_500_000)}).notes
    assert "a user with the role clusterMonitor sees" in sentence(note)
    assert sentence(report.notes[0]) == "c a_1: The index is not declared."


@pytest.mark.parametrize(
    ("declared", "existing", "option"),
    [
        (Index("a", unique=True), spec(), "unique"),
        (Index("a"), spec(unique=True), "unique"),
        (Index("a", sparse=True), spec(), "sparse"),
        (Index("a", partial={"x": 1}), spec(), "partialFilterExpression"),
        (
            Index("a", partial={"x": 1}),
            spec(partialFilterExpression={"x": 2}),
            "partialFilterExpression",
        ),
        (Index("a", collation={"locale": "de"}), spec(), "collation"),
        (Index([("a", -1)]), {**spec("a_-1")}, "key"),
        (
            Index("$**", name="w", wildcard_projection={"a": 1}),
            {**spec("w"), "key": {"$**": 1}},
            "wildcardProjection",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_an_index_of_another_identity_is_one_difference_and_is_built_beside(
    declared: Index, existing: dict[str, Any], option: str
) -> None:
    found = only(Collection("c", [declared]), live(existing))
    assert found.kind is DifferenceKind.OTHER_INDEX
    assert [(each.option, each.way) for each in found.changes] == [(option, Way.BESIDE)]
    assert found.live_name == existing["name"]
    assert "under another name" in sentence(found)


def test_a_uuid_in_a_declaration_is_shown() -> None:
    report = compare([Collection("c", [Index("a", partial={"a": UUID("0" * 32)})])], [live(spec())])
    assert '{"a": {"$binary": ' in sentence(report.found[0])
    (change,) = document("schema-diff", report)["differences"][0]["changes"]
    assert change["declared"]["a"]["$binary"]["subType"] == "04"


def test_an_index_with_the_same_key_is_the_one_that_is_replaced() -> None:
    found = only(Collection("c", [Index("a", name="new", unique=True)]), live(spec("old")))
    assert (found.kind, found.live_name) == (DifferenceKind.OTHER_INDEX, "old")
    assert "Build it beside old, then drop old." in sentence(found)


def test_a_name_goes_before_a_key_when_the_replaced_index_is_looked_for() -> None:
    declared = Collection("c", [Index("a", name="x", unique=True), Index("b", name="a_1")])
    pairs = {
        each.index_name: each.live_name
        for each in diff(declared, live(spec(), {"key": {"a": 1}, "name": "s", "sparse": True}))
    }
    assert pairs == {"x": "s", "a_1": "a_1"}


def test_an_index_that_is_as_declared_does_not_count_as_replaced() -> None:
    declared = Collection("c", [Index("a"), Index("a", name="u", unique=True)])
    assert kinds(declared, live(spec())) == [DifferenceKind.MISSING_INDEX]


@pytest.mark.parametrize(
    ("declared", "existing", "expected"),
    [
        (
            Index("a", expire_after=timedelta(days=1)),
            spec(expireAfterSeconds=2 * DAY),
            ("expireAfterSeconds", DAY, 2 * DAY, Way.COLL_MOD),
        ),
        (
            Index("a", expire_after=timedelta(days=1)),
            spec(),
            ("expireAfterSeconds", DAY, None, Way.COLL_MOD),
        ),
        (
            Index("a"),
            spec(expireAfterSeconds=DAY),
            ("expireAfterSeconds", None, DAY, Way.REBUILD),
        ),
        (Index("a", hidden=True), spec(), ("hidden", True, None, Way.COLL_MOD)),
        (Index("a"), spec(hidden=True), ("hidden", None, True, Way.COLL_MOD)),
    ],
    ids=["shorter", "added", "removed", "hidden", "shown"],
)
def test_an_option_that_makes_no_other_index_is_a_difference(
    declared: Index, existing: dict[str, Any], expected: tuple[object, ...]
) -> None:
    found = only(Collection("c", [declared]), live(existing))
    assert found.kind is DifferenceKind.INDEX_OPTION
    assert changes(found) == [expected]


def test_a_shorter_expiry_is_said_to_delete_at_once_and_a_longer_one_is_not() -> None:
    existing = live(spec(expireAfterSeconds=DAY))
    for hours, deletes in ((1, True), (48, False)):
        declared = Collection("c", [Index("a", expire_after=timedelta(hours=hours))])
        assert ("deleted at once" in sentence(only(declared, existing))) is deletes
    assert "from MongoDB 5.1" in sentence(only(declared, live(spec())))


def test_a_text_index_is_one_difference_that_needs_a_gap() -> None:
    existing = {
        "key": {"_fts": "text", "_ftsx": 1},
        "name": "a_text",
        "weights": {"a": 1, "b": 5},
        "default_language": "english",
        "language_override": "language",
        "textIndexVersion": 3,
    }
    keys = [("b", "text"), ("a", "text")]
    same = Index(keys, name="a_text", weights={"b": 5}, default_language="english")
    assert diff(Collection("c", [same]), live(existing)) == ()
    lighter = only(Collection("c", [Index(keys, name="a_text")]), live(existing))
    assert changes(lighter) == [("weights", {"b": 1, "a": 1}, {"a": 1, "b": 5}, Way.REBUILD)]
    moved = only(Collection("c", [Index([("p", 1), *keys])]), live(existing))
    assert moved.kind is DifferenceKind.OTHER_INDEX
    assert {each.way for each in moved.changes} == {Way.REBUILD}
    assert "has to be dropped first" in sentence(moved)


def test_an_index_that_is_being_built_does_not_count_as_present() -> None:
    entry = {"buildUUID": b"u", "spec": spec(unique=True)}
    found = only(Collection("c", [Index("a", unique=True)]), live(entry))
    assert (found.kind, found.is_note) == (DifferenceKind.BUILDING_INDEX, False)
    assert "enforces nothing" in sentence(found)


@pytest.mark.parametrize(
    ("declared", "existing"),
    [
        (Index("a"), spec(sparse=False, background=True, hidden=False)),
        (Index("a"), {**spec(), "key": {"a": 1.0}, "v": 1, "ns": "shop.c"}),
        (Index([("a", Int64(1))]), spec()),
        (Index("a", collation={"locale": "simple"}), spec()),
        (Index([("a", "2d")], options={"bits": 26}), {"key": {"a": "2d"}, "name": "a_2d"}),
        (
            Index([("a", "2dsphere")]),
            {"key": {"a": "2dsphere"}, "name": "a_2dsphere", "2dsphereIndexVersion": 4},
        ),
        (Index("a", expire_after=60), spec(expireAfterSeconds=Int64(60))),
        (Index([("a", "hashed")]), {"key": {"a": "hashed"}, "name": "a_hashed"}),
    ],
    ids=str,
)
def test_what_a_server_adds_or_writes_otherwise_is_no_difference(
    declared: Index, existing: dict[str, Any]
) -> None:
    assert diff(Collection("c", [declared]), live(existing)) == ()


def test_the_index_on_the_id_is_always_there() -> None:
    clustered = {**ID, "clustered": True, "unique": True}
    assert diff(Collection("c", [Index("_id"), Index("a")]), live(clustered, spec())) == ()


def test_the_automatic_index_of_a_time_series_is_no_note_but_may_be_declared() -> None:
    options = {"timeseries": {"timeField": "at", "metaField": "m", "granularity": "seconds"}}
    automatic = {"key": {"m": 1, "at": 1}, "name": "m_1_at_1"}
    existing = live(automatic, kind="timeseries", **options)
    declared = {"timeseries": {"timeField": "at", "metaField": "m"}}
    assert diff(Collection("c", options=declared), existing) == ()
    indexes = [Index(["m", "at"])]
    assert diff(Collection("c", indexes, options=declared), existing) == ()
    others = live({"key": {"m": 1, "at": -1}, "name": "x"}, kind="timeseries", **options)
    assert kinds(Collection("c", options=declared), others) == [DifferenceKind.UNDECLARED_INDEX]


# --- collections


def test_a_missing_collection_is_one_difference() -> None:
    (found,) = compare([Collection("c", [Index("a"), Index("b")])], []).found
    assert (found.kind, found.is_note) == (DifferenceKind.MISSING_COLLECTION, False)
    assert "without its 2 indexes" in sentence(found)


def test_a_collection_that_nobody_declared_is_a_note_and_a_view_is_not() -> None:
    views = LiveCollection("v", "view", {"viewOn": "c"})
    report = compare([Collection("d")], [live(spec()), LiveCollection("d"), views])
    assert [(each.kind, each.collection) for each in report.found] == [
        (DifferenceKind.UNDECLARED_COLLECTION, "c")
    ]
    assert sentence(report.notes[0]) == "c: The collection is not declared (1 index)."


def test_a_view_in_the_place_of_a_collection_is_a_conflict() -> None:
    found = only(Collection("c", [Index("a")]), LiveCollection("c", "view", {"viewOn": "d"}))
    assert found.kind is DifferenceKind.FIXED_OPTION


@pytest.mark.parametrize(
    ("declared", "existing", "option"),
    [
        (Collection("c", options={"capped": True, "size": 4096}), {}, "capped"),
        (Collection("c"), {"capped": True, "size": 4096}, "capped"),
        (
            Collection("c", options={"timeseries": {"timeField": "at"}}),
            {"timeseries": {"timeField": "t"}},
            "timeseries",
        ),
        (Collection("c", collation={"locale": "de"}), {}, "collation"),
        (
            Collection("c", options={"clusteredIndex": {"key": {"_id": 1}, "unique": True}}),
            {},
            "clusteredIndex",
        ),
    ],
    ids=["capped", "uncapped", "timeseries", "collation", "clustered"],
)
def test_an_option_that_is_set_at_the_creation_is_a_conflict_and_no_drop(
    declared: Collection, existing: dict[str, Any], option: str
) -> None:
    found = only(declared, live(**existing))
    assert (found.kind, found.changes[0].option) == (DifferenceKind.FIXED_OPTION, option)
    assert "copy the documents into a new one" in sentence(found)


@pytest.mark.parametrize(
    ("declared", "existing"),
    [
        ({}, {"changeStreamPreAndPostImages": {"enabled": False}}),
        ({}, {"validator": {}, "validationLevel": "strict", "validationAction": "error"}),
        ({}, {"capped": False, "uuid": "x", "autoIndexId": True}),
        (
            {"collation": {"locale": "de"}},
            {"collation": {"locale": "de", "version": "57.1", "strength": 3}},
        ),
        ({"options": {"capped": True, "size": 5000}}, {"capped": True, "size": 5120}),
        (
            {"options": {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}},
            {"clusteredIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_", "unique": True}},
        ),
        (
            {"options": {"timeseries": {"timeField": "at", "granularity": "hours"}}},
            {
                "timeseries": {
                    "timeField": "at",
                    "granularity": "hours",
                    "bucketMaxSpanSeconds": 2_592_000,
                }
            },
        ),
        (
            {
                "options": {
                    "timeseries": {
                        "timeField": "at",
                        "bucketMaxSpanSeconds": 60,
                        "bucketRoundingSeconds": 60,
                    }
                }
            },
            {
                "timeseries": {
                    "timeField": "at",
                    "bucketMaxSpanSeconds": 60,
                    "bucketRoundingSeconds": Int64(60),
                }
            },
        ),
        ({"images": True}, {"changeStreamPreAndPostImages": {"enabled": True}}),
        ({"expire_after": timedelta(minutes=1)}, {"expireAfterSeconds": Int64(60)}),
    ],
    ids=str,
)
def test_options_that_mean_the_same_are_no_difference(
    declared: dict[str, Any], existing: dict[str, Any]
) -> None:
    assert diff(Collection("c", **declared), live(**existing)) == ()


@pytest.mark.parametrize(
    ("declared", "existing", "option"),
    [
        ({"validator": {"a": 1}}, {}, "validator"),
        ({}, {"validator": {"a": 1}}, "validator"),
        ({"validator": {"a": 1}, "level": "moderate"}, {"validator": {"a": 1}}, "validationLevel"),
        ({"validator": {"a": 1}, "action": "warn"}, {"validator": {"a": 1}}, "validationAction"),
        ({"images": True}, {}, "changeStreamPreAndPostImages"),
        ({}, {"expireAfterSeconds": 60}, "expireAfterSeconds"),
    ],
    ids=str,
)
def test_an_option_that_coll_mod_changes_is_a_difference(
    declared: dict[str, Any], existing: dict[str, Any], option: str
) -> None:
    found = only(Collection("c", **declared), live(**existing))
    assert (found.kind, found.changes[0].option) == (DifferenceKind.COLLECTION_OPTION, option)
    assert found.changes[0].way is Way.COLL_MOD


def test_a_validator_of_query_operators_is_compared_as_one_of_json_schema_is() -> None:
    one = {"$jsonSchema": {"required": ["b", "a"]}, "n": {"$gt": 1}}
    other = {"$and": [{"n": {"$gt": 1.0}}, {"$jsonSchema": {"required": ["a", "b"]}}]}
    assert diff(Collection("c", validator=one), live(validator=other)) == ()
    assert len(diff(Collection("c", validator=one), live(validator={"n": {"$gt": 1}}))) == 1


def test_the_places_in_which_validators_differ_are_named() -> None:
    declared = {"$jsonSchema": {"required": ["a"], "properties": {"a": {"bsonType": "int"}}}}
    existing = {
        "$jsonSchema": {
            "required": ["a"],
            "properties": {"a": {"bsonType": "long"}},
            "minProperties": 1,
        }
    }
    assert list(changed_paths(declared, existing)) == [
        "$jsonSchema.properties.a.bsonType",
        "$jsonSchema.minProperties",
    ]
    found = only(Collection("c", validator=declared), live(validator=existing))
    assert "validator differs at $jsonSchema.properties.a.bsonType, $jsonSchema" in sentence(found)


# --- declarations


def test_keys_are_a_name_a_list_or_a_mapping() -> None:
    assert Index("a").key == Index(["a"]).key == Index([("a", 1)]).key == {"a": 1}
    assert Index({"a": -1, "b": 1}).key == Index([("a", -1), "b"]).key == {"a": -1, "b": 1}


def test_options_that_are_none_are_not_sent() -> None:
    index = Index(["a", ("b", -1)], options={"bits": None})
    assert index.spec == {"key": {"a": 1, "b": -1}, "name": "a_1_b_-1"}
    assert Collection("c").create_options == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Index([]), "no keys"),
        (lambda: Index("a", expire_after="1d"), "timedelta"),  # type: ignore[arg-type]
        (lambda: Index("a", options={"unique": True}), "write unique="),
        (lambda: Index("a", options={"name": "b"}), "write name="),
        (lambda: Index("a", partial={"x": object()}), "cannot encode"),
        (lambda: Collection("c", level="none"), "none of strict"),
        (lambda: Collection("c", options={"validationLevel": "off"}), "write level="),
        (lambda: Collection("c", [Index("a"), Index("a", hidden=True)]), "would not accept both"),
        (lambda: Collection("c", [Index("a"), Index("b", name="a_1")]), "would not accept both"),
        (
            lambda: Collection(
                "c",
                [Index("a"), Index("a", name="b", collation={"locale": "de"})],
                collation={"locale": "de"},
            ),
            "would not accept both",
        ),
    ],
)
def test_a_declaration_that_no_server_accepts_is_refused(make: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        make()


# --- databases of other tools


def mongoose() -> list[LiveCollection]:
    """Read what mongoose 8 made of its schemas."""
    recorded = json_util.loads((RECORDED / "mongoose.json").read_text("utf-8"))
    return [
        LiveCollection(
            each["name"],
            each["type"],
            each["options"],
            tuple(map(LiveIndex.of, recorded["indexes"][each["name"]])),
        )
        for each in recorded["collections"]
    ]


def test_a_database_that_mongoose_made_is_as_its_schemas_say() -> None:
    declared = [
        Collection(
            "users",
            [
                Index("email", unique=True),
                Index("nick", sparse=True),
                Index("seen", expire_after=timedelta(days=30)),
                Index([("bio", "text")]),
                Index([("where", "2dsphere")]),
                Index(["nick", ("seen", -1)], name="byNick"),
                Index([("seen", -1)], partial={"active": True}),
            ],
        ),
        Collection(
            "orders",
            [
                Index("customer"),
                Index("code", unique=True, collation={"locale": "en", "strength": 2}),
                Index("meta.$**"),
                Index([("customer", "hashed")]),
            ],
            collation={"locale": "de"},
        ),
        Collection("logs", [Index("at")], options={"capped": True, "size": 5000, "max": 10}),
        Collection(
            "readings",
            expire_after=timedelta(days=1),
            options={
                "timeseries": {"timeField": "at", "metaField": "sensor", "granularity": "minutes"}
            },
        ),
    ]
    assert compare(declared, mongoose()) == SchemaDiff((), 4, 12)


def test_differences_are_values_that_json_shows() -> None:
    from flask_migrate_mongo.interfaces.schemas import document  # noqa: PLC0415

    declared = Collection("c", [Index("a", unique=True)], validator={"a": 1})
    shown = document("schema-diff", compare([declared], [live(spec())]))
    assert json.loads(json.dumps(shown)) == shown
    assert [each["kind"] for each in shown["differences"]] == ["collection-option", "other-index"]
    assert shown["differences"][1]["changes"] == [
        {"option": "unique", "declared": True, "live": None, "way": "beside"}
    ]


def test_the_defaults_of_another_kind_of_index_are_no_difference() -> None:
    found = only(Collection("c", [Index([("a", "2d")], name="a_1")]), live(spec()))
    assert "bits" not in sentence(found)
    assert [each.option for each in found.changes] == ["key"]
