"""What a dry run predicts is what the operation does afterwards, and nothing is left of it."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import airportsdata
import gridfs
import pytest
from bson import Decimal128, Int64, ObjectId, Regex
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.son import SON
from pymongo import ASCENDING, DESCENDING, IndexModel, WriteConcern
from pymongo.collation import Collation
from pymongo.errors import CollectionInvalid, DuplicateKeyError, InvalidName, OperationFailure

from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.driver.confinement import confined
from flask_migrate_mongo.dry_run.forecast import Forecast, RehearsedCollection, RehearsedDatabase
from flask_migrate_mongo.model.errors import NotRehearsableError
from flask_migrate_mongo.model.reports import Expected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pymongo.database import Database

    from flask_migrate_mongo.driver.commands import Command
    from flask_migrate_mongo.model.reports import Prediction

    Db = Database[dict[str, Any]]
    Act = Callable[[Any], object]

OURS = "MONGO_TEST_URI" not in os.environ
UNLIKE_MONGOD = {
    "subdocuments as wholes": "the order of a subdocument's fields counts for nothing",
    "an array in an array": "an index goes into the inner array too",
    "missing in one element": "an element without the field has no key",
    "parallel arrays": "are accepted",
    "of hidden or background": "an option that does not count makes a conflict",
    "another time to live": "answers 86",
    "of the id": "has a name of its own",
    "of several fields with a time to live": "is accepted",
    "partial with $ne": "is accepted",
    "partial and sparse": "is accepted",
    "to itself": "is accepted",
    "fail when not matched": "answers 14",
    "on a field that is not unique": "answers 14",
}


def compare(name: str) -> None:
    """Skip the comparison with what the server does, where ours is known not to do what mongod does."""
    if OURS and name in UNLIKE_MONGOD:
        pytest.skip(f"The server of the tests differs from mongod: {name}: {UNLIKE_MONGOD[name]}")


DONE, NO_OP, FAILS, UNKNOWN = Expected.DONE, Expected.NO_OP, Expected.FAILS, Expected.UNKNOWN


class Effects:
    """Counts what commands that are heard did to documents, by collection."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}

    def sending(self, command: Command) -> None:
        """Let all pass."""
        self.sent.append(command.name)

    def answered(self, command: Command, reply: Mapping[str, Any]) -> None:
        if command.name not in ("insert", "update", "delete"):
            return
        assert command.collection
        found = self.counts.setdefault(command.collection, {})
        upserted = len(reply.get("upserted", ()))
        names = {"insert": "inserted", "update": "matched", "delete": "deleted"}
        for name, number in (
            (names[command.name], reply["n"] - upserted),
            ("upserted", upserted),
            ("modified", reply.get("nModified", 0)),
        ):
            if number:
                found[name] = found.get(name, 0) + number


class Rehearsal:
    """A dry run that is under way."""

    def __init__(self, forecast: Forecast, effects: Effects, spent: list[int]) -> None:
        self.forecast = forecast
        self.db: Any = forecast.database
        self.effects = effects
        self.spent = spent

    def of(self, act: Act) -> tuple[list[Prediction], Exception | None]:
        """Let it be done, and return what was predicted and what was raised."""
        raised = None
        try:
            act(self.db)
        except Exception as exc:  # noqa: BLE001  (it is what is looked at)
            raised = exc
        return list(self.forecast.take()), raised

    def one(self, act: Act) -> Prediction:
        """Let it be done, and return the only prediction."""
        predictions, _ = self.of(act)
        assert len(predictions) == 1, predictions
        return predictions[0]


@contextlib.contextmanager
def rehearsal(db: Db, **options: Any) -> Iterator[Rehearsal]:
    effects = Effects()
    spent: list[int] = []
    options = {"spend": spent.append, **options}
    with db.client.start_session() as session:
        session.start_transaction()
        try:
            with confined(session), wire.tapped(effects):
                with wire.unheard():
                    db["anything"].find_one()
                yield Rehearsal(Forecast(db, **options), effects, spent)
        finally:
            session.abort_transaction()


def contents(db: Db) -> dict[str, Any]:
    """Everything of a database: documents, indexes and options."""
    return {
        each["name"]: (
            each["type"],
            each.get("options", {}),
            sorted(db[each["name"]].find(), key=repr),
            db[each["name"]].index_information() if each["type"] == "collection" else None,
        )
        for each in db.list_collections()
    }


def really(db: Db, act: Act) -> Exception | None:
    try:
        act(db)
    except OperationFailure as exc:
        return exc
    except CollectionInvalid as exc:
        return exc
    return None


@pytest.fixture
def airports(db: Db) -> list[dict[str, Any]]:
    """The airports with an IATA code, of which FRA and JFK are there three times and twice."""
    found = [dict(a, _id=n) for n, a in enumerate(airportsdata.load().values()) if a["iata"]][:400]
    planted = [("FRA", 3), ("JFK", 2)]
    for iata, times in planted:
        found += [{"_id": f"{iata}{n}", "iata": iata, "city": "X"} for n in range(times)]
    found = [a for a in found if a["iata"] not in ("FRA", "JFK") or a.get("city") == "X"]
    db.airports.insert_many(found)
    return found


# --- indexes


def test_a_plain_index_would_be_built_over_every_document(db: Db, airports: list[Any]) -> None:
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.airports.create_index([("city", 1), ("name", -1)]))
    assert predicted.expected is DONE
    assert predicted.facts == {
        "index": "city_1_name_-1",
        "keys": {"city": 1, "name": -1},
        "documents": len(airports),
    }
    assert predicted.detail == (
        f"city_1_name_-1 on {{city: 1, name: -1}} would be built over {len(airports)} documents"
    )
    assert list(db.airports.index_information()) == ["_id_"]


def test_the_keys_that_break_a_unique_index_are_named(db: Db, airports: list[Any]) -> None:
    with rehearsal(db) as run:
        (predicted,), raised = run.of(lambda d: d.airports.create_index("iata", unique=True))
        assert run.db.airports.count_documents({}) == len(airports)  # The transaction lives.
    assert predicted.expected is FAILS
    assert predicted.facts["duplicateKeys"] == 2
    assert predicted.facts["duplicateDocuments"] == 5
    assert predicted.facts["duplicates"] == [
        {"key": {"iata": "FRA"}, "count": 3},
        {"key": {"iata": "JFK"}, "count": 2},
    ]
    assert predicted.detail == (
        "would fail: 2 keys occur more than once (5 documents): "
        "{iata: 'FRA'} 3 times, {iata: 'JFK'} 2 times"
    )
    assert isinstance(raised, DuplicateKeyError)
    assert raised.code == 11000
    assert raised.details is not None
    assert raised.details["keyPattern"] == {"iata": 1}
    assert raised.details["keyValue"] == {"iata": "FRA"}
    assert isinstance(
        really(db, lambda d: d.airports.create_index("iata", unique=True)), DuplicateKeyError
    )


def test_no_more_than_five_keys_are_named_and_all_are_counted(db: Db) -> None:
    db.a.insert_many([{"x": n // 2} for n in range(2_000)])
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index("x", unique=True))
    assert predicted.facts["duplicateKeys"] == 1_000
    assert predicted.facts["duplicateDocuments"] == 2_000
    assert [each["key"]["x"] for each in predicted.facts["duplicates"]] == [0, 1, 2, 3, 4]
    assert predicted.detail.endswith("{x: 4} 2 times, …")
    assert "1,000 keys occur more than once (2,000 documents)" in predicted.detail


KEYS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[tuple[Any, int]]]] = {
    "different values": ([{"x": 1}, {"x": 2}], {}, []),
    "numbers of different types": ([{"x": 1}, {"x": 1.0}], {}, [({"x": 1}, 2)]),
    "a number and true": ([{"x": 1}, {"x": True}], {}, []),
    "missing is null": ([{}, {"x": None}, {"y": 1}], {}, [({"x": None}, 3)]),
    "missing, sparse": ([{}, {}, {"x": 1}], {"sparse": True}, []),
    "null, sparse": ([{"x": None}, {"x": None}], {"sparse": True}, [({"x": None}, 2)]),
    "outside the partial filter": (
        [{"x": 1}, {"x": 1, "live": True}],
        {"partialFilterExpression": {"live": True}},
        [],
    ),
    "inside the partial filter": (
        [{"x": 1, "live": True}, {"x": 1, "live": True}, {"x": 1}],
        {"partialFilterExpression": {"live": True}},
        [({"x": 1}, 2)],
    ),
    "subdocuments as wholes": ([{"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}], {}, []),
    "equal subdocuments": ([{"x": {"a": 1}}, {"x": {"a": 1}}], {}, [({"x": {"a": 1}}, 2)]),
    "elements of arrays": ([{"x": [1, 2]}, {"x": [2, 3]}], {}, [({"x": 2}, 2)]),
    "an element and a scalar": ([{"x": [1, 2]}, {"x": 2}], {}, [({"x": 2}, 2)]),
    "twice in one array": ([{"x": [1, 1]}, {"x": [2]}], {}, []),
    "empty arrays": ([{"x": []}, {"x": []}], {}, [({"x": []}, 2)]),
    "an empty array and null": ([{"x": []}, {"x": None}], {}, []),
    "an array in an array": ([{"x": [[1]]}, {"x": [1]}], {}, []),
    "strings": ([{"x": "a"}, {"x": "A"}], {}, []),
}
DOTTED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[tuple[Any, int]]]] = {
    "in subdocuments": ([{"x": {"y": 1}}, {"x": {"y": 1}}], {}, [({"x.y": 1}, 2)]),
    "in subdocuments of arrays": (
        [{"x": [{"y": 1}, {"y": 2}]}, {"x": [{"y": 2}]}],
        {},
        [({"x.y": 2}, 2)],
    ),
    "in arrays of subdocuments": ([{"x": {"y": [1, 2]}}, {"x": {"y": 1}}], {}, [({"x.y": 1}, 2)]),
    "missing in one element": ([{"x": [{"y": 1}, {}]}, {}], {}, [({"x.y": None}, 2)]),
    "missing in one element, sparse": (
        [{"x": [{"y": 1}, {}]}, {"x": [{}, {"y": 2}]}],
        {"sparse": True},
        [],
    ),
    "scalars on the way": ([{"x": [7]}, {"x": 3}], {}, [({"x.y": None}, 2)]),
}
PAIRS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[tuple[Any, int]]]] = {
    "of pairs": ([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}], {}, []),
    "of pairs with missing": ([{"a": 1}, {"a": 1}], {}, [({"a": 1, "b": None}, 2)]),
    "of pairs with an array": (
        [{"a": [1, 2], "b": 5}, {"a": 2, "b": 5}],
        {},
        [({"a": 2, "b": 5}, 2)],
    ),
    "of pairs, sparse, one there": (
        [{"a": 1}, {"a": 1}, {}, {}],
        {"sparse": True},
        [({"a": 1, "b": None}, 2)],
    ),
}


@pytest.mark.parametrize(
    ("name", "keys", "documents", "options", "repeated"),
    [
        pytest.param(name, keys, *case, id=name)
        for keys, table in (
            ([("x", 1)], KEYS),
            ([("x.y", 1)], DOTTED),
            ([("a", 1), ("b", -1)], PAIRS),
        )
        for name, case in table.items()
    ],
)
def test_a_unique_index_is_foreseen_to_be_what_the_server_makes_of_it(
    db: Db,
    name: str,
    keys: list[tuple[str, int]],
    documents: list[dict[str, Any]],
    options: dict[str, Any],
    repeated: list[tuple[Any, int]],
) -> None:
    if name == "subdocuments as wholes":
        compare(name)  # Neither does $group on that server.
    db.a.insert_many([{"_id": n, **document} for n, document in enumerate(documents)])

    def act(d: Any) -> None:
        d.a.create_index(keys, unique=True, **options)

    before = contents(db)
    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
    assert contents(db) == before
    assert predicted.expected is (FAILS if repeated else DONE)
    assert [
        (each["key"], each["count"]) for each in predicted.facts.get("duplicates", [])
    ] == repeated
    compare(name)
    real = really(db, act)
    assert type(raised) is type(real)
    assert (len(db.a.index_information()) == 2) is (not repeated)


def test_two_arrays_in_one_key_are_foreseen(db: Db) -> None:
    db.a.insert_many([{"a": [1], "b": 2}, {"a": [1], "b": [2]}])

    def act(d: Any) -> None:
        d.a.create_index([("a", 1), ("b", 1)])

    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
    assert predicted.expected is FAILS
    assert isinstance(raised, OperationFailure)
    assert raised.code == 171
    assert "parallel arrays [b] [a]" in predicted.detail
    compare("parallel arrays")
    real = really(db, act)
    assert isinstance(real, OperationFailure)
    assert real.code == 171


def test_arrays_in_different_elements_of_one_array_are_not_parallel(db: Db) -> None:
    db.a.insert_one({"a": [{"b": [1]}, {"c": [2]}]})
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index([("a.b", 1), ("a.c", 1)]))
    assert predicted.expected is DONE


def test_documents_with_several_repeated_keys_are_counted_once(db: Db) -> None:
    db.a.insert_many([{"x": [1, 2]}, {"x": [1, 2]}])
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index("x", unique=True))
    assert predicted.facts["duplicateKeys"] == 2
    assert predicted.facts["duplicateDocuments"] == 2


def test_a_collation_decides_which_keys_are_equal(db: Db) -> None:
    db.a.insert_many([{"x": "a"}, {"x": "A"}])
    collation = Collation("en", strength=2)
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index("x", unique=True, collation=collation))
    assert predicted.expected is FAILS
    assert predicted.facts["duplicateDocuments"] == 2


@pytest.mark.parametrize(
    ("keys", "options", "document", "cause"),
    [
        ([("x", "2dsphere")], {}, {"x": [1, 2]}, "2dsphere"),
        ([("$**", 1)], {}, {"x": 1}, "wildcard"),
        ([("x", "hashed")], {}, {"x": 1}, "hashed"),
        ([("x.0", 1)], {"unique": True}, {"x": [1]}, "position in an array or a name"),
        ([("x", 1)], {"unique": True, "collation": Collation("en")}, {"x": ["a"]}, "collation"),
    ],
)
def test_what_cannot_be_known_is_said_to_be_unknown(
    db: Db, keys: Any, options: Any, document: Any, cause: str
) -> None:
    db.a.insert_one(document)
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index(keys, **options))
    assert predicted.expected is UNKNOWN
    assert cause in predicted.detail


def test_how_many_documents_would_expire_at_once_is_said(db: Db) -> None:
    now = datetime.now(timezone.utc)
    ages = [0, 30, 90, 120]
    db.a.insert_many([{"at": now - timedelta(seconds=age)} for age in ages] + [{"at": "x"}, {}])
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index("at", expireAfterSeconds=60))
    assert predicted.facts["expiring"] == 2
    assert predicted.detail.endswith(
        "would be built over 6 documents; 2 documents would expire at once"
    )


EXISTING: dict[str, tuple[Any, dict[str, Any], Expected, int | None]] = {
    "the same": ("x", {}, NO_OP, None),
    "of hidden or background": ("x", {"background": True}, NO_OP, None),
    "unique where it was not": ("x", {"unique": True}, FAILS, 86),
    "another key of the same name": ("y", {"name": "x_1"}, FAILS, 86),
    "another name for the same key": ("x", {"name": "other"}, FAILS, 85),
    "another time to live": ("x", {"expireAfterSeconds": 5}, FAILS, 85),
    "a new one": ("y", {}, DONE, None),
    "of the id": ("_id", {}, NO_OP, None),
    "of several fields with a time to live": (
        [("x", 1), ("y", 1)],
        {"expireAfterSeconds": 5},
        FAILS,
        67,
    ),
    "partial with $ne": ("z", {"partialFilterExpression": {"z": {"$ne": 1}}}, FAILS, 67),
    "partial and sparse": ("z", {"partialFilterExpression": {"z": 1}, "sparse": True}, FAILS, 67),
}


@pytest.mark.parametrize("name", EXISTING)
def test_an_index_beside_those_that_are_there(db: Db, name: str) -> None:
    keys, options, expected, code = EXISTING[name]
    db.a.insert_one({"x": 1})
    db.a.create_index("x")

    def act(d: Any) -> object:
        return d.a.create_index(keys, **options)

    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
    assert predicted.expected is expected
    assert getattr(raised, "code", None) == code
    compare(name)
    real = really(db, act)
    assert getattr(real, "code", None) == code


def test_of_several_indexes_none_is_made_when_one_fails(db: Db) -> None:
    db.a.insert_many([{"x": 1}, {"x": 1}])

    def act(d: Any) -> None:
        d.a.create_indexes([IndexModel("y"), IndexModel("x", unique=True)])

    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
        assert isinstance(raised, DuplicateKeyError)
        assert [each["name"] for each in run.db.a.list_indexes()] == ["_id_"]
    assert (predicted.expected, predicted.facts["index"]) == (FAILS, "x_1")


def test_a_predicted_index_is_there_for_what_follows(db: Db) -> None:
    db.a.insert_one({"x": 1})
    with rehearsal(db) as run:
        assert run.one(lambda d: d.a.create_index("x", unique=True)).expected is DONE
        assert run.one(lambda d: d.a.create_index("x", unique=True)).expected is NO_OP
        assert run.db.a.index_information()["x_1"] == {"v": 2, "unique": True, "key": [("x", 1)]}
        (failing,), raised = run.of(lambda d: d.a.create_index("x", name="y"))
        assert failing.expected is DONE  # Another signature: this one is not unique.
        assert raised is None
        run.db.a.drop_index("x_1")
        assert list(run.db.a.index_information()) == ["_id_", "y"]
    assert list(db.a.index_information()) == ["_id_"]


def test_writes_that_break_a_predicted_unique_index_are_found_when_the_step_ends(db: Db) -> None:
    with rehearsal(db) as run:
        run.db.a.create_index("x", unique=True)
        run.forecast.settle(())
        assert [each.expected for each in run.forecast.take()] == [DONE]
        run.db.a.insert_many([{"x": 1}, {"x": 1}])
        run.forecast.settle(())
        (broken,) = run.forecast.take()
    assert broken.expected is FAILS
    assert broken.facts["duplicates"] == [{"key": {"x": 1}, "count": 2}]


def test_an_index_makes_a_collection_that_is_not_there(db: Db) -> None:
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.create_index("x", unique=True))
        assert run.db.list_collection_names() == ["a"]
    assert predicted.facts["documents"] == 0
    assert "not there yet" in predicted.detail
    assert db.list_collection_names() == []


def test_values_of_repeated_keys_are_masked_everywhere(db: Db) -> None:
    db.a.insert_many([{"mail": "me@example.org"}, {"mail": "me@example.org"}])
    with rehearsal(db, mask=lambda path, value: f"<{path}>") as run:
        (predicted,), raised = run.of(lambda d: d.a.create_index("mail", unique=True))
    assert "example" not in f"{predicted} {raised} {getattr(raised, 'details', None)}"
    assert predicted.facts["duplicates"] == [{"key": {"mail": "<mail>"}, "count": 2}]


def test_a_view_has_no_indexes(db: Db) -> None:
    db.a.insert_one({"x": 1})
    db.create_collection("v", viewOn="a", pipeline=[])
    acts: list[Act] = [
        lambda d: d.v.create_index("x"),
        lambda d: d.v.drop_index("x_1"),
        lambda d: d.v.rename("w"),
    ]
    for act in acts:
        with rehearsal(db) as run:
            (predicted,), raised = run.of(act)
        assert predicted.expected is FAILS
        assert getattr(raised, "code", None) == 166
    with rehearsal(db) as run:
        assert run.one(lambda d: d.v.drop()).detail == "the view v would be dropped"
        assert run.db.list_collection_names() == ["a"]


DROPS: dict[str, tuple[Act, Expected, int | None]] = {
    "by name": (lambda d: d.a.drop_index("x_1"), DONE, None),
    "by key": (lambda d: d.a.drop_index([("x", 1)]), DONE, None),
    "an unknown name": (lambda d: d.a.drop_index("nope"), FAILS, 27),
    "that of the id": (lambda d: d.a.drop_index("_id_"), FAILS, 72),
    "as a command by key": (lambda d: d.command("dropIndexes", "a", index={"x": 1}), DONE, None),
    "of what does not exist": (lambda d: d.gone.drop_index("x_1"), FAILS, None),
}


@pytest.mark.parametrize("name", DROPS)
def test_dropping_an_index(db: Db, name: str) -> None:
    act, expected, code = DROPS[name]
    db.a.insert_one({"x": 1})
    db.a.create_index("x")
    before = contents(db)
    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
        left = list(run.db.a.index_information())
    assert contents(db) == before
    assert predicted.expected is expected
    compare(name)
    real = really(db, act)
    assert getattr(raised, "code", None) == getattr(real, "code", None) == code
    assert list(db.a.index_information()) == left


def test_dropping_all_indexes_leaves_that_of_the_id(db: Db) -> None:
    db.a.create_indexes([IndexModel("x"), IndexModel("y")])
    with rehearsal(db) as run:
        predictions, _ = run.of(lambda d: d.a.drop_indexes())
        assert list(run.db.a.index_information()) == ["_id_"]
    assert [each.facts["index"] for each in predictions] == ["x_1", "y_1"]
    assert len(db.a.index_information()) == 3


# --- collections


def test_a_dropped_collection_is_gone_for_what_follows(db: Db) -> None:
    db.a.insert_many([{"x": n} for n in range(3)])
    db.a.create_index("x")
    before = contents(db)
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.drop())
        assert run.db.list_collection_names() == []
        assert run.db.a.count_documents({}) == run.db.a.estimated_document_count() == 0
        assert list(run.db.a.list_indexes()) == []
        assert run.one(lambda d: d.drop_collection("a")).expected is NO_OP
        run.db.a.insert_one({"x": 9})
        assert run.db.list_collection_names() == ["a"]
        assert list(run.db.a.index_information()) == ["_id_"]
    assert predicted.expected is DONE
    assert predicted.facts == {"documents": 3, "indexes": ["_id_", "x_1"]}
    assert predicted.detail == "a would be dropped, with 3 documents and 2 indexes"
    assert run.spent == [3]
    assert run.effects.counts == {"a": {"inserted": 1}}
    assert contents(db) == before


def test_nothing_is_written_once_the_guard_refuses(db: Db) -> None:
    db.a.insert_one({"x": 1})

    def refuse(n: int) -> None:
        raise RuntimeError(f"{n} are too many")

    with rehearsal(db, spend=refuse) as run:
        for act in (
            lambda d: d.a.drop(),
            lambda d: d.a.rename("b"),
            lambda d: d.b.aggregate([{"$out": "a"}]),
        ):
            predictions, raised = run.of(act)
            assert isinstance(raised, RuntimeError)
            assert predictions == []
            assert run.db.a.count_documents({}) == 1
            assert run.db.list_collection_names() == ["a"]


def test_a_renamed_collection_has_its_documents_and_indexes_under_the_new_name(db: Db) -> None:
    db.a.insert_many([{"_id": n, "x": n} for n in range(1_500)])
    db.a.create_index("x", unique=True)
    before = contents(db)
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.a.rename("b"))
        assert run.db.list_collection_names() == ["b"]
        assert run.db.b.count_documents({}) == 1_500
        assert run.db.a.count_documents({}) == 0
        assert run.db.b.index_information()["x_1"]["unique"] is True
        assert {"a", "b"} <= run.forecast.touched
    assert predicted.expected is DONE
    assert predicted.facts == {"to": "b", "documents": 1_500, "replaced": 0}
    assert run.spent == [3_000]
    assert run.effects.counts == {}
    assert contents(db) == before


RENAMES: dict[str, tuple[Act, Expected, int | None]] = {
    "to a free name": (lambda d: d.a.rename("c"), DONE, None),
    "onto another": (lambda d: d.a.rename("b"), FAILS, 48),
    "in the place of another": (lambda d: d.a.rename("b", dropTarget=True), DONE, None),
    "of nothing": (lambda d: d.gone.rename("c"), FAILS, 26),
    "to itself": (lambda d: d.a.rename("a"), FAILS, 20),
}


@pytest.mark.parametrize("name", RENAMES)
def test_renaming(db: Db, name: str) -> None:
    act, expected, code = RENAMES[name]
    db.a.insert_many([{"_id": 1, "x": 1}, {"_id": 2}])
    db.b.insert_one({"_id": 3})
    before = contents(db)
    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
        there = sorted(run.db.list_collection_names())
        found = {each: sorted(run.db[each].find(), key=repr) for each in there}
    assert contents(db) == before
    assert predicted.expected is expected
    compare(name)
    real = really(db, act)
    assert getattr(raised, "code", None) == getattr(real, "code", None) == code
    assert sorted(db.list_collection_names()) == there
    assert {each: sorted(db[each].find(), key=repr) for each in there} == found


def test_a_created_collection_is_there_with_its_options(db: Db) -> None:
    with rehearsal(db) as run:
        predicted = run.one(lambda d: d.create_collection("a", validator={"x": {"$gt": 0}}))
        assert run.db.a.options() == {"validator": {"x": {"$gt": 0}}}
        assert run.db.list_collection_names(filter={"name": {"$regex": "^a"}}) == ["a"]
        run.db.a.insert_many([{"x": 1}, {"x": 0}])
        run.forecast.settle(())
        (broken,) = run.forecast.take()
    assert predicted.expected is DONE
    assert broken.facts["violations"] == 1
    assert db.list_collection_names() == []


def test_a_collection_that_exists_cannot_be_created(db: Db) -> None:
    db.a.insert_one({})

    def act(d: Any) -> None:
        d.create_collection("a")

    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
        assert predicted.expected is FAILS
        assert isinstance(raised, CollectionInvalid)
        (predicted,), raised = run.of(lambda d: d.command("create", "a", capped=True, size=10))
        assert getattr(raised, "code", None) == 48
    assert isinstance(really(db, act), CollectionInvalid)


def test_a_validator_is_weighed_against_what_is_there(db: Db) -> None:
    db.a.insert_many([{"x": n} for n in range(-2, 3)])

    def act(d: Any) -> None:
        d.command("collMod", "a", validator={"x": {"$gte": 0}})

    with rehearsal(db) as run:
        predicted = run.one(act)
        assert run.db.a.options()["validator"] == {"x": {"$gte": 0}}
        assert run.one(act).expected is NO_OP
    assert predicted.expected is DONE
    assert predicted.facts == {"documents": 5, "violations": 2}
    assert db.a.options() == {}


def test_a_rule_that_the_server_cannot_read_fails_without_ending_the_transaction(db: Db) -> None:
    db.a.insert_one({"x": 1})
    with rehearsal(db) as run:
        for act in (
            lambda d: d.command("collMod", "a", validator={"x": {"$nonsense": 1}}),
            lambda d: d.create_collection("b", validator={"$nonsense": 1}),
            lambda d: d.a.create_index("x", partialFilterExpression={"x": {"$nonsense": 1}}),
        ):
            (predicted,), raised = run.of(act)
            assert predicted.expected is FAILS
            assert isinstance(raised, OperationFailure)
            assert run.db.a.count_documents({}) == 1


@pytest.mark.parametrize(
    ("change", "expected", "code"),
    [
        ({"name": "at_1", "expireAfterSeconds": 60}, DONE, None),
        ({"keyPattern": {"at": 1}, "expireAfterSeconds": 3600}, NO_OP, None),
        ({"name": "at_1", "hidden": True}, DONE, None),
        ({"name": "nope", "hidden": True}, FAILS, 27),
    ],
)
def test_changing_an_index(db: Db, change: Any, expected: Expected, code: int | None) -> None:
    db.a.insert_one({"at": datetime.now(timezone.utc) - timedelta(minutes=5)})
    db.a.create_index("at", expireAfterSeconds=3600)

    def act(d: Any) -> None:
        d.command({"collMod": "a", "index": change})

    with rehearsal(db) as run:
        (predicted,), raised = run.of(act)
    assert predicted.expected is expected
    real = really(db, act)
    assert getattr(raised, "code", None) == getattr(real, "code", None) == code
    if change.get("expireAfterSeconds") == 60:
        assert predicted.facts["expiring"] == 1


def test_an_index_is_made_unique_only_where_no_key_is_repeated(db: Db) -> None:
    db.a.insert_many([{"x": 1, "y": 1}, {"x": 1, "y": 2}])
    db.a.create_indexes([IndexModel("x"), IndexModel("y")])
    with rehearsal(db) as run:
        (predicted,), raised = run.of(
            lambda d: d.command("collMod", "a", index={"name": "x_1", "unique": True})
        )
        assert getattr(raised, "code", None) == 72
        for name in ("x_1", "y_1"):
            run.db.command("collMod", "a", index={"name": name, "prepareUnique": True})
        run.forecast.take()
        (predicted,), raised = run.of(
            lambda d: d.command("collMod", "a", index={"name": "x_1", "unique": True})
        )
        assert predicted.facts["duplicates"] == [{"key": {"x": 1}, "count": 2}]
        assert getattr(raised, "code", None) == 359
        run.db.command("collMod", "a", index={"name": "y_1", "unique": True})
        assert run.db.a.index_information()["y_1"]["unique"] is True


def test_a_rule_that_would_be_gone_by_then_makes_no_failure(db: Db) -> None:
    db.a.insert_one({"x": 1})
    db.a.create_index("x", unique=True)
    gone: list[Act] = [lambda d: d.a.drop_index("x_1"), lambda d: d.a.drop()]
    for act in gone:
        with rehearsal(db) as run:
            act(run.db)
            run.forecast.take()
            (predicted,), raised = run.of(lambda d: d.a.insert_many([{"x": 5}, {"x": 5}]))
        assert isinstance(raised, NotRehearsableError)
        assert predicted.expected is UNKNOWN
        assert "the unique index on {x: 1} of a that would be gone" in predicted.detail
    with rehearsal(db) as run:
        (_), raised = run.of(lambda d: d.a.insert_one({"x": 1}))
        assert isinstance(raised, DuplicateKeyError)


def test_a_validator_that_would_be_gone_by_then_makes_no_failure(db: Db) -> None:
    db.create_collection("a", validator={"x": {"$gt": 0}})
    with rehearsal(db) as run:
        run.db.command("collMod", "a", validator={})
        run.forecast.take()
        (predicted,), raised = run.of(lambda d: d.a.insert_one({"x": 0}))
        assert isinstance(raised, NotRehearsableError)
        assert "the validator of a that would be gone" in predicted.detail
    with rehearsal(db) as run:
        _, raised = run.of(lambda d: d.a.insert_one({"x": 0}))
        assert getattr(raised, "code", None) == 121


def test_renaming_goes_past_the_rules_of_what_is_replaced(db: Db) -> None:
    db.create_collection("b", validator={"x": {"$gt": 0}})
    db.b.create_index("k", unique=True)
    db.a.insert_many([{"x": 0, "k": 1}, {"x": 0, "k": 2}])
    with rehearsal(db) as run:
        run.db.a.rename("b", dropTarget=True)
        assert run.db.b.count_documents({"x": 0}) == 2
    db.a.insert_one({"k": 2})
    with rehearsal(db) as run:
        (predicted,), raised = run.of(lambda d: d.a.rename("b", dropTarget=True))
        assert isinstance(raised, NotRehearsableError)
        assert "unique index k_1 of b" in predicted.detail
        assert run.db.a.count_documents({}) == 3


# --- commands


def test_commands_are_parsed_into_the_same_predictions(db: Db) -> None:
    db.a.insert_one({"x": 1})
    index = {"key": {"x": 1}, "name": "x_1"}
    with rehearsal(db) as run:
        for command in (
            lambda d: d.command("createIndexes", "a", indexes=[index]),
            lambda d: d.command(SON([("createIndexes", "a"), ("indexes", [index])])),
            lambda d: d.command({"createIndexes": "a", "indexes": [index]}),
        ):
            assert run.one(command).operation == "createIndexes"
        assert run.one(lambda d: d.command("drop", "a")).operation == "drop"
        assert run.one(lambda d: d.command("create", "c")).operation == "create"


def test_commands_that_a_transaction_allows_are_sent(db: Db) -> None:
    with rehearsal(db) as run:
        assert run.db.command("insert", "a", documents=[{"_id": 1}])["n"] == 1
        assert run.db.command("find", "a")["cursor"]["firstBatch"] == [{"_id": 1}]
        assert run.db.command("count", "a", query={"_id": 1})["n"] == 1
        assert run.db.command("ping")["ok"] == 1
        assert run.db.command("buildInfo")["ok"] == 1
        names = run.db.command("listCollections")["cursor"]["firstBatch"]
        assert [each["name"] for each in names] == ["a"]
        assert run.forecast.take() == ()
    assert run.effects.counts == {"a": {"inserted": 1}}
    assert db.list_collection_names() == []


def _command(name: str, d: Any) -> object:
    return d.command(name, "a")


def test_commands_that_are_not_known_are_refused(db: Db) -> None:
    with rehearsal(db) as run:
        for command in ("compact", "reIndex", "mapReduce", "cloneCollectionAsCapped"):
            (predicted,), raised = run.of(functools.partial(_command, command))
            assert predicted.expected is UNKNOWN
            assert isinstance(raised, NotRehearsableError)
            assert command in str(raised)
        (_,), raised = run.of(lambda d: d.a.watch())
        assert isinstance(raised, NotRehearsableError)
        assert run.db.a.find_one() is None


def test_a_failure_that_is_not_to_be_raised_is_returned(db: Db) -> None:
    with rehearsal(db) as run:
        answer = run.db.command("dropIndexes", "a", index="x", check=False)
        assert (answer["ok"], answer["code"]) == (0.0, 26)
        answer = run.db.command("dropIndexes", "a", index="x", allowable_errors=[26])
        assert answer["codeName"] == "NamespaceNotFound"


# --- $out and $merge

SOURCE: list[dict[str, Any]] = [{"_id": n, "k": n, "v": "new"} for n in (1, 2, 3)]
TARGET: list[dict[str, Any]] = [
    {"_id": 2, "k": 2, "v": "old", "w": 1},
    {"_id": 3, "k": 3, "v": "new"},
    {"_id": 9, "k": 9},
]
MERGES: dict[str, tuple[Any, int | None, dict[str, int]]] = {
    "by its name": ("t", None, {"upserted": 1, "matched": 2, "modified": 1}),
    "merge": ({"into": "t"}, None, {"upserted": 1, "matched": 2, "modified": 1}),
    "replace": (
        {"into": "t", "whenMatched": "replace"},
        None,
        {"upserted": 1, "matched": 2, "modified": 1},
    ),
    "keep": ({"into": "t", "whenMatched": "keepExisting"}, None, {"upserted": 1, "matched": 2}),
    "discard": ({"into": "t", "whenNotMatched": "discard"}, None, {"matched": 2, "modified": 1}),
    "fail when matched": ({"into": "t", "whenMatched": "fail"}, 11000, {"inserted": 1}),
    "fail when not matched": (
        {"into": "t", "whenNotMatched": "fail"},
        13113,
        {"matched": 2, "modified": 1},
    ),
    "on another field": (
        {"into": "t", "on": "k"},
        None,
        {"upserted": 1, "matched": 2, "modified": 1},
    ),
    "on a field that is not unique": ({"into": "t", "on": "v"}, 51183, {}),
    "by a pipeline": (
        {"into": "t", "whenMatched": [{"$set": {"v": "$$new.v", "seen": True}}]},
        None,
        {"inserted": 1, "matched": 2, "modified": 2},
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_merging(db: Db, name: str) -> None:
    stage, code, effects = MERGES[name]
    db.s.insert_many(SOURCE)
    db.t.insert_many(TARGET)
    db.t.create_index("k", unique=True)
    before = contents(db)
    found = None

    def act(d: Any) -> None:
        assert list(d.s.aggregate([{"$match": {}}, {"$merge": stage}])) == []

    with rehearsal(db) as run:
        predictions, raised = run.of(act)
        if raised is None:
            found = sorted(run.db.t.find(), key=repr)
        done = run.effects.counts.get("t", {})
    assert contents(db) == before
    assert done == effects
    assert getattr(raised, "code", None) == code
    compare(name)
    real = really(db, act)
    assert getattr(real, "code", None) == code
    if code is None:
        assert predictions[0].expected is DONE
        assert predictions[0].facts == {"documents": 3}
        assert sorted(db.t.find(), key=repr) == found


def test_values_of_all_types_come_through(db: Db) -> None:
    codec = CodecOptions[dict[str, Any]](uuid_representation=UuidRepresentation.STANDARD)
    own = db.with_options(codec)
    key = uuid.uuid4()
    own.s.insert_one({"_id": key, "n": Decimal128("1.50"), "r": Regex("a", "i"), "k": Int64(1)})
    own.t.insert_one({"_id": key, "w": 1})
    stored = own.s.find_one()
    assert stored
    with rehearsal(own) as run:
        run.db.s.aggregate([{"$match": {"_id": key}}, {"$merge": "t"}])
        assert list(run.db.t.find()) == [{**stored, "w": 1}]
        run.db.s.rename("u")
        assert list(run.db.u.find()) == [stored]


def test_merging_into_what_is_read_ends(db: Db) -> None:
    db.s.insert_many([{"_id": n} for n in range(2_500)])
    stages = [{"$project": {"_id": {"$add": ["$_id", 10_000]}}}, {"$merge": "s"}]
    with rehearsal(db) as run:
        run.db.s.aggregate(stages, batchSize=500)
        assert run.db.s.count_documents({}) == 5_000
    assert run.effects.counts == {"s": {"upserted": 2_500}}
    sent = [name for name in run.effects.sent if name in ("getMore", "update")]
    assert sent == sorted(sent)  # All is read before anything is written.
    assert set(sent) == {"getMore", "update"}


def test_documents_without_an_id_are_inserted(db: Db) -> None:
    db.s.insert_many(SOURCE)
    db.t.create_index("k", unique=True)
    with rehearsal(db) as run:
        run.db.s.aggregate([{"$project": {"_id": 0, "k": 1}}, {"$merge": {"into": "t"}}])
        assert all(isinstance(each["_id"], ObjectId) for each in run.db.t.find())
        run.db.s.aggregate([{"$project": {"_id": 0, "k": 1}}, {"$merge": {"into": "t", "on": "k"}}])
        assert run.db.t.count_documents({}) == 3


@pytest.mark.parametrize("target", ["t", {"coll": "t"}])
def test_out_replaces_all_documents(db: Db, target: Any) -> None:
    db.s.insert_many(SOURCE)
    db.t.insert_many(TARGET)
    target = {"db": db.name, **target} if isinstance(target, dict) else target
    before = contents(db)

    def act(d: Any) -> None:
        assert list(d.s.aggregate([{"$match": {"k": {"$lt": 3}}}, {"$out": target}])) == []

    with rehearsal(db) as run:
        predicted = run.one(act)
        found = list(run.db.t.find())
    assert contents(db) == before
    assert predicted.facts == {"replaced": 3, "documents": 2}
    assert predicted.detail == "3 documents of t would be replaced with 2"
    assert run.spent == [3]
    assert run.effects.counts == {"t": {"inserted": 2}}
    act(db)
    assert list(db.t.find()) == found


def test_out_as_a_command_and_into_what_is_not_there(db: Db) -> None:
    db.s.insert_many(SOURCE)
    with rehearsal(db) as run:
        answer = run.db.command("aggregate", "s", pipeline=[{"$out": "new"}], cursor={})
        assert answer["cursor"]["firstBatch"] == []
        assert run.db.new.count_documents({}) == 3
        assert sorted(run.db.list_collection_names()) == ["new", "s"]


@pytest.mark.parametrize(
    "stage",
    [
        {"$out": {"db": "elsewhere", "coll": "t"}},
        {"$merge": {"into": {"db": "elsewhere", "coll": "t"}}},
        {"$out": {"db": "", "coll": "t", "timeseries": {"timeField": "at"}}},
        {"$merge": {"into": "t", "let": {"y": 1}, "whenMatched": [{"$set": {"x": "$$y"}}]}},
        {"$merge": {"into": "log"}},
        {"$out": "log"},
    ],
)
def test_results_that_cannot_be_written_here_are_refused(db: Db, stage: Any) -> None:
    db.create_collection("log", capped=True, size=4096)
    db.s.insert_many(SOURCE)
    ((name, target),) = stage.items()
    if isinstance(target, dict) and target.get("db") == "":
        stage = {name: {**target, "db": db.name}}
    with rehearsal(db) as run:
        (predicted,), raised = run.of(lambda d: d.s.aggregate([stage]))
        assert isinstance(raised, NotRehearsableError)
        assert predicted.expected is UNKNOWN
        assert run.db.s.count_documents({}) == 3


# --- what a transaction cannot write to


def test_writes_to_a_capped_collection_are_refused_and_reads_are_not(db: Db) -> None:
    db.create_collection("log", capped=True, size=4096)
    db.log.insert_one({"_id": 1})
    with rehearsal(db) as run:
        for act in (
            lambda d: d.log.insert_one({}),
            lambda d: d["log"].bulk_write([]),
            lambda d: d.log.find_one_and_update({}, {"$set": {"x": 1}}),
            lambda d: d.command("insert", "log", documents=[{}]),
        ):
            (predicted,), raised = run.of(act)
            assert isinstance(raised, NotRehearsableError)
            assert "capped" in predicted.detail
        assert run.db.log.count_documents({}) == 1
        assert run.one(lambda d: d.log.drop()).expected is DONE
        (_,), raised = run.of(lambda d: list(d.log.find()))
        assert isinstance(raised, NotRehearsableError)
        assert run.db.list_collection_names() == []


def test_a_view_that_this_dry_run_makes_cannot_be_read(db: Db) -> None:
    db.a.insert_one({"x": 1})
    with rehearsal(db) as run:
        run.db.create_collection("seen", viewOn="a", pipeline=[])
        assert run.db.list_collection_names(filter={"type": "view"}) == ["seen"]
        run.forecast.take()
        look = {"from": "seen", "localField": "x", "foreignField": "x", "as": "y"}
        reads: list[Act] = [
            lambda d: d.seen.count_documents({}),
            lambda d: d.seen.find_one(),
            lambda d: d.seen.estimated_document_count(),
            lambda d: d.command("find", "seen"),
            lambda d: d.seen.aggregate([]),
            lambda d: d.a.aggregate([{"$lookup": look}]),
            lambda d: d.a.aggregate([{"$facet": {"f": [{"$unionWith": "seen"}]}}]),
        ]
        for act in reads:
            (predicted,), raised = run.of(act)
            assert isinstance(raised, NotRehearsableError)
            assert predicted.collection == "seen"


# --- handles


def test_every_handle_that_is_derived_predicts_too(db: Db) -> None:
    with rehearsal(db) as run:
        d = run.db
        codec: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
        assert isinstance(d, RehearsedDatabase)
        handles = [
            *(d.x, d["x"], d.get_collection("x", codec_options=codec), d.x.y, d.x["y"]),
            *(d.x.with_options(codec), d.x.with_options(write_concern=WriteConcern())),
            *(d.x.database.x, d.with_options(codec).x, d.create_collection("made"), d.x.y.z),
        ]
        assert all(type(each) is RehearsedCollection for each in handles)
        assert handles[2].codec_options.tz_aware
        assert handles[5].codec_options.tz_aware
        assert d.with_options(codec).codec_options.tz_aware
        assert d.x.y.full_name == f"{db.name}.x.y"
        assert d.x == db.x
        assert d == db
        with pytest.raises(InvalidName):
            d.x.rename("a..b")


def test_handles_have_no_public_name_of_their_own(db: Db) -> None:
    with rehearsal(db) as run:
        for own, plain in ((run.db, db), (run.db.x, db.x)):
            assert {name for name in dir(own) if name[0] != "_"} == {
                name for name in dir(plain) if name[0] != "_"
            }


def test_gridfs_works_on_the_handle(db: Db) -> None:
    with rehearsal(db) as run:
        files = gridfs.GridFS(run.db)
        key = files.put(b"x" * 1_000, filename="a")
        assert files.get(key).read() == b"x" * 1_000
        made = [(each.collection, each.facts["keys"]) for each in run.forecast.take()]
    assert made == [
        ("fs.files", {"filename": 1, "uploadDate": 1}),
        ("fs.chunks", {"files_id": 1, "n": 1}),
    ]
    assert db.list_collection_names() == []


def test_what_is_not_predicted_behaves_as_before(db: Db) -> None:
    db.a.insert_many([{"_id": n, "x": n % 2} for n in range(10)])
    with rehearsal(db) as run:
        a = run.db.a
        assert a.update_many({"x": 1}, {"$set": {"y": 1}}).modified_count == 5
        assert a.count_documents({"y": 1}) == 5
        assert sorted(a.distinct("x")) == [0, 1]
        assert list(a.aggregate([{"$group": {"_id": None, "n": {"$sum": 1}}}])) == [
            {"_id": None, "n": 10}
        ]
        assert a.find_one_and_delete({"_id": 0}) == {"_id": 0, "x": 0}
        assert a.find().sort("x", DESCENDING).sort("_id", ASCENDING).limit(1)[0]["_id"] == 1
        assert run.forecast.take() == ()
        assert run.forecast.touched == set()
    assert db.a.count_documents({"y": 1}) == 0
