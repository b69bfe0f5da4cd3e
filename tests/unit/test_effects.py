"""Limits, and what commands are about, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.driver.commands import Command, namespaces
from flask_migrate_mongo.dry_run.decisions import (
    DECISIONS,
    Decision,
    Statement,
    operation_of,
    statements,
)
from flask_migrate_mongo.dry_run.effects import Budget
from flask_migrate_mongo.dry_run.operations import EndOfStep
from flask_migrate_mongo.model.reports import Effects


def test_a_budget_admits_what_is_left_and_not_one_more() -> None:
    budget = Budget(60, documents=10, size=100)
    budget.admit(10, 100)
    budget.spend(4, 40)
    budget.admit(6, 60)
    assert budget.documents_left == 6
    with pytest.raises(EndOfStep, match="more than 5 documents"):
        Budget(60, documents=5).admit(6)
    assert budget.refusal is None
    with pytest.raises(EndOfStep, match="more than 0 MB"):
        budget.admit(0, 61)


def test_the_first_refusal_of_a_budget_stands() -> None:
    budget = Budget(60, documents=10, size=100)
    for documents, size in ((11, 0), (0, 101)):
        with pytest.raises(EndOfStep, match="more than 10 documents"):
            budget.admit(documents, size)
    assert budget.refusal == "it would write more than 10 documents"


def test_a_budget_ends_with_its_time() -> None:
    spent = Budget(0)
    assert spent.seconds_left == 0
    assert spent.is_nearly_over
    assert not Budget(60).is_nearly_over
    spent.time_out()
    assert spent.refusal == "it takes longer than 0 s"


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"insert": "a"}, {"shop.a"}),
        ({"getMore": 5, "collection": "a"}, {"shop.a"}),
        ({"ping": 1}, set()),
        (
            {"bulkWrite": 1, "ops": [], "nsInfo": [{"ns": "shop.a"}, {"ns": "other.b"}]},
            {"shop.a", "other.b"},
        ),
        ({"aggregate": "a", "pipeline": [{"$match": {"$out": "x"}}]}, {"shop.a"}),
        ({"aggregate": "a", "pipeline": [{"$out": "b"}]}, {"shop.a", "shop.b"}),
        ({"aggregate": "a", "pipeline": [{"$out": {"db": "z", "coll": "b"}}]}, {"shop.a", "z.b"}),
        ({"aggregate": "a", "pipeline": [{"$merge": "b"}]}, {"shop.a", "shop.b"}),
        ({"aggregate": "a", "pipeline": [{"$merge": {"into": "b"}}]}, {"shop.a", "shop.b"}),
        (
            {"aggregate": "a", "pipeline": [{"$merge": {"into": {"db": "z", "coll": "b"}}}]},
            {"shop.a", "z.b"},
        ),
        (
            {
                "aggregate": "a",
                "pipeline": [{"$lookup": {"from": "b", "pipeline": [{"$unionWith": "c"}]}}],
            },
            {"shop.a", "shop.b", "shop.c"},
        ),
        (
            {"aggregate": "a", "pipeline": [{"$facet": {"x": [{"$graphLookup": {"from": "b"}}]}}]},
            {"shop.a", "shop.b"},
        ),
        (
            {"aggregate": "a", "pipeline": [{"$unionWith": {"coll": "b", "pipeline": []}}]},
            {"shop.a", "shop.b"},
        ),
        ({"aggregate": 1, "pipeline": [{"$documents": []}]}, set()),
    ],
)
def test_the_collections_of_a_command_are_found(document: dict[str, Any], named: set[str]) -> None:
    assert namespaces(Command("shop", document)) == named


@pytest.mark.parametrize(
    ("document", "decision"),
    [
        ({"insert": "a", "documents": []}, Decision.EXECUTE),
        ({"aggregate": "a", "pipeline": [{"$match": {}}]}, Decision.EXECUTE),
        ({"aggregate": "a", "pipeline": [{"drop": 1}]}, Decision.EXECUTE),
        ({"aggregate": "a", "pipeline": [{"$collStats": {}}]}, Decision.READ_COLLECTION),
        ({"aggregate": "a", "pipeline": [{"$match": {}}, {"$out": "b"}]}, Decision.REPORT),
        ({"create": "a"}, Decision.CREATE),
        ({"createIndexes": "a", "indexes": []}, Decision.BUILD),
        ({"dropSearchIndex": "a"}, Decision.REPORT_ONLY),
        ({"aggregate": "a", "pipeline": [{"$collStats": {}}, {"$merge": "b"}]}, Decision.REPORT),
        ({"compact": "a"}, None),
        ({"validate": "a"}, None),
    ],
)
def test_one_table_says_what_a_dry_run_does_with_a_command(
    document: dict[str, Any], decision: Decision | None
) -> None:
    assert DECISIONS.get(operation_of(Command("shop", document))) is decision


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"insert": "a", "documents": [{"q": 1}]}, Statement("shop.a", {"q": 1})),
        (
            {"update": "a", "updates": [{"q": {"x": 1}, "u": [], "sort": {"n": 1}}]},
            Statement("shop.a", None, {"x": 1}, many=False, options={"sort": {"n": 1}}),
        ),
        (
            {"update": "a", "updates": [{"q": {}, "u": [], "multi": True}], "let": {"v": 1}},
            Statement("shop.a", None, {}, many=True, options={"let": {"v": 1}}),
        ),
        ({"delete": "a", "deletes": [{"q": {}, "limit": 0}]}, Statement("shop.a", many=True)),
        ({"delete": "a", "deletes": [{"q": {}, "limit": 1}]}, Statement("shop.a", many=False)),
        (
            {"findAndModify": "a", "query": {"x": 1}, "remove": True},
            Statement("shop.a", None, {"x": 1}),
        ),
        (
            {
                "bulkWrite": 1,
                "nsInfo": [{"ns": "other.b"}],
                "ops": [{"insert": 0, "document": {"x": 1}}],
            },
            Statement("other.b", {"x": 1}),
        ),
        (
            {
                "bulkWrite": 1,
                "nsInfo": [{"ns": "other.b"}],
                "ops": [{"delete": 0, "filter": {}, "multi": True}],
            },
            Statement("other.b", many=True),
        ),
    ],
)
def test_the_writes_of_a_command_are_found(document: dict[str, Any], found: Statement) -> None:
    assert list(statements(Command("shop", document))) == [found]


def test_effects_add_up() -> None:
    assert Effects(1, 2, 3, 4, 5) + Effects(10, 20, 30, 40, 50) == Effects(11, 22, 33, 44, 55)
