"""When two differences of two comparisons are the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.live import IndexUse, LiveCollection, LiveIndex
from flask_migrate_mongo.schema.report import fingerprint

SPEC = {"v": 2, "key": {"a": 1}, "name": "a_1", "unique": True}
PINNED = """
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.live import LiveCollection
from flask_migrate_mongo.schema.report import fingerprint
filters = {"a": {"$in": ["x", "y", "z"]}, "b": {"$gt": 1.5}, "c": True}
index = Index("a", unique=True, partial=filters, collation={"locale": "de"})
[found] = compare([Collection("c", [index])], [LiveCollection("c")]).found
print(fingerprint(found))
"""


def of(
    *declared: Index, live: tuple[dict[str, Any], ...] = (), name: str = "c", **more: Any
) -> list[str]:
    existing = LiveCollection(name, indexes=tuple(map(LiveIndex.of, live)))
    return [
        fingerprint(each)
        for each in compare([Collection(name, declared, **more)], [existing]).found
    ]


def test_a_fingerprint_is_the_same_in_every_process_and_every_release() -> None:
    command = [sys.executable, "-c", PINNED]
    found = {subprocess.check_output(command, text=True).strip() for _ in range(3)}
    assert found == {"f7da1ee5c04f5978"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Index("a", why="x"), Index("a", why="y")),
        (Index("a", partial={"b": 1, "c": 1}), Index("a", partial={"c": 1, "b": 1})),
        (
            Index("a", collation={"locale": "de"}),
            Index("a", collation={"locale": "de", "strength": 3}),
        ),
    ],
)
def test_two_declarations_of_one_index_are_missing_in_the_same_way(
    one: Index, other: Index
) -> None:
    assert of(one) == of(other) != []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Index(["a", "b"], name="x"), Index(["b", "a"], name="x")),
        (Index("a"), Index("a", name="x")),
        (Index("a"), Index("a", unique=True)),
        (Index("a"), Index("a", hidden=True)),
        (Index("a", expire_after=1), Index("a", expire_after=2)),
        (Index("a", partial={"b": 1}), Index("a", partial={"b": True})),
    ],
)
def test_two_indexes_are_not_missing_in_the_same_way(one: Index, other: Index) -> None:
    assert of(one) != of(other)


def test_the_collection_the_kind_and_both_sides_make_a_difference() -> None:
    hidden = {**SPEC, "hidden": True}
    found = [
        *of(Index("a")),
        *of(Index("a", unique=True)),
        *of(Index("a"), name="d"),
        *of(live=(SPEC,)),
        *of(live=(hidden,)),
        *of(Index("a"), live=(SPEC,)),
        *of(Index("a"), live=(hidden,)),
        *of(Index("a", unique=True), live=(hidden,)),
        *of(validator={"a": 1}),
        *of(validator={"a": 2}),
        *of(level="moderate"),
    ]
    assert len(set(found)) == len(found) == 11


def test_what_a_server_adds_and_how_an_index_is_used_make_none() -> None:
    assert of(live=(SPEC,)) == of(live=({**SPEC, "v": 1, "ns": "shop.c", "background": True},))
    german = {"locale": "de", "version": "57.1"}
    newer = {"locale": "de", "version": "60.1"}
    assert of(live=({**SPEC, "collation": german},)) == of(live=({**SPEC, "collation": newer},))
    existing = LiveCollection("c", indexes=(LiveIndex(SPEC),))
    found = compare([Collection("c")], [existing])
    used = found.with_usage({("c", "a_1"): IndexUse(1, 2)})
    assert found != used
    assert fingerprint(found.found[0]) == fingerprint(used.found[0])
