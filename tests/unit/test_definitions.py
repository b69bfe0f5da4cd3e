"""Index definitions: the same, in conflict, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import OperationFailure

from flask_migrate_mongo.dry_run.forecast.definitions import already, as_kept, check, special

Index = dict[str, Any]

X: Index = {"key": {"x": 1}, "name": "x_1"}
GERMAN = {"locale": "de"}
AS_STORED = {
    "locale": "de",
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 3,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
    "version": "57.1",
}


def code_of(there: Index, wanted: Index) -> int | None:
    """The server's code for a conflict, 0 when the index is there already, None when it is new."""
    kept = as_kept(there)
    try:
        return None if already({kept["name"]: kept}, as_kept(wanted)) is None else 0
    except OperationFailure as exc:
        return exc.code


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (X, 0),
        ({**X, "key": {"x": 1.0}}, 0),
        ({**X, "background": True}, 0),
        ({**X, "hidden": True}, 0),
        ({**X, "unique": False}, 0),
        ({**X, "name": "other"}, 85),
        ({**X, "expireAfterSeconds": 1}, 85),
        ({**X, "name": "other", "expireAfterSeconds": 1}, 85),
        ({**X, "unique": True}, 86),
        ({**X, "sparse": True}, 86),
        ({**X, "collation": GERMAN}, 86),
        ({**X, "partialFilterExpression": {"y": 1}}, 86),
        ({**X, "key": {"y": 1}}, 86),
        ({**X, "key": {"x": -1}}, 86),
        ({**X, "name": "other", "unique": True}, None),
        ({**X, "name": "other", "collation": GERMAN}, None),
        ({**X, "name": "other", "key": {"x": -1}}, None),
    ],
)
def test_an_index_beside_another(wanted: Index, code: int | None) -> None:
    assert code_of(X, wanted) == code


def test_the_order_of_the_fields_of_a_key_counts() -> None:
    one = {"key": {"x": 1, "y": 1}, "name": "n"}
    assert code_of(one, {**one, "key": {"y": 1, "x": 1}}) == 86


def test_a_collation_is_the_same_with_its_defaults_spelled_out() -> None:
    assert code_of({**X, "collation": AS_STORED}, {**X, "collation": GERMAN}) == 0
    assert (
        code_of({**X, "collation": AS_STORED}, {**X, "collation": {**GERMAN, "strength": 2}}) == 86
    )


def test_an_index_has_its_collection_s_collation_unless_it_has_its_own() -> None:
    assert as_kept(X, GERMAN)["collation"]["locale"] == "de"
    assert "collation" not in as_kept({**X, "collation": {"locale": "simple"}}, GERMAN)
    assert as_kept({**X, "collation": {"locale": "en"}}, GERMAN)["collation"]["locale"] == "en"


def test_there_are_no_more_than_64_indexes() -> None:
    there = {f"{n}": {"key": {f"f{n}": 1}, "name": f"{n}"} for n in range(64)}
    with pytest.raises(OperationFailure) as caught:
        already(there, as_kept(X))
    assert caught.value.code == 67
    del there["0"]
    assert already(there, as_kept(X)) is None


def test_that_of_the_id_is_always_there_and_has_no_options() -> None:
    own = as_kept({"key": {"_id": 1}, "name": "_id_1"})
    assert own["name"] == "_id_"
    assert already({"_id_": own}, own) == own
    check(own)
    with pytest.raises(OperationFailure) as caught:
        check({**own, "unique": True})
    assert caught.value.code == 197


@pytest.mark.parametrize(
    "refused",
    [
        {"key": {"x": 1, "y": 1}, "expireAfterSeconds": 1},
        {"key": {"x": 1}, "sparse": True, "partialFilterExpression": {"x": 1}},
        {"key": {"x": 1}, "partialFilterExpression": {"x": {"$ne": 1}}},
        {"key": {"x": 1}, "partialFilterExpression": {"$and": [{"x": {"$exists": False}}]}},
        {"key": {"$**": 1}, "unique": True},
        {"key": {"x": "hashed"}, "unique": True},
    ],
)
def test_definitions_that_no_collection_takes(refused: Index) -> None:
    with pytest.raises(OperationFailure) as caught:
        check(refused)
    assert caught.value.code == 67


def test_definitions_that_a_collection_takes() -> None:
    check({"key": {"x": 1}, "partialFilterExpression": {"x": {"$exists": True, "$gt": 1}}})
    check({"key": {"x": "hashed"}})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ({"x": 1}, None),
        ({"x": 1, "at": "2dsphere"}, "2dsphere"),
        ({"$**": 1}, "wildcard"),
        ({"a.$**": 1}, "wildcard"),
    ],
)
def test_kinds_of_index(key: dict[str, Any], kind: str | None) -> None:
    assert special({"key": key}) == kind
