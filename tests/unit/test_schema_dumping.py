"""The module that a dump writes: it declares what was live, and formatters leave it as it is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_migrate_mongo.schema import Collection
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.dumping import dump
from flask_migrate_mongo.schema.live import LiveCollection, LiveIndex
from flask_migrate_mongo.schema.normal_forms import by_value
from tests.server.replay import recorded_index_table

RUFF = Path(sys.executable).with_name("ruff")
LIVE: dict[str, dict[str, Any]] = json_util.loads(json.dumps(recorded_index_table().come_back))

needs_ruff = pytest.mark.skipif(not RUFF.exists(), reason="ruff is not installed")


def declared_in(source: str) -> list[Collection]:
    """Execute a module and return what it declares."""
    names: dict[str, Any] = {}
    exec(source, names)
    found: list[Collection] = names["collections"]
    return found


def formatted(source: str, *options: str) -> str:
    command = [str(RUFF), "format", "--isolated", *options, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    return done.stdout


def written(*indexes: dict[str, Any], kind: str = "collection", **options: object) -> str:
    live = LiveCollection("c", kind, options, tuple(map(LiveIndex.of, indexes)))
    source = dump([live], "A test.")
    assert compare(declared_in(source), [live]).found == ()
    return source


@pytest.mark.parametrize("name", LIVE)
def test_a_dumped_index_is_the_one_that_a_real_server_showed(name: str) -> None:
    written(LIVE[name])


@needs_ruff
def test_what_a_real_server_showed_is_dumped_as_ruff_formats_it() -> None:
    lives = [LiveCollection(f"c{n}", indexes=(LiveIndex(s),)) for n, s in enumerate(LIVE.values())]
    source = dump(lives, "A test.")
    assert formatted(source) == source
    assert formatted(source, "--line-length", "120") == source


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"key": {"a": 1}, "name": "a_1"}, 'Index("a", why="?")'),
        ({"key": {"a": 1.0}, "name": "a_1", "v": 1, "ns": "x"}, 'Index("a", why="?")'),
        ({"key": {"a": -1}, "name": "a_-1"}, 'Index([("a", -1)], why="?")'),
        ({"key": {"a": 1}, "name": "x"}, 'Index("a", name="x", why="?")'),
        (
            {"key": {"a": 1}, "name": "a_1", "unique": True, "sparse": False, "hidden": True},
            'Index("a", unique=True, hidden=True, why="?")',
        ),
        (
            {"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 7200},
            'Index("a", expire_after=timedelta(hours=2), why="?")',
        ),
        (
            {"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 0},
            'Index("a", expire_after=timedelta(seconds=0), why="?")',
        ),
        (
            {"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": float("nan")},
            'Index("a", expire_after=float("nan"), why="?")',
        ),
        (LIVE["a text weights"], 'Index([("a", "text")], weights={"a": 5}, why="?")'),
        (LIVE["a text german"], 'Index([("a", "text")], default_language="german", why="?")'),
        (LIVE["a 2d bits"], 'Index([("a", "2d")], options={"bits": 20}, why="?")'),
        (
            LIVE["a collation"],
            'Index("a", name="en", collation={"locale": "en", "strength": 2}, why="?")',
        ),
        (
            {"key": {"a": 1}, "name": "a_1", "prepareUnique": True},
            'Index("a", options={"prepareUnique": True}, why="?")',
        ),
    ],
    ids=str,
)
def test_an_index_is_written_without_what_the_server_adds(spec: dict[str, Any], line: str) -> None:
    (index,) = (
        ast.unparse(node)
        for node in ast.walk(ast.parse(written(spec)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Index"
    )
    assert index == ast.unparse(ast.parse(line))


def test_an_index_says_that_it_does_not_inherit_the_collation_of_its_collection() -> None:
    german = LIVE["a other collation"]["collation"]
    indexes = [
        {"key": {"a": 1}, "name": "a_1", "collation": german},
        {"key": {"b": 1}, "name": "b_1"},
    ]
    source = written(*indexes, collation=german)
    assert 'Index("a", why="?")' in source
    assert 'Index("b", collation={"locale": "simple"}, why="?")' in source
    assert 'collation={"locale": "de"}' in source


@pytest.mark.parametrize(
    "options",
    [
        {"capped": True, "size": 4096, "max": 3},
        {"timeseries": {"timeField": "at", "granularity": "hours"}, "expireAfterSeconds": 60},
        {"clusteredIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_", "unique": True}},
        {"changeStreamPreAndPostImages": {"enabled": True}},
        {"changeStreamPreAndPostImages": {"enabled": False}},
        {"validator": {"a": {"$gt": 1}}, "validationLevel": "moderate", "validationAction": "warn"},
        {"validator": {"$jsonSchema": {"required": ["a"]}}, "validationLevel": "strict"},
        {"storageEngine": {"wiredTiger": {"configString": "block_compressor=zstd"}}},
        {"uuid": Binary(b"0" * 16, 4), "autoIndexId": True},
    ],
    ids=str,
)
def test_every_option_of_a_collection_is_dumped(options: dict[str, Any]) -> None:
    written(**options)


def test_neither_the_id_nor_the_automatic_index_of_a_time_series_is_dumped() -> None:
    series = {"timeField": "at", "metaField": "m"}
    automatic = {"key": {"m": 1, "at": 1}, "name": "m_1_at_1"}
    source = written(LIVE["_id"], automatic, kind="timeseries", timeseries=series)
    assert "Index" not in source


def test_a_view_is_not_dumped_and_an_empty_database_is_an_empty_list() -> None:
    assert declared_in(dump([LiveCollection("v", "view", {"viewOn": "c"})], "A test.")) == []


# --- values

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: Int64(n) if abs(n) > 2**31 else n),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=9),
    st.builds(ObjectId, st.binary(min_size=12, max_size=12)),
    st.decimals(allow_nan=False, places=3, min_value=-(10**9), max_value=10**9).map(Decimal128),
    st.integers(-(2**50), 2**50).map(DatetimeMS),
    st.builds(Binary, st.binary(max_size=5), st.sampled_from([4, 5, 128])),
    st.builds(Regex, st.text("ab^$.\"'\\", max_size=8), st.sampled_from([0, 2, 10])),
    st.builds(Timestamp, st.integers(0, 2**31), st.integers(0, 9)),
    st.builds(Code, st.text(max_size=5)),
    st.builds(lambda text: Code(text, {"n": 1}), st.text("xy", max_size=5)),
    st.builds(DBRef, st.just("c"), st.integers(0, 9)),
    st.sampled_from([MinKey(), MaxKey()]),
)
_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_VALUES, max_size=8))
@example([DatetimeMS(-(2**50)), DatetimeMS(0), DatetimeMS(1_600_000_000_123)])
@example(["it's", 'say "a"', "both \" and '", "\\'\"", "日本" * 50, "x" * 100, "\n\t\x00é\u2028"])
@example([1e16, 1e-7, -0.0, float("nan"), float("-inf")])
def test_each_value_is_written_as_ruff_formats_it_and_read_as_it_was(values: list[object]) -> None:
    options = {"validator": {"v": {"$in": values}}}
    source = dump([LiveCollection("c", options=options)], "A test.")
    (declared,) = declared_in(source)
    assert declared.validator is not None
    assert by_value(declared.validator["v"]["$in"]) == by_value(values)
    if RUFF.exists():
        assert formatted(source) == source
