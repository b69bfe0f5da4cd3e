"""The migrations that are written for what differs between the declared schema and the live one."""

from __future__ import annotations

import ast
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

from flask_migrate_mongo.files.parsing import describe
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.counting import Counts, expiring
from flask_migrate_mongo.schema.generating import (
    ADDS_TTL,
    CONVERTS_TO_UNIQUE,
    Draft,
    Known,
    generate,
)
from flask_migrate_mongo.schema.live import LiveCollection

from .linted import codes
from .test_schema_comparison import live, spec

if TYPE_CHECKING:
    from collections.abc import Iterable

RUFF = Path(sys.executable).with_name("ruff")
OLDEST = 13
ID = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
TEXT = {"key": {"_fts": "text", "_ftsx": 1}, "textIndexVersion": 3}
NOW = datetime(2026, 12, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
RULE, OTHER_RULE = {"a": {"$gt": 1}}, {"b": 1}
NO_RULE = "validator={}, validationLevel='strict', validationAction='error'"


def written(
    declared: Collection,
    *existing: LiveCollection,
    wire_version: int = OLDEST,
    expired: dict[tuple[str, str | None], int] | None = None,
    violators: int = 0,
) -> tuple[Draft, ...]:
    counts = Counts(expired or {}, {"c": violators} if violators else {})
    return generate(compare([declared], existing), "Change", Known(wire_version, counts))


def body(draft: Draft, function: str) -> list[str]:
    """The statements of a function, each on one line."""
    (found,) = (
        each
        for each in ast.parse(draft.source).body
        if isinstance(each, ast.FunctionDef) and each.name == function
    )
    return [" ".join(ast.unparse(each).split()) for each in found.body]


def bodies(drafts: Iterable[Draft]) -> list[tuple[list[str], list[str]]]:
    return [(body(each, "up"), body(each, "down")) for each in drafts]


def comments(draft: Draft) -> str:
    """All of the source on one line, so that the breaks of comments do not matter."""
    return " ".join(draft.source.replace("    #", "").split())


def is_question(statement: str) -> bool:
    return statement.startswith("raise NotImplementedError(")


# --- what is written without a question

HIDE = "db.command('collMod', 'c', index={'name': 'a_1', 'hidden': True})"
SHOW = "db.command('collMod', 'c', index={'name': 'a_1', 'hidden': False})"

TABLE: dict[str, tuple[Collection, LiveCollection | None, list[tuple[list[str], list[str]]]]] = {
    "as declared": (Collection("c", [Index("a")]), live(spec()), []),
    "under another name": (Collection("c", [Index("a")]), live(spec("x")), []),
    "not declared": (Collection("c"), live(spec()), []),
    "being built": (
        Collection("c", [Index("a")]),
        live({"buildUUID": 1, "spec": spec()}),
        [],
    ),
    "a missing index": (
        Collection("c", [Index([("a", 1), ("b", -1)], unique=True)]),
        live(),
        [
            (
                ["ctx.create_index('c', [('a', 1), ('b', -1)], unique=True)"],
                ["ctx.drop_index('c', 'a_1_b_-1')"],
            )
        ],
    ),
    "a missing index whose name is in use": (
        Collection("c", [Index("a", name="x"), Index("b", name="a_1")]),
        live(spec("a_1")),
        [(["ctx.create_index('c', 'b', name='a_1_v2')"], ["ctx.drop_index('c', 'a_1_v2')"])],
    ),
    "another index of that name": (
        Collection("c", [Index("a", unique=True)]),
        live(spec()),
        [
            (
                ["ctx.create_index('c', 'a', name='a_1_v2', unique=True)", HIDE],
                [SHOW, "ctx.drop_index('c', 'a_1_v2')"],
            ),
            (["ctx.drop_index('c', 'a_1')"], ["ctx.create_index('c', 'a', hidden=True)"]),
        ],
    ),
    "another index with that key": (
        Collection("c", [Index("a", name="new", partial={"a": 1})]),
        live(spec(unique=True, collation={"locale": "en", "strength": 3, "version": "1"})),
        [
            (
                ["ctx.create_index('c', 'a', name='new', partialFilterExpression={'a': 1})", HIDE],
                [SHOW, "ctx.drop_index('c', 'new')"],
            ),
            (
                ["ctx.drop_index('c', 'a_1')"],
                [
                    "ctx.create_index('c', 'a', unique=True, hidden=True, collation={'locale': 'en'})"
                ],
            ),
        ],
    ),
    "another index that is hidden already": (
        Collection("c", [Index("a", sparse=True)]),
        live(spec(hidden=True)),
        [
            (
                ["ctx.create_index('c', 'a', name='a_1_v2', sparse=True)"],
                ["ctx.drop_index('c', 'a_1_v2')"],
            ),
            (["ctx.drop_index('c', 'a_1')"], ["ctx.create_index('c', 'a', hidden=True)"]),
        ],
    ),
    "another index that is being built": (
        Collection("c", [Index("a", sparse=True)]),
        live({"buildUUID": 1, "spec": spec()}),
        [
            (
                ["ctx.create_index('c', 'a', name='a_1_v2', sparse=True)"],
                ["ctx.drop_index('c', 'a_1_v2')"],
            )
        ],
    ),
    "two variants of a name": (
        Collection("c", [Index("a", sparse=True)]),
        live(spec(), {"key": {"b": 1}, "name": "a_1_v2"}),
        [
            (
                ["ctx.create_index('c', 'a', name='a_1_v3', sparse=True)", HIDE],
                [SHOW, "ctx.drop_index('c', 'a_1_v3')"],
            ),
            (["ctx.drop_index('c', 'a_1')"], ["ctx.create_index('c', 'a', hidden=True)"]),
        ],
    ),
    "options in place": (
        Collection("c", [Index("a", hidden=True, expire_after=0)]),
        live(spec(expireAfterSeconds=60)),
        [
            (
                [
                    "db.command('collMod', 'c', index={'name': 'a_1', 'expireAfterSeconds': 0})",
                    HIDE,
                ],
                [
                    "db.command('collMod', 'c', index={'name': 'a_1', 'expireAfterSeconds': 60})",
                    SHOW,
                ],
            )
        ],
    ),
    "a missing collection": (
        Collection(
            "c",
            [Index("_id"), Index("a"), Index("b", collation={"locale": "simple"})],
            validator=RULE,
            collation={"locale": "de"},
        ),
        None,
        [
            (
                [
                    "if 'c' not in db.list_collection_names(): db.create_collection('c', validator={'a': {'$gt': 1}}, collation={'locale': 'de'})",
                    "ctx.create_index('c', 'a')",
                    "ctx.create_index('c', 'b', collation={'locale': 'simple'})",
                ],
                ["if db['c'].find_one() is None: db.drop_collection('c')"],
            )
        ],
    ),
    "images": (
        Collection("c", images=True),
        live(),
        [
            (
                ["db.command('collMod', 'c', changeStreamPreAndPostImages={'enabled': True})"],
                ["db.command('collMod', 'c', changeStreamPreAndPostImages={'enabled': False})"],
            )
        ],
    ),
    "the period of a time series": (
        Collection("c", options={"timeseries": {"timeField": "at"}}),
        live(kind="timeseries", timeseries={"timeField": "at"}, expireAfterSeconds=60),
        [
            (
                ["db.command('collMod', 'c', expireAfterSeconds='off')"],
                ["db.command('collMod', 'c', expireAfterSeconds=60)"],
            )
        ],
    ),
    "a new validator": (
        Collection("c", validator=RULE, level="moderate", action="warn"),
        live(),
        [
            (
                ["ctx.validate('c', {'a': {'$gt': 1}}, level='moderate', action='warn')"],
                [f"db.command('collMod', 'c', {NO_RULE})"],
            )
        ],
    ),
    "another validator": (
        Collection("c", validator=RULE),
        live(validator=OTHER_RULE, validationLevel="moderate"),
        [
            (
                ["ctx.validate('c', {'a': {'$gt': 1}}, replace=True)"],
                [
                    "db.command('collMod', 'c', validator={'b': 1}, validationLevel='moderate', validationAction='error')"
                ],
            )
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_difference_is_written_with_its_reverse(case: str, tmp_path: Path) -> None:
    declared, existing, expected = TABLE[case]
    drafts = written(declared, *([existing] if existing else []))
    assert bodies(drafts) == expected
    assert [draft.questions for draft in drafts] == [0] * len(drafts)
    for draft in drafts:
        assert codes(tmp_path, draft.source) == set()


def test_what_is_done_last_is_reversed_first() -> None:
    (draft,) = written(Collection("c", [Index("a"), Index("b")]), live())
    assert bodies([draft]) == [
        (
            ["ctx.create_index('c', 'a')", "ctx.create_index('c', 'b')"],
            ["ctx.drop_index('c', 'b_1')", "ctx.drop_index('c', 'a_1')"],
        )
    ]


def test_what_replaces_an_index_is_explained() -> None:
    declared = Collection("c", [Index("a", sparse=True, why="the\nlist\x00")])
    first, second = written(declared, live(spec(unique=True, expireAfterSeconds=5)))
    text = comments(first)
    assert text.count("It is for: the list?. It replaces a_1: unique is declared as not set") == 1
    assert 'Another index has the name a_1, so declare name="a_1_v2".' in text
    assert (
        "Once a_1 is hidden, a hint() that names it fails, and it still refuses duplicates and deletes what expires."
        in text
    )
    assert (first.name, second.name) == ("Change", "Change (part 2)")


# --- what the server can

UNIQUE = Collection("c", [Index("a", unique=True)])


def test_an_index_is_made_unique_where_the_server_can() -> None:
    drafts = written(UNIQUE, live(spec()), wire_version=CONVERTS_TO_UNIQUE)
    assert bodies(drafts) == [
        (
            ["ctx.make_unique('c', 'a_1')"],
            ["ctx.drop_index('c', 'a_1')", "ctx.create_index('c', 'a')"],
        )
    ]
    assert len(written(UNIQUE, live(spec()), wire_version=CONVERTS_TO_UNIQUE - 1)) == 2
    other = live(spec(sparse=True))
    assert len(written(UNIQUE, other, wire_version=CONVERTS_TO_UNIQUE)) == 2
    plain = Collection("c", [Index("a")])
    assert len(written(plain, live(spec(unique=True)), wire_version=CONVERTS_TO_UNIQUE)) == 2


def test_a_period_is_added_in_place_where_the_server_can() -> None:
    declared = Collection("c", [Index("a", expire_after=60)])
    assert bodies(written(declared, live(spec()), wire_version=ADDS_TTL)) == [
        (
            ["db.command('collMod', 'c', index={'name': 'a_1', 'expireAfterSeconds': 60})"],
            ["ctx.drop_index('c', 'a_1')", "ctx.create_index('c', 'a')"],
        )
    ]
    (draft,) = written(declared, live(spec()), wire_version=ADDS_TTL - 1)
    assert draft.questions == 1


# --- what a person has to decide

SERIES = {"timeseries": {"timeField": "at"}}
QUESTIONS: dict[str, tuple[Collection, LiveCollection, str, list[str]]] = {
    "weights": (
        Collection("c", [Index([("a", "text")], weights={"a": 3})]),
        live({**TEXT, "name": "a_text", "weights": {"a": 1}}),
        "May c be without a_text while a_text is built?",
        [
            "ctx.drop_index('c', 'a_text')",
            "ctx.create_index('c', [('a', 'text')], weights={'a': 3})",
        ],
    ),
    "another text index": (
        Collection("c", [Index([("a", "text")], name="x", partial={"a": 1})]),
        live({**TEXT, "name": "b_text", "weights": {"b": 1}}),
        "May c be without b_text while x is built?",
        [
            "ctx.drop_index('c', 'b_text')",
            "ctx.create_index('c', [('a', 'text')], name='x', partialFilterExpression={'a': 1})",
        ],
    ),
    "a text index in the place of a plain one": (
        Collection("c", [Index([("a", "text")], name="x")]),
        live(spec("x"), {**TEXT, "name": "b_text", "weights": {"b": 1}, "sparse": True}),
        "May c be without b_text while x is built?",
        [
            "ctx.drop_index('c', 'b_text')",
            "ctx.create_index('c', [('a', 'text')], name='x_v2')",
        ],
    ),
    "a text index that a plain one and another text index replace": (
        Collection(
            "c", [Index("a", name="b_text"), Index([("a", "text")], name="x", partial={"a": 1})]
        ),
        live({**TEXT, "name": "b_text", "weights": {"b": 1}}),
        "May c be without b_text while x is built?",
        [
            "ctx.create_index('c', 'a', name='b_text_v2')",
            "ctx.drop_index('c', 'b_text')",
            "ctx.create_index('c', [('a', 'text')], name='x', partialFilterExpression={'a': 1})",
        ],
    ),
    "bits": (
        Collection("c", [Index([("a", "2d")], options={"bits": 20})]),
        live({"key": {"a": "2d"}, "name": "a_2d"}),
        "May c be without a_2d while a_2d is built?",
        ["ctx.drop_index('c', 'a_2d')", "ctx.create_index('c', [('a', '2d')], bits=20)"],
    ),
    "a period that is removed": (
        Collection("c", [Index("a")]),
        live(spec(expireAfterSeconds=60)),
        "May c be without a_1 while a_1 is built?",
        ["ctx.drop_index('c', 'a_1')", "ctx.create_index('c', 'a')"],
    ),
    "a collection that becomes capped": (
        Collection("c", options={"capped": True, "size": 4096}),
        live(),
        "How are the documents of c copied into a new collection?",
        [],
    ),
    "a view": (
        Collection("c"),
        LiveCollection("c", "view", {"viewOn": "d"}),
        "How are the documents of c copied into a new collection?",
        [],
    ),
    "a validator that nobody declared": (
        Collection("c"),
        live(validator=RULE),
        "May the validator of c be removed?",
        ["ctx.validate('c', {}, replace=True)"],
    ),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_a_decision_is_a_question_before_anything_runs(case: str, tmp_path: Path) -> None:
    declared, existing, question, statements = QUESTIONS[case]
    (draft,) = written(declared, existing)
    first, *rest = body(draft, "up")
    assert is_question(first)
    assert question in first
    assert (draft.questions, rest) == (1, statements)
    assert codes(tmp_path, draft.source) >= {"MM030"}
    path = tmp_path / "20261201001_change.py"
    assert not describe(path, draft.source.encode()).written


def test_documents_that_expire_at_once_are_counted_and_asked_about() -> None:
    cases = [
        (Collection("c", [Index("a", expire_after=5)]), live(spec(expireAfterSeconds=6)), "a_1"),
        (Collection("c", [Index("a", expire_after=5)]), live(), "a_1"),
        (Collection("c", [Index("a", expire_after=5, sparse=True)]), live(spec()), "a_1"),
        (Collection("c", expire_after=5, options=SERIES), live(kind="timeseries", **SERIES), None),
    ]
    for declared, existing, index in cases:
        draft, *_ = written(declared, existing, expired={("c", index): 1204})
        first, second, *_ = body(draft, "up")
        assert is_question(first)
        assert "May these documents of c be deleted?" in first
        assert not is_question(second)
        assert "and deleted at once: 1,204." in comments(draft)
        draft, *_ = written(declared, existing, expired={("c", index): 0})
        assert draft.questions == 0


@pytest.mark.parametrize(
    ("declared", "existing", "expected"),
    [
        (
            Collection("c", [Index("a", expire_after=DAY, partial=RULE)]),
            live(spec(expireAfterSeconds=10**6, partialFilterExpression=RULE)),
            {"$and": [RULE, {"a": {"$lt": NOW - DAY}}]},
        ),
        (
            Collection("c", [Index("a", expire_after=DAY)]),
            live(),
            {"$and": [{}, {"a": {"$lt": NOW - DAY}}]},
        ),
        (
            Collection("c", expire_after=DAY, options=SERIES),
            live(kind="timeseries", **SERIES),
            {"at": {"$lt": NOW - DAY}},
        ),
        (
            Collection("c", expire_after=DAY, options={"clusteredIndex": True}),
            live(clusteredIndex=True),
            {"_id": {"$lt": NOW - DAY}},
        ),
        (
            Collection("c", [Index("a", expire_after=1e300)]),
            live(),
            {"$and": [{}, {"a": {"$lt": NOW - timedelta(seconds=2**31 - 1)}}]},
        ),
        (Collection("c", [Index("a", expire_after=9)]), live(spec(expireAfterSeconds=8)), None),
        (Collection("c", [Index("a")]), live(), None),
        (
            Collection("c", options=SERIES),
            live(kind="timeseries", expireAfterSeconds=1, **SERIES),
            None,
        ),
    ],
)
def test_the_documents_that_expire_are_those_of_a_shorter_or_new_period(
    declared: Collection, existing: LiveCollection, expected: dict[str, Any] | None
) -> None:
    (found,) = compare([declared], [existing]).differences
    assert list(expiring(found, NOW)) == ([] if expected is None else [expected])


# --- validators that documents break

STRICT = Collection("c", validator=RULE)
SET = "ctx.validate('c', {'a': {'$gt': 1}})"
WARN = "ctx.validate('c', {'a': {'$gt': 1}}, action='warn')"
WARNED = "db.command('collMod', 'c', validator={'a': {'$gt': 1}}, validationLevel='strict', validationAction='warn')"


def test_a_validator_that_documents_break_only_warns_until_they_are_changed() -> None:
    first, second = written(STRICT, live(), violators=12)
    assert bodies([first]) == [([WARN], [f"db.command('collMod', 'c', {NO_RULE})"])]
    question, *rest = body(second, "up")
    assert "How are these documents of c changed?" in question
    assert (rest, body(second, "down")) == ([SET], [WARNED])
    assert (first.questions, second.questions) == (0, 1)
    for draft in (first, second):
        assert "Documents of c that do not match the validator: 12." in draft.source


def test_a_validator_that_warns_already_is_enforced_in_one_file() -> None:
    (draft,) = written(STRICT, live(validator=RULE, validationAction="warn"), violators=12)
    question, *rest = body(draft, "up")
    assert is_question(question)
    assert (rest, body(draft, "down"), draft.name) == ([SET], [WARNED], "Change")


def test_rules_that_are_enforced_stay_enforced_until_the_new_ones_are() -> None:
    (draft,) = written(STRICT, live(validator=OTHER_RULE), violators=12)
    assert body(draft, "up")[1:] == ["ctx.validate('c', {'a': {'$gt': 1}}, replace=True)"]
    assert "It replaces a validator that differs at a, b." in draft.source
    # Nothing comes before it.
    assert draft.source.startswith('"""Change what differs from the declared schema."""')
    for off in ({"validationLevel": "off"}, {"validationAction": "warn"}):
        first, _ = written(STRICT, live(validator=OTHER_RULE, **off), violators=12)
        assert body(first, "up") == [WARN.replace("'warn')", "'warn', replace=True)")]


# --- the text


@pytest.mark.skipif(not RUFF.exists(), reason="ruff is not installed")
def test_the_files_are_written_as_ruff_formats_them() -> None:
    key = uuid.uuid4()
    values = {
        "u": key,
        "o": ObjectId("0" * 24),
        "d": Decimal128("1.5"),
        "at": NOW,
        "t": (1, "it's"),
    }
    odd = Collection(
        "x" * 50 + "'\"é",
        [Index("a", partial={"a": {"$in": [values]}}, why="words " * 40)],
        validator={"y" * 90: {"$exists": True}},
        options={"capped": True, "size": 4096},
    )
    pairs: list[tuple[list[Collection], list[LiveCollection]]] = [([odd], [])]
    pairs += [([one], [other] if other else []) for one, other, _ in TABLE.values()]
    pairs += [([one], [other]) for one, other, *_ in QUESTIONS.values()]
    for declared, lives in pairs:
        for draft in generate(compare(declared, lives), 'A "name"\'s', Known(OLDEST)):
            command = [str(RUFF), "format", "--isolated", "-"]
            done = subprocess.run(
                command, input=draft.source, capture_output=True, text=True, check=True
            )
            assert done.stdout == draft.source
            exec(compile(draft.source, "migration", "exec"), {})
