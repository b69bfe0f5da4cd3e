"""Differences between two values, and how values are shown."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.rehearsal.comparison import (
    MISSING,
    RAW,
    Difference,
    different,
    identity,
    shown_value,
    type_name,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"x": 1, "y": [{"p": 1, "q": 2}]}}, {"a": {"y": [{"q": 2, "p": 1}], "x": 1}}),
        ({"a": NAN}, {"a": float("-nan")}),
        ({"a": Int64(1)}, {"a": Int64(1)}),
        ({"a": b"x"}, {"a": Binary(b"x", 0)}),
        ({}, {}),
    ],
)
def test_values_that_mean_the_same_do_not_differ(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert list(different(before, after)) == []


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": 1}, {"a": 1.0}, "a"),
        ({"a": 1}, {"a": Int64(1)}, "a"),
        ({"a": 1.0}, {"a": Decimal128("1")}, "a"),
        ({"a": True}, {"a": 1}, "a"),
        ({"a": "1"}, {"a": 1}, "a"),
        ({"a": b"x"}, {"a": Binary(b"x", 5)}, "a"),
        ({"a": None}, {}, "a"),
        ({}, {"a": None}, "a"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b"),
        ({"a": [1, {"b": 1}]}, {"a": [1, {"b": 2}]}, "a.1.b"),
        ({"a": [1, 2]}, {"a": [2, 1]}, "a.0"),
        ({"a": [1]}, {"a": [1, 2]}, "a"),
        ({"a": {}}, {"a": []}, "a"),
        ({"a": DatetimeMS(1)}, {"a": DatetimeMS(2)}, "a"),
        ({"b": {"a.c": 1}}, {"b": {"a": {"c": 1}}}, 'b."a.c"'),
    ],
)
def test_a_difference_is_found_at_its_path(
    before: dict[str, Any], after: dict[str, Any], path: str
) -> None:
    assert next(found[0] for found in different(before, after)) == path


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12, "12 (int)"),
        (12.0, "12.0 (double)"),
        (Int64(12), "12 (long)"),
        ("x", '"x" (string)'),
        (None, "null (null)"),
        (True, "true (bool)"),
        ([], "[] (array)"),
        ({"a": 1}, '{"a": 1} (object)'),
        (MISSING, "not there"),
        (DatetimeMS(0), '{"$date": "1970-01-01T00:00:00Z"} (date)'),
    ],
)
def test_a_value_is_shown_with_its_type(value: object, shown: str) -> None:
    assert shown_value(value) == shown


def test_a_long_value_is_cut() -> None:
    assert shown_value("x" * 500) == f'"{"x" * 79}... (string)'


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Decimal128("1"), "decimal"),
        (ObjectId(), "objectId"),
        (b"", "binData"),
        (Binary(b"", 4), "binData"),
        (Regex("x"), "regex"),
        (Timestamp(1, 1), "timestamp"),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "date"),
        (MinKey(), "minKey"),
    ],
)
def test_types_have_the_names_of_the_query_language(value: object, name: str) -> None:
    assert type_name(value) == name


def test_of_a_masked_value_only_the_type_is_shown() -> None:
    mask = Mask.of(["secret"])
    assert shown_value("x", "a.secret", mask) == "*** (string)"
    assert shown_value("x", "a.other", mask) == '"x" (string)'


def test_a_difference_reads_as_a_sentence() -> None:
    found = Difference("airports", "index iata_1", "there", "gone")
    assert str(found) == "airports index iata_1: there → gone"


def test_a_text_that_is_not_utf_8_is_compared_and_shown() -> None:
    raw = bson.encode({"_id": "??", "n": 1}).replace(b"??", b"\xff!")
    key = identity(RawBSONDocument(raw, RAW))
    assert bson.decode(key) == {"_id": r"\xff!"}
