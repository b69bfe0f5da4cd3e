"""When two indexes are the same: the answers of a real server, and what does not count."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest
from bson import json_util
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from flask_migrate_mongo.schema.identity import Answer, answer, identity, other_options
from flask_migrate_mongo.schema.normal_forms import (
    by_value,
    collation_form,
    conditions,
    json_schema_form,
    projection_form,
)
from tests.server.replay import recorded_index_table

TABLE = recorded_index_table()
LIVE: dict[str, dict[str, Any]] = json_util.loads(json.dumps(TABLE.come_back))
NAN = float("nan")


@pytest.mark.parametrize("first", TABLE.specifications)
def test_an_index_after_another_is_answered_as_a_real_server_answered_it(first: str) -> None:
    answers = {
        second: answer(LIVE[first], specification).value
        for second, specification in TABLE.specifications.items()
    }
    assert len(answers) == 43
    assert answers == {second: TABLE.answer(first, second) for second in answers}


@pytest.mark.parametrize("name", TABLE.specifications)
def test_an_index_is_the_same_as_it_comes_back(name: str) -> None:
    specification = TABLE.specifications[name]
    assert identity(LIVE[name]) == identity(specification)
    assert other_options(LIVE[name]) == other_options(specification)


def test_an_index_inherits_the_collation_of_its_collection_unless_it_names_one() -> None:
    german = {"locale": "de"}
    plain = {"key": {"a": 1}, "name": "a_1"}
    live = {**plain, "collation": LIVE["a other collation"]["collation"]}
    assert answer(live, plain, german) is Answer.EXISTS
    assert answer(live, plain) is Answer.NAME_TAKEN
    assert answer(plain, {**plain, "collation": {"locale": "simple"}}, german) is Answer.EXISTS


def test_the_fields_of_a_text_index_stand_where_the_first_of_them_stands() -> None:
    declared = {"key": {"p": 1, "a": "text", "b": "text", "z": -1}, "name": "t"}
    live = {
        "key": {"p": 1, "_fts": "text", "_ftsx": 1, "z": -1},
        "name": "t",
        "weights": {"b": 1, "a": 1},
        "default_language": "english",
        "language_override": "language",
        "textIndexVersion": 3,
    }
    assert answer(live, declared) is Answer.EXISTS
    moved = {"key": {"a": "text", "p": 1, "z": -1}, "name": "other"}
    assert identity(moved) != identity(live)
    assert answer(live, moved) is Answer.OTHER_NAME_OR_OPTIONS


@pytest.mark.parametrize("version", ["textIndexVersion", "2dsphereIndexVersion", "v", "ns"])
def test_what_a_newer_server_sets_otherwise_is_no_difference(version: str) -> None:
    one, other = ({"key": {"a": 1}, "name": "a", version: number} for number in (2, 3))
    assert identity(one) == identity(other)
    assert other_options(one) == other_options(other)


# --- forms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, Int64(1)),
        (1.5, Decimal128("1.50")),
        (Int64(2), Decimal128("2")),
        (NAN, NAN),
        (NAN, Decimal128("NaN")),
        (float("inf"), Decimal128("Infinity")),
        (b"a", Binary(b"a", 0)),
        (UUID(int=7), Binary(UUID(int=7).bytes, 4)),
        (datetime(2020, 1, 1, tzinfo=timezone.utc), DatetimeMS(1_577_836_800_000)),
        ({"a": [1, {"b": 2}]}, {"a": [1.0, {"b": Int64(2)}]}),
    ],
    ids=repr,
)
def test_values_are_equal_as_the_server_compares_them(one: object, other: object) -> None:
    assert by_value(one) == by_value(other)
    assert hash(by_value(one)) == hash(by_value(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, "1"),
        (None, 0),
        ("a", b"a"),
        ([1, 2], [2, 1]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([], {}),
    ],
    ids=repr,
)
def test_values_differ_as_the_server_compares_them(one: object, other: object) -> None:
    assert by_value(one) != by_value(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2.0, "a": {"$eq": 1}}),
        ({"a": {"$gt": 1, "$lt": 5}}, {"$and": [{"a": {"$lt": 5}}, {"a": {"$gt": 1}}]}),
        ({"$or": [{"a": 1}, {"b": 2}]}, {"$or": [{"b": 2}, {"a": 1}]}),
        ({"$or": [{"a": 1}]}, {"a": 1}),
        ({"a": {"$in": [1, 2]}}, {"a": {"$in": [2, 1]}}),
        ({"a": {"$type": "string"}}, {"a": {"$type": 2}}),
        ({"a": {"$type": ["int", "long"]}}, {"a": {"$type": [18, 16]}}),
        ({"a": {"$exists": True}}, {"a": {"$exists": 1}}),
    ],
    ids=repr,
)
def test_the_order_of_conditions_does_not_count(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert conditions(one) == conditions(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ({"a": 1}, {"b": 1}),
        ({"a": {"$gt": 1}}, {"a": {"$gte": 1}}),
        ({"a": {"$ref": "c", "$id": 1}}, {"a": {"$id": 1, "$ref": "c"}}),
        ({"$or": [{"a": 1}, {"b": 1}]}, {"a": 1, "b": 1}),
        ({"$or": [{"a": 1}, {"b": 1}]}, {"$nor": [{"a": 1}, {"b": 1}]}),
        ({"a": 1}, {}),
    ],
    ids=repr,
)
def test_other_conditions_are_others(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert conditions(one) != conditions(other)


def test_neither_the_order_of_keywords_nor_that_of_required_fields_counts_in_a_json_schema() -> (
    None
):
    one = {
        "bsonType": "object",
        "required": ["a", "b"],
        "properties": {"a": {"enum": [1, "x"]}, "b": {"anyOf": [{"minimum": 1}, {}]}},
    }
    other = {
        "properties": {"b": {"anyOf": [{}, {"minimum": 1.0}]}, "a": {"enum": ["x", 1]}},
        "required": ["b", "a"],
        "bsonType": ["object"],
    }
    assert json_schema_form(one) == json_schema_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"enum": [{"a": 1, "b": 2}]}, {"enum": [{"b": 2, "a": 1}]}),
        ({"items": [{"minimum": 1}, {}]}, {"items": [{}, {"minimum": 1}]}),
        ({"required": ["a"]}, {"required": ["a", "b"]}),
        ({"properties": {"required": {}}}, {"properties": {"required": {"minimum": 1}}}),
        ({"minimum": 1}, {"maximum": 1}),
    ],
    ids=repr,
)
def test_what_a_json_schema_demands_counts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert json_schema_form(one) != json_schema_form(other)


# --- collations and projections, from MongoDB's documentation


@pytest.mark.parametrize(
    ("locale", "filled_in"),
    [
        ("en", {}),
        ("da", {"caseFirst": "upper"}),
        ("mt", {"caseFirst": "upper"}),
        ("da@collation=search", {"normalization": True}),
        ("fr", {}),
        ("fr_CA", {"backwards": True}),
        ("th", {"alternate": "shifted", "normalization": True}),
        ("vi@collation=traditional", {"normalization": True}),
        ("fa_AF", {"normalization": True}),
        ("ko@collation=searchjl", {"normalization": True}),
        ("de@collation=phonebook", {}),
    ],
)
def test_a_collation_is_completed_as_the_server_does_for_its_locale(
    locale: str, filled_in: dict[str, object]
) -> None:
    live = {**LIVE["a collation"]["collation"], "strength": 3, "locale": locale, **filled_in}
    assert collation_form({"locale": locale}) == collation_form(live)
    for option in filled_in:
        usual = {**live, option: LIVE["a collation"]["collation"][option]}
        assert collation_form({"locale": locale}) != collation_form(usual)


def test_no_collation_is_the_simple_one_and_the_version_of_icu_does_not_count() -> None:
    live = LIVE["a collation"]["collation"]
    assert collation_form({"locale": "simple"}) == collation_form(None) == collation_form({})
    assert collation_form({**live, "version": "72.1"}) == collation_form(live)
    assert collation_form({"locale": "en"}) != collation_form(live)
    assert collation_form({"locale": "en", "strength": 2.0}) == collation_form(live)


def test_a_projection_leaves_out_the_id_unless_it_says_otherwise() -> None:
    assert projection_form({"a": 1}) == projection_form({"a": True, "_id": False})
    assert projection_form({"a": {"b": 1}}) == projection_form({"a.b": True})
    assert projection_form({"a": 1, "_id": 1}) != projection_form({"a": 1})
    assert projection_form({"a": 0}) != projection_form({"a": 1})
    assert projection_form({}) is projection_form(None) is None
