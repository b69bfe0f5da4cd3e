"""Values of documents, as JSON and people read them."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from bson import Decimal128, Int64, MinKey, ObjectId

from flask_migrate_mongo.dry_run import showing

ID = ObjectId("6b02f65a75136b4c091d546a")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (1, 1),
        (Int64(2**40), 2**40),
        (1.5, 1.5),
        ("é", "é"),
        (None, None),
        (ID, {"$oid": "6b02f65a75136b4c091d546a"}),
        (datetime(2026, 11, 22, tzinfo=timezone.utc), {"$date": "2026-11-22T00:00:00Z"}),
        (Decimal128("1.10"), {"$numberDecimal": "1.10"}),
        (MinKey(), {"$minKey": 1}),
        (float("nan"), {"$numberDouble": "NaN"}),
        ({"a": [ID]}, {"a": [{"$oid": "6b02f65a75136b4c091d546a"}]}),
    ],
)
def test_every_value_of_a_document_has_a_form_that_json_holds(given: object, shown: object) -> None:
    assert showing.value(given) == shown
    assert json.loads(json.dumps(showing.document({"x": given}))) == {"x": shown}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "... (201 characters)"),
        (b"x" * 201, "201 bytes"),
        (list(range(21)), [*range(20), "... (21 items)"]),
        ({str(i): i for i in range(21)}, {**{str(i): i for i in range(20)}, "...": "21 fields"}),
        ([["x" * 300] * 30], [[*["x" * 200 + "... (300 characters)"] * 20, "... (30 items)"]]),
    ],
)
def test_what_is_long_is_cut_and_says_how_long_it_is(given: Any, shown: Any) -> None:
    assert showing.value(given) == shown


def test_a_value_is_one_line_of_text() -> None:
    assert showing.text({"a": "one\ntwo"}) == '{"a": "one\\ntwo"}'


def test_a_collation_that_the_index_names_replaces_that_of_the_collection() -> None:
    index = {"name": "x_1", "key": {"x": 1}, "unique": True}
    assert "collation" not in showing.duplicates_query(index)
    simple = {"locale": "simple"}
    assert showing.duplicates_query(index | {"collation": simple})["collation"] == simple
