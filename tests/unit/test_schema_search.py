"""Definitions of search indexes: what a server adds to them is no difference, what they say is one."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.schema import Collection, SearchIndex
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.live import LiveCollection
from flask_migrate_mongo.schema.meanings import sentence
from flask_migrate_mongo.schema.search import LiveSearchIndex, search_form

Document = dict[str, Any]


def mapped(**fields: object) -> Document:
    return {"mappings": {"fields": fields}}


def vectors(*fields: Document) -> Document:
    return {"fields": list(fields)}


PLOT: Document = {"type": "vector", "path": "plot", "numDimensions": 8, "similarity": "cosine"}
YEAR: Document = {"type": "filter", "path": "year"}


@pytest.mark.parametrize(
    ("declared", "live"),
    [
        ({"mappings": {"dynamic": True}}, {"mappings": {"dynamic": True, "fields": {}}}),
        (mapped(), {"mappings": {"dynamic": False}, "analyzer": "lucene.standard"}),
        (mapped(), {**mapped(), "searchAnalyzer": "lucene.standard", "storedSource": False}),
        ({**mapped(), "analyzer": "x"}, {**mapped(), "analyzer": "x", "searchAnalyzer": "x"}),
        (mapped(a={"type": "string"}), mapped(a=[{"type": "string"}])),
        (mapped(a={"type": "token"}), mapped(a={"normalizer": "none", "type": "token"})),
        (
            mapped(a=[{"type": "string"}, {"type": "token"}]),
            mapped(a=[{"type": "token"}, {"type": "string"}]),
        ),
        (
            mapped(a={"type": "document", "fields": {"b": {"type": "geo"}}}),
            mapped(a={"type": "document", "dynamic": False, "fields": {"b": [{"type": "geo"}]}}),
        ),
        (vectors(PLOT, YEAR), vectors(YEAR, PLOT)),
        (vectors(PLOT), vectors({**PLOT, "quantization": "none", "numDimensions": 8.0})),
    ],
)
def test_what_a_server_adds_is_no_difference(declared: Document, live: Document) -> None:
    assert search_form(declared) == search_form(live)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mappings": {"dynamic": True}}, {"mappings": {"dynamic": False}}),
        (mapped(a={"type": "string"}), mapped(b={"type": "string"})),
        (mapped(a={"type": "string"}), mapped(a={"type": "token"})),
        (mapped(a={"type": "string"}), mapped(a={"type": "string", "analyzer": "lucene.keyword"})),
        (mapped(), {**mapped(), "analyzer": "lucene.keyword"}),
        (vectors(PLOT), vectors(PLOT, YEAR)),
        (vectors(PLOT), vectors({**PLOT, "quantization": "scalar"})),
        (vectors(PLOT), vectors({**PLOT, "numDimensions": 9})),
    ],
)
def test_what_a_definition_says_counts(one: Document, other: Document) -> None:
    assert search_form(one) != search_form(other)


def test_where_the_server_shows_no_definition_the_name_is_compared() -> None:
    live = LiveCollection(
        "films", search_indexes=(LiveSearchIndex.of({"name": "a", "queryable": True}),)
    )
    declared = [Collection("films", search_indexes=[SearchIndex(mapped(), name="a")])]
    assert compare(declared, [live]).found == ()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("PENDING", "it is PENDING."),
        ("DELETING", "it is DELETING."),
        ("FAILED", "The build of the search index failed."),
    ],
)
def test_a_search_index_that_queries_cannot_use_is_a_difference(status: str, message: str) -> None:
    listed = {"name": "default", "status": status, "queryable": False}
    live = LiveCollection("films", search_indexes=(LiveSearchIndex.of(listed),))
    declared = [Collection("films", search_indexes=[SearchIndex(mapped())])]
    (found,) = compare(declared, [live]).differences
    assert message in sentence(found)


def test_declarations_that_no_server_accepts_are_refused() -> None:
    with pytest.raises(ValueError, match="neither search nor vectorSearch"):
        SearchIndex({}, kind="vector")
    with pytest.raises(ValueError, match="two search indexes have the same name"):
        Collection("films", search_indexes=[SearchIndex({}), SearchIndex({})])
