"""A dry run reports what the run that follows does, and leaves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model.reports import Effects, Outcome, RunReport, StepState, Verdict
from flask_migrate_mongo.wiring import running
from tests.content import Difference, content, differences
from tests.project import CLIENT_BULK_WRITE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_migrate_mongo.model.values import ErrorInfo
    from tests.project import Project

OURS = {"migrations", "migration_locks"}


def eff(
    inserted: int = 0, matched: int = 0, modified: int = 0, deleted: int = 0, upserted: int = 0
) -> Effects:
    return Effects(inserted, matched, modified, deleted, upserted)


@dataclass(frozen=True)
class Case:
    """Migrations, one after the other, and what each of them does to which collection."""

    name: str
    ups: tuple[str, ...]
    effects: tuple[Mapping[str, Effects], ...]
    verdict: Verdict = Verdict.SUCCEEDS
    """Of the last of them; the others would succeed."""
    reason: str = ""
    """How the reason begins, where there is one."""
    withheld: tuple[tuple[str, str, int | None], ...] = ()
    """What is not executed: operation, collection, documents."""
    tables: Mapping[str, Difference] | None = None
    """What the run does to the documents, where it is more than the effects say."""
    real: StepState | None = StepState.APPLIED
    """How the run ends where the dry run does not know; None where nothing can be compared."""


def case(name: str, up: str, effects: Mapping[str, Effects], **more: Any) -> Case:
    return Case(name, (up,), (effects,), **more)


# Ten `items` {_id: 0…9, n: 0…9, tag: "even" or "odd", code: 0…4 twice}, five `orders` {_id: 0…4, item: 0…4, sum: 10}.
CASES = [
    # --- every write
    case("insert_one", "db.items.insert_one({})", {"items": eff(inserted=1)}),
    case("insert_many", "db.new.insert_many([{}, {}, {}])", {"new": eff(inserted=3)}),
    case(
        "insert_many in many batches",
        "db.new.insert_many({'_id': i, 'x': 'x' * 1000} for i in range(1500))",
        {"new": eff(inserted=1500)},
    ),
    case(
        "update_one that changes nothing",
        "db.items.update_one({'n': 3}, {'$set': {'n': 3}})",
        {"items": eff(matched=1)},
    ),
    case(
        "update_many",
        "db.items.update_many({'tag': 'odd'}, {'$inc': {'n': 10}})",
        {"items": eff(matched=5, modified=5)},
    ),
    case(
        "update with a pipeline",
        "db.items.update_many({}, [{'$set': {'twice': {'$multiply': ['$n', 2]}}}])",
        {"items": eff(matched=10, modified=10)},
    ),
    case(
        "upsert",
        "db.items.update_one({'_id': 99}, {'$set': {'n': 1}}, upsert=True)",
        {"items": eff(upserted=1)},
    ),
    case(
        "replace_one",
        "db.items.replace_one({'_id': 1}, {'n': 'new'})",
        {"items": eff(matched=1, modified=1)},
    ),
    case("delete_one", "db.items.delete_one({'tag': 'odd'})", {"items": eff(deleted=1)}),
    case("delete_many", "db.items.delete_many({'n': {'$gt': 6}})", {"items": eff(deleted=3)}),
    case("delete_many of all", "db.items.delete_many({})", {"items": eff(deleted=10)}),
    case(
        "find_one_and_update",
        "db.items.find_one_and_update({'tag': 'odd'}, {'$set': {'n': -1}}, sort=[('n', -1)])",
        {"items": eff(matched=1, modified=1)},
    ),
    case(
        "find_one_and_update that changes nothing",
        "db.items.find_one_and_update({'_id': 4}, {'$set': {'n': 4}})",
        {"items": eff(matched=1)},
    ),
    case(
        "find_one_and_update that changes only the type",
        "db.items.find_one_and_update({'_id': 4}, {'$set': {'n': 4.0}})",
        {"items": eff(matched=1, modified=1)},
    ),
    case(
        "find_one_and_update that upserts",
        "db.items.find_one_and_update({'_id': 50}, {'$set': {'n': 4}}, upsert=True)",
        {"items": eff(upserted=1)},
    ),
    case(
        "find_one_and_replace",
        "db.items.find_one_and_replace({'_id': 4}, {'n': 44})",
        {"items": eff(matched=1, modified=1)},
    ),
    case(
        "find_one_and_delete",
        "db.items.find_one_and_delete({'n': {'$gte': 5}}, sort=[('n', 1)])",
        {"items": eff(deleted=1)},
    ),
    case(
        "find_one_and_delete of nothing",
        "db.items.find_one_and_delete({'n': 50})",
        {"items": eff()},
    ),
    case(
        "bulk_write",
        "db.items.bulk_write([InsertOne({'_id': 20}), UpdateOne({'_id': 1}, {'$set': {'n': 0}}), "
        "UpdateMany({'tag': 'even'}, {'$set': {'e': 1}}), ReplaceOne({'_id': 77}, {'n': 1}, upsert=True), "
        "DeleteOne({'_id': 3}), DeleteMany({'_id': {'$in': [5, 7]}})])",
        {"items": eff(inserted=1, matched=6, modified=6, deleted=3, upserted=1)},
    ),
    case(
        "bulk_write in no order",
        "db.items.bulk_write([UpdateOne({'_id': i}, {'$inc': {'n': 1}}) for i in range(12)], ordered=False)",
        {"items": eff(matched=10, modified=10)},
    ),
    case(
        "bulk_write of the client",
        "db.client.bulk_write([InsertOne({'_id': 70}, namespace=f'{db.name}.items'), "
        "UpdateMany({}, {'$set': {'sum': 1}}, namespace=f'{db.name}.orders'), "
        "DeleteOne({'_id': 2}, namespace=f'{db.name}.items')])",
        {"items, orders": eff(inserted=1, matched=5, modified=5, deleted=1)},
        tables={"items": Difference(1, 0, 1), "orders": Difference(0, 5, 0)},
    ),
    case(
        "verbose bulk_write of the client",
        "db.client.bulk_write([UpdateMany({'tag': 'odd'}, {'$set': {'x': 1}}, namespace=f'{db.name}.items'), "
        "UpdateMany({}, {'$set': {'sum': 10}}, namespace=f'{db.name}.orders'), "
        "UpdateOne({'_id': 9}, {'$set': {'sum': 1}}, upsert=True, namespace=f'{db.name}.orders')], "
        "verbose_results=True)",
        {"items, orders": eff(matched=10, modified=5, upserted=1)},
        tables={"items": Difference(0, 5, 0), "orders": Difference(1, 0, 0)},
    ),
    case(
        "a command",
        "db.command('update', 'items', updates=[{'q': {}, 'u': {'$set': {'x': 1}}, 'multi': True}])",
        {"items": eff(matched=10, modified=10)},
    ),
    case(
        "array filters and collation",
        "db.items.update_one({'_id': 2}, {'$set': {'a': [1, 2]}}); "
        "db.items.update_one({'tag': 'ODD'}, {'$set': {'b': 1}}, collation={'locale': 'en', 'strength': 2})",
        {"items": eff(matched=2, modified=2)},
    ),
    # --- other ways to the same collections
    case(
        "get_collection and with_options",
        "db.get_collection('items', write_concern=WriteConcern('majority'))"
        ".with_options(read_preference=ReadPreference.SECONDARY_PREFERRED).delete_many({'tag': 'odd'})",
        {"items": eff(deleted=5)},
    ),
    case(
        "another handle on the same client",
        "db.client.get_database(db.name)['items'].update_many({}, {'$set': {'x': 1}})",
        {"items": eff(matched=10, modified=10)},
    ),
    case(
        "the application's own handle",
        "from flask import current_app; current_app.extensions['shop_db'].items.delete_one({'_id': 0})",
        {"items": eff(deleted=1)},
    ),
    case(
        "a cursor over many batches",
        "for d in db.items.find({}, batch_size=2).sort('n'): db.orders.update_one({'item': d['_id']}, "
        "{'$set': {'tag': d['tag']}})",
        {"orders": eff(matched=5, modified=5)},
    ),
    case(
        "an aggregation that is read",
        "for d in db.orders.aggregate([{'$lookup': {'from': 'items', 'localField': 'item', "
        "'foreignField': '_id', 'as': 'i'}}]): db.orders.update_one({'_id': d['_id']}, {'$set': {'n': d['i'][0]['n']}})",
        {"orders": eff(matched=5, modified=5)},
    ),
    # --- what no transaction can read
    case(
        "reads outside of the transaction",
        "assert 'tag_1' in db.items.index_information(); assert list(db.missing.list_indexes()) == []; "
        "assert db.items.estimated_document_count() == 10; assert 'orders' in db.list_collection_names(); "
        "db.command('ping'); db.items.delete_one({'_id': 1})",
        {"items": eff(deleted=1)},
    ),
    case(
        "a read of what was changed",
        "db.items.delete_one({'_id': 1}); assert db.items.estimated_document_count() == 9",
        {"items": eff(deleted=1)},
        verdict=Verdict.PARTLY,
        reason="`count` cannot read what this dry run has changed",
    ),
    case(
        "a list of what was made",
        "db.new.insert_one({}); assert 'new' in db.list_collection_names()",
        {"new": eff(inserted=1)},
        verdict=Verdict.PARTLY,
        reason="`listCollections` cannot read what this dry run has changed",
    ),
    # --- what no transaction can hold
    case(
        "an index",
        "assert db.items.create_index([('n', 1), ('tag', -1)]) == 'n_1_tag_-1'",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("createIndexes", "items", 10),),
    ),
    case("an index that is there", "db.items.create_index('tag')", {}),
    case(
        "an index of another definition",
        "db.items.create_index('tag', name='tag_1', unique=True)",
        {},
        verdict=Verdict.FAILS,
    ),
    case(
        "an index after which the documents are changed",
        "db.items.create_index('n'); db.items.update_many({}, {'$inc': {'n': 1}})",
        {"items": eff(matched=10, modified=10)},
        verdict=Verdict.PARTLY,
        withheld=(("createIndexes", "items", 10),),
    ),
    case(
        "an index of a collection that is made with it",
        "db.new.create_index('n', unique=True); db.new.insert_one({'n': 1})",
        {"new": eff(inserted=1)},
    ),
    case(
        "an index of a new collection that breaks it",
        "db.new.create_index('n', unique=True); db.new.insert_one({'n': 1}); db.new.insert_one({'n': 1})",
        {"new": eff(inserted=1)},
        verdict=Verdict.FAILS,
        tables={"new": Difference(1, 0, 0)},
    ),
    case(
        "a unique index over duplicates",
        "db.items.create_index('code', unique=True)",
        {},
        verdict=Verdict.FAILS,
        withheld=(("createIndexes", "items", 10),),
    ),
    case(
        "a unique index over duplicates that were deleted before",
        "db.items.delete_many({'tag': 'odd'}); db.items.create_index('code', unique=True)",
        {"items": eff(deleted=5)},
        verdict=Verdict.PARTLY,
        withheld=(("createIndexes", "items", 5),),
    ),
    case(
        "an error of an index that is caught",
        "\n    try: db.items.create_index('code', unique=True)"
        "\n    except errors.DuplicateKeyError: db.orders.insert_one({'dup': True})",
        {"orders": eff(inserted=1)},
        verdict=Verdict.PARTLY,
        reason="it continues after an error",
        withheld=(("createIndexes", "items", 10),),
    ),
    case(
        "a unique index that what follows breaks",
        "from flask import current_app; db.items.create_index('n', unique=True); "
        "current_app.extensions['shop_db'].items.insert_one({'_id': 10, 'n': 3})",
        {"items": eff(inserted=1)},
        verdict=Verdict.PARTLY,
        withheld=(("createIndexes", "items", 10), ("createIndexes", "items", None)),
        tables={},
        real=StepState.FAILED,
    ),
    case(
        "a query that needs an index",
        "db.items.create_index('n'); db.orders.delete_one({}); list(db.items.find().hint('n_1'))",
        {"orders": eff(deleted=1)},
        verdict=Verdict.PARTLY,
        reason="it may need an index that was not built, n_1",
        withheld=(("createIndexes", "items", 10),),
    ),
    case(
        "an index less",
        "db.items.drop_index('tag_1')",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("dropIndexes", "items", 10),),
    ),
    case(
        "a drop",
        "assert db.orders.drop() is None",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("drop", "orders", 5),),
        tables={"orders": Difference(0, 0, 5)},
    ),
    case(
        "a drop of nothing, and a new beginning",
        "db.missing.drop(); db.missing.insert_one({})",
        {"missing": eff(inserted=1)},
    ),
    case(
        "a drop that is followed by a write",
        "db.items.delete_one({'_id': 1}); db.orders.drop(); db.orders.insert_one({'_id': 'new'}); 1 / 0",
        {"items": eff(deleted=1)},
        verdict=Verdict.PARTLY,
        reason="it uses orders after drop, which was not executed",
        withheld=(("drop", "orders", 5),),
        tables={"items": Difference(0, 0, 1), "orders": Difference(1, 0, 5)},
        real=StepState.FAILED,
    ),
    case(
        "a drop that is followed by a lookup, with the error caught",
        "db.orders.drop()"
        "\n    try: list(db.items.aggregate([{'$lookup': {'from': 'orders', 'as': 'o', 'pipeline': []}}]))"
        "\n    except BaseException: db.items.delete_many({})",
        {},
        verdict=Verdict.NOT_EXECUTED,
        reason="it uses orders after drop, which was not executed",
        withheld=(("drop", "orders", 5),),
        tables={"orders": Difference(0, 0, 5)},
    ),
    case(
        "a drop of the database",
        "db.client.drop_database(db.name); db.items.find_one()",
        {},
        verdict=Verdict.NOT_EXECUTED,
        reason="it uses items after dropDatabase, which was not executed",
        withheld=(("dropDatabase", "DATABASE", None),),
        real=None,
    ),
    case(
        "a new name",
        "db.orders.rename('sales'); db.sales.update_many({}, {'$inc': {'sum': 1}})",
        {},
        verdict=Verdict.NOT_EXECUTED,
        reason="it uses sales after renameCollection, which was not executed",
        withheld=(("renameCollection", "orders", 5),),
        tables={"orders": Difference(0, 0, 5), "sales": Difference(5, 0, 0)},
    ),
    case(
        "a new name for what the migration has written to",
        "db.orders.insert_one({'_id': 9}); db.orders.rename('sales')",
        {"orders": eff(inserted=1)},
        verdict=Verdict.PARTLY,
        withheld=(("renameCollection", "orders", 6),),
        tables={"orders": Difference(0, 0, 5), "sales": Difference(6, 0, 0)},
    ),
    case(
        "a validator",
        "db.command('collMod', 'items', validator={'tag': 'even'})",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("collMod", "items", 10),),
    ),
    case(
        "a new collection with options",
        "db.create_collection('log', validator={'n': {'$type': 'int'}}); db.log.insert_one({'n': 1})",
        {"log": eff(inserted=1)},
    ),
    case(
        "a new collection with options that refuse a document",
        "db.create_collection('log', validator={'n': {'$type': 'int'}}); db.log.insert_one({'n': 'x'})",
        {"log": eff()},
        verdict=Verdict.FAILS,
    ),
    case(
        "a collection that is there",
        "db.create_collection('items', validator={})",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("create", "items", 10),),
        real=StepState.FAILED,
    ),
    case(
        "a view",
        "db.create_collection('odd', viewOn='items', pipeline=[{'$match': {'tag': 'odd'}}])",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("create", "odd", 0),),
        tables={"odd": Difference(5, 0, 0)},
    ),
    case(
        "$out",
        "assert list(db.items.aggregate([{'$match': {'tag': 'odd'}}, {'$out': 'orders'}])) == []",
        {},
        verdict=Verdict.NOT_EXECUTED,
        withheld=(("$out", "orders", 5),),
        tables={"orders": Difference(created=3, changed=2, gone=3)},
    ),
    case(
        "$merge",
        "db.items.delete_one({'_id': 9}); db.items.aggregate([{'$project': {'tag': 1}}, {'$merge': 'orders'}])",
        {"items": eff(deleted=1)},
        verdict=Verdict.PARTLY,
        withheld=(("$merge", "orders", 9),),
        tables={"items": Difference(0, 0, 1), "orders": Difference(4, 5, 0)},
    ),
    case(
        "a pipeline that fails before $merge",
        "db.items.aggregate([{'$match': {'$expr': {'$divide': [1, 0]}}}, {'$merge': 'orders'}])",
        {},
        verdict=Verdict.FAILS,
    ),
    case(
        "a command that is not known",
        "db.items.delete_one({'_id': 1}); db.command('compact', 'items')",
        {"items": eff(deleted=1)},
        verdict=Verdict.PARTLY,
        reason="a dry run does not execute `compact`",
        real=None,
    ),
    case(
        "GridFS",
        "GridFS(db).put(b'x' * 300_000, filename='a', _id=1); assert len(GridFS(db).get(1).read()) == 300_000",
        {"fs.chunks": eff(inserted=2), "fs.files": eff(inserted=1)},
    ),
    case(
        "an index in a transaction",
        "TRANSACTIONAL db.items.create_index('n')",
        {},
        verdict=Verdict.FAILS,
    ),
    case(
        "a drop in a transaction",
        "TRANSACTIONAL db.items.drop()",
        {},
        verdict=Verdict.FAILS,
    ),
    # --- backfills
    case(
        "a backfill",
        "ctx.backfill('items', {'$inc': {'n': 1}}, batch_size=3)",
        {"items": eff(matched=10, modified=10)},
    ),
    case(
        "a backfill with a function",
        "ctx.backfill('items', lambda d: {'$set': {'x': d['n']}} if d['tag'] == 'odd' else None)",
        {"items": eff(matched=5, modified=5)},
    ),
    case(
        "a backfill in a transaction",
        "TRANSACTIONAL ctx.backfill('items', {'$inc': {'n': 1}})",
        {},
        verdict=Verdict.FAILS,
    ),
    # --- chained
    Case(
        "each sees what those before it did",
        (
            "db.items.update_many({}, {'$rename': {'n': 'm'}})",
            "assert not db.items.find_one({'n': {'$exists': True}}); "  # noqa: ISC004
            "db.items.update_many({'m': {'$lt': 5}}, {'$set': {'small': True}})",
            "db.items.delete_many({'small': True})",
        ),
        (
            {"items": eff(matched=10, modified=10)},
            {"items": eff(matched=5, modified=5)},
            {"items": eff(deleted=5)},
        ),
        tables={"items": Difference(created=0, changed=5, gone=5)},
    ),
    Case(
        "plain and transactional in turns",
        (
            "db.items.insert_one({'_id': 'a'})",
            "TRANSACTIONAL db.items.update_one({'_id': 'a'}, {'$set': {'n': 1}})",
            "db.items.delete_one({'_id': 'a', 'n': 1})",
        ),
        (
            {"items": eff(inserted=1)},
            {"items": eff(matched=1, modified=1)},
            {"items": eff(deleted=1)},
        ),
        tables={},
    ),
    # --- failing
    case(
        "failing before it writes",
        "1 / 0; db.items.delete_many({})",
        {},
        verdict=Verdict.FAILS,
    ),
    case(
        "failing half-way",
        "db.items.delete_one({'_id': 1}); raise KeyError('gone')",
        {"items": eff(deleted=1)},
        verdict=Verdict.FAILS,
    ),
    case(
        "failing on a duplicate key",
        "db.items.insert_many([{'_id': 10}, {'_id': 11}, {'_id': 1}, {'_id': 12}])",
        {"items": eff(inserted=2)},
        verdict=Verdict.FAILS,
    ),
    Case(
        "the second fails",
        ("db.items.delete_one({'_id': 1})", "db.items.insert_one({'_id': 2})"),
        ({"items": eff(deleted=1)}, {"items": eff()}),
        verdict=Verdict.FAILS,
    ),
    Case(
        "the third, a transactional one, fails",
        (
            "db.orders.delete_one({'_id': 1})",
            "TRANSACTIONAL db.items.update_many({}, {'$set': {'x': 1}})",
            "TRANSACTIONAL db.items.update_many({}, {'$set': {'y': 1}}); raise RuntimeError",
        ),
        (
            {"orders": eff(deleted=1)},
            {"items": eff(matched=10, modified=10)},
            {"items": eff(matched=10, modified=10)},
        ),
        verdict=Verdict.FAILS,
        tables={"items": Difference(0, 10, 0), "orders": Difference(0, 0, 1)},
    ),
]


def write(project: Project, position: int, up: str) -> None:
    body = up.removeprefix("TRANSACTIONAL ").replace("; ", "\n    ")
    flag = "transactional = True\n" if up.startswith("TRANSACTIONAL ") else ""
    imports = "from pymongo import *\nfrom pymongo import errors\nfrom pymongo.write_concern import WriteConcern\nfrom gridfs import GridFS\n"
    project.write(f"{position}_step", f"{imports}{flag}\ndef up(db, ctx):\n    {body}\n")


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with some data."""
    project.db.items.insert_many(
        {"_id": i, "n": i, "tag": "odd" if i % 2 else "even", "code": i // 2} for i in range(10)
    )
    project.db.orders.insert_many({"_id": i, "item": i, "sum": 10} for i in range(5))
    project.db.items.create_index("tag")
    return project


def run(project: Project, *, dry: bool) -> RunReport:
    app = project.app()
    app.extensions["shop_db"] = project.db
    return running.acting(app_state.of(app), dry_run=dry).up()


def sums(effects: Mapping[str, Effects]) -> Difference:
    """Return what these effects do to documents, none of which is touched twice."""
    total = sum(effects.values(), Effects())
    return Difference(total.inserted + total.upserted, total.modified, total.deleted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_dry_run_reports_what_the_run_does_and_leaves_nothing(shop: Project, case: Case) -> None:
    if "client.bulk_write" in case.ups[0]:
        shop.needs(CLIENT_BULK_WRITE)
    for position, up in enumerate(case.ups, 1):
        write(shop, position, up)
    before = content(shop.db)

    dry = run(shop, dry=True)

    assert content(shop.db) == before
    trials = [outcome.trial for outcome in dry.outcomes if outcome.trial]
    assert [trial.verdict for trial in trials[:-1]] == [Verdict.SUCCEEDS] * (len(case.ups) - 1)
    last = trials[-1]
    assert last.verdict is case.verdict, last
    assert str(last.reason or "").startswith(case.reason)
    assert bool(last.reason) is bool(case.reason)
    assert [trial.effects for trial in trials] == list(case.effects)
    shown = [(n.operation, n.collection, n.documents) for t in trials for n in t.not_executed]
    withheld = [
        (operation, collection.replace("DATABASE", shop.db.name), documents)
        for operation, collection, documents in case.withheld
    ]
    assert shown == withheld
    if case.real is None:
        return

    real = run(shop, dry=False)

    ended = StepState.FAILED if case.verdict is Verdict.FAILS else case.real
    done = [outcome.state for outcome in real.outcomes]
    assert done == [StepState.APPLIED] * (len(case.ups) - 1) + [ended]
    if case.verdict is Verdict.FAILS:
        same_cause(dry.outcomes[-1], real.outcomes[-1])
    changed = {n: d for n, d in differences(before, content(shop.db)).items() if n not in OURS}
    assert changed == (expected(case) if case.tables is None else case.tables)


def same_cause(dry: Outcome, real: Outcome) -> None:
    assert real.error
    assert dry.error
    assert (dry.error.type, code(dry.error)) == (real.error.type, code(real.error))


def code(error: ErrorInfo) -> str:
    """Return what tells one error of the server's from another, or the message of another's."""
    found = re.search(r"E\d+ [a-z ]+", error.message)
    return found[0] if found else error.message.partition(" collection: ")[0]


def expected(case: Case) -> dict[str, Difference]:
    found: dict[str, Effects] = {}
    for effects in case.effects:
        for name, each in effects.items():
            found[name] = found.get(name, Effects()) + each
    differences = {name: sums({name: each}) for name, each in found.items()}
    return {name: each for name, each in differences.items() if any(each)}
