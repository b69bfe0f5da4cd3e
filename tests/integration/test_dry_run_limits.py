"""What a dry run cannot do, it says; what it must not do, it does not."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import mongomock
import pytest
from pymongo import MongoClient

from flask_migrate_mongo.dry_run import DryRunner
from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.errors import ConnectionFailedError
from flask_migrate_mongo.model.reports import Outcome, Sample, Trial, Verdict, Violation
from flask_migrate_mongo.model.values import Actor
from tests.content import content
from tests.project import CLIENT_BULK_WRITE
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.conftest import Failpoint
    from tests.project import Project

THREAD = """
import threading


def up(db):
    thread = threading.Thread(target=lambda: db.items.insert_one({"by": "thread"}))
    thread.start()
    thread.join()
"""
OWN_SESSION = """
def up(db):
    with db.client.start_session() as session:
        session.with_transaction(lambda s: db.items.insert_one({}, session=s))
"""
OWN_CLIENT = """
from pymongo import MongoClient


def up(db):
    with MongoClient(host=[f"{h}:{p}" for h, p in db.client.nodes]) as client:
        client[db.name].items.insert_one({"by": "own client"})
"""
CAUGHT = """
from pymongo.errors import DuplicateKeyError


def up(db):
    try:
        db.items.insert_one({"_id": 1})
    except DuplicateKeyError:
        pass
    db.items.insert_one({"_id": 2})
"""
CAUGHT_REFUSAL = """
import contextlib

from pymongo.errors import OperationFailure


def up(db):
    with contextlib.suppress(OperationFailure):
        db.items.drop()
    db.items.insert_one({"_id": 2})
"""
CAUGHT_AT_THE_END = """
import contextlib

from pymongo.errors import DuplicateKeyError


def up(db):
    with contextlib.suppress(DuplicateKeyError):
        db.items.insert_one({"_id": 1})
"""


def dry(project: Project, **options: Any) -> tuple[Outcome, ...]:
    return project.dry_runner().up(Options(**options)).outcomes


def trial(project: Project, **options: Any) -> Trial:
    """Return what is said of the first migration."""
    found = dry(project, **options)[0].trial
    assert found is not None
    return found


# --- what a transaction does not hold


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (THREAD, "A thread that the migration started used the database"),
        (OWN_SESSION, "The migration used a session of its own"),
        (OWN_CLIENT, "The migration used another client than that of its `db`"),
        (CAUGHT, "it continues after an error, which ended the transaction of the dry run"),
        (CAUGHT_AT_THE_END, "it continues after an error"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_plain_migration_that_cannot_be_rolled_back_is_not_executed(
    project: Project, source: str, reason: str
) -> None:
    project.db.items.insert_one({"_id": 1})
    project.write("1_escapes", source)
    project.write("2_next", "def up(db): db.items.insert_one({})")
    before = content(project.db)
    first, second = dry(project, continue_on_error=True)
    assert content(project.db) == before
    assert first.trial
    assert first.trial.verdict is Verdict.NOT_EXECUTED
    assert reason in str(first.trial.reason)
    assert second.trial == Trial(
        Verdict.NOT_EXECUTED, "1, on which it may build, was not executed to its end"
    )


@pytest.mark.parametrize("source", [OWN_SESSION, OWN_CLIENT, CAUGHT, CAUGHT_REFUSAL])
def test_what_fails_a_transactional_migration_fails_its_dry_run_with_the_same_error(
    project: Project, source: str
) -> None:
    project.db.items.insert_one({"_id": 1})
    project.write("1_escapes", f"transactional = True\n{source}")
    (found,) = dry(project)
    (real,) = project.runner().up().outcomes
    assert found.trial
    assert found.trial.verdict is Verdict.FAILS
    assert found.error
    assert real.error
    assert (found.error.type, found.error.message) == (real.error.type, real.error.message)
    assert "had already ended" not in found.error.message  # A refused `drop` does not end it.


def test_what_follows_a_failure_is_executed_where_the_run_would_continue(project: Project) -> None:
    project.write("1_bad", "def up(db): db.items.insert_one({'_id': 1}); raise ValueError")
    project.write("2_good", "def up(db): assert db.items.find_one({'_id': 1})")
    verdicts = [o.trial and o.trial.verdict for o in dry(project, continue_on_error=True)]
    assert verdicts == [Verdict.FAILS, Verdict.SUCCEEDS]
    last = dry(project)[-1].trial
    assert last == Trial(Verdict.NOT_EXECUTED, "1 would fail before it")


def test_a_failed_transactional_migration_is_followed_by_nothing(project: Project) -> None:
    project.write("1_bad", "transactional = True\ndef up(db): db.items.insert_one({}); 1 / 0")
    project.write("2_good", "def up(db): db.items.insert_one({})")
    last = dry(project, continue_on_error=True)[-1].trial
    assert last == Trial(Verdict.NOT_EXECUTED, "1 would fail before it")


# --- limits


def test_a_dry_run_that_takes_too_long_is_ended_with_what_was_counted(project: Project) -> None:
    project.write(
        "1_slow",
        """
        import itertools
        import time


        def up(db):
            for number in itertools.count():
                db.items.insert_one({"_id": number})
                time.sleep(0.1)
        """,
    )
    found = trial(project, dry_run_limit=5)
    assert found.verdict is Verdict.TOO_LARGE
    assert found.reason == "it takes longer than 5 s"
    assert found.effects["items"].inserted > 0
    assert project.db.list_collection_names() == []


def test_a_refusal_that_the_migration_swallows_is_a_refusal_all_the_same(project: Project) -> None:
    project.write(
        "1_stubborn",
        """
        import contextlib
        import time


        def up(db):
            end = time.monotonic() + 1
            while time.monotonic() < end:
                with contextlib.suppress(Exception):
                    db.items.insert_one({})
        """,
    )
    found = trial(project, dry_run_limit=0.3)
    assert (found.verdict, found.reason) == (Verdict.TOO_LARGE, "it takes longer than 0.3 s")
    assert project.db.list_collection_names() == []


def within(project: Project, documents: int) -> tuple[Trial | None, ...]:
    """Return what is said of the migrations when so many documents may be written."""
    report = DryRunner(project.runner(), documents=documents).up(Options(samples=0))
    return tuple(outcome.trial for outcome in report.outcomes)


@pytest.mark.parametrize(
    "change",
    [
        "db.items.update_many({}, {'$set': {'x': 1}})",
        "db.items.update_many({'even': True}, {'$set': {'x': 1}})",
        "db.items.delete_many({})",
        "db.items.delete_many({'even': True})",
        "db.items.insert_many([{} for _ in range(101)])",
        "db.items.bulk_write([UpdateOne({'_id': i}, {'$set': {'x': 1}}) for i in range(101)])",
        "db.items.bulk_write([DeleteMany({'even': True})])",
        "db.command('delete', 'items', deletes=[{'q': {}, 'limit': 0}])",
        "db.client.bulk_write([UpdateMany({}, {'$set': {'x': 1}}, namespace=f'{db.name}.items')])",
        "[db.items.update_one({'_id': i}, {'$set': {'x': 1}}) for i in range(101)]",
    ],
)
def test_a_change_of_too_many_documents_is_refused_before_it_is_sent(
    project: Project, change: str
) -> None:
    if "client.bulk_write" in change:
        project.needs(CLIENT_BULK_WRITE)
    project.db.items.insert_many({"_id": i, "even": i % 2 == 0} for i in range(202))
    project.write("1_all", f"from pymongo import *\ndef up(db): {change}")
    project.write("2_one", "def up(db): db.items.update_one({}, {'$set': {'x': 1}})")
    before = content(project.db)
    first, second = within(project, 100)
    assert first
    assert first.verdict.value == "too large for a dry run"
    assert first.reason == "it would write more than 100 documents"
    counted = 100 if change.startswith("[") else 0
    assert sum(e.matched for e in first.effects.values()) == counted
    assert second
    assert second.verdict is Verdict.NOT_EXECUTED
    assert content(project.db) == before


@pytest.mark.parametrize(
    "change",
    [
        "db.items.update_many({'_id': {'$lt': 100}}, {'$set': {'x': 1}})",
        "db.items.insert_many([{} for _ in range(100)])",
        "db.items.delete_many({'_id': {'$lt': 50}}); db.items.insert_many([{} for _ in range(50)])",
    ],
)
def test_a_change_of_as_many_as_may_be_is_executed(project: Project, change: str) -> None:
    project.db.items.insert_many({"_id": i} for i in range(202))
    project.write("1_some", f"def up(db): {change}")
    (found,) = within(project, 100)
    assert found
    assert found.verdict is Verdict.SUCCEEDS


def test_a_change_of_too_many_bytes_is_refused_before_it_is_sent(project: Project) -> None:
    project.write(
        "1_heavy",
        "def up(db):\n    for _ in range(30): db.items.insert_many([{'x': 'x' * 1_000_000}, {'x': 'x' * 1_000_000}])",
    )
    found = trial(project, samples=0)
    assert found.verdict is Verdict.TOO_LARGE
    assert found.reason == "it would write more than 16 MB"
    assert 14 <= found.effects["items"].inserted <= 16
    assert project.db.list_collection_names() == []


def test_a_limit_beyond_what_the_server_allows_is_refused(project: Project) -> None:
    project.write_inserts(1)
    with TestServer(lifetime=20) as server:
        uri = server.uri.replace("/?", "/shop?")
        refused = project.run("up", "--dry-run", MONGO_URI=uri)
        assert refused.returncode == 5
        assert "ends transactions after 20 s" in refused.stderr
        assert "`--dry-run-limit 10`" in refused.stderr
        assert (
            project.run("up", "--dry-run", "--dry-run-limit", "10", MONGO_URI=uri).returncode == 0
        )


def test_a_signal_ends_it_and_nothing_is_left(project: Project) -> None:
    project.write(
        "1_long",
        """
        import pathlib
        import time


        def up(db, ctx):
            db.items.insert_one({})
            pathlib.Path(ctx.app.root_path, "inside").touch()
            time.sleep(60)
        """,
    )
    process = project.spawn("up", "--dry-run")
    while not (project.root / "inside").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert (
        "Stopped. The transaction of the dry run was rolled back, so nothing was changed." in said
    )
    assert project.db.list_collection_names() == []
    project.db.items.insert_one({})  # Waits for nobody.


def test_of_a_backfill_the_first_batches_are_executed_and_the_rest_is_extrapolated(
    project: Project,
) -> None:
    project.db.items.insert_many({"_id": i} for i in range(300))
    project.write(
        "1_many",
        "def up(db, ctx): ctx.backfill('items', {'$set': {'x': 1}}, batch_size=20)",
    )
    found = trial(project)
    assert found.verdict is Verdict.PARTLY
    assert found.effects["items"].modified == 200
    (rest,) = found.not_executed
    assert (rest.operation, rest.collection, rest.documents) == ("backfill", "items", 100)
    assert rest.detail.startswith("200 of about 300 documents were changed; at that speed")
    assert project.db.items.count_documents({"x": 1}) == 0
    assert project.db.list_collection_names() == ["items"]


# --- what is shown


def test_samples_show_what_differs_before_and_after(project: Project) -> None:
    project.db.items.insert_many(
        {"_id": i, "n": i, "deep": {"a": 1, "b": [1]}, "password": "x"} for i in range(5)
    )
    project.write(
        "1_change",
        """
        def up(db):
            db.items.update_many({"_id": {"$gt": 0}}, {"$set": {"n": 2, "deep.b": [2], "password": "y"}})
        """,
    )
    found = trial(project)
    assert found.samples == (
        Sample(
            "items",
            1,
            {"n": 1, "deep.b": [1], "password": "***"},
            {"n": 2, "deep.b": [2], "password": "***"},
        ),
        Sample("items", 2, {"deep.b": [1], "password": "***"}, {"deep.b": [2], "password": "***"}),
    )


def test_samples_show_documents_that_come_and_go(project: Project) -> None:
    project.db.items.insert_many([{"_id": 1, "a": 1}, {"_id": 2}])
    project.write(
        "1_change",
        """
        def up(db):
            db.items.delete_one({"_id": 1})
            db.items.insert_one({"_id": 3, "token": 7})
            db.items.update_one({"_id": 4}, {"$set": {"b": 1}}, upsert=True)
            db.items.delete_many({})
        """,
    )
    assert trial(project, samples=4).samples == (
        Sample("items", 1, {"_id": 1, "a": 1}, None),
        Sample("items", 3, None, {"_id": 3, "token": "***"}),
        Sample("items", 4, None, {"_id": 4, "b": 1}),
        Sample("items", 2, {"_id": 2}, None),
    )
    assert len(trial(project, samples=1).samples) == 1
    assert trial(project, samples=0).samples == ()


def test_without_samples_it_is_known_all_the_same_what_was_changed(project: Project) -> None:
    project.db.items.insert_one({"_id": 1, "n": 1})
    change = "db.items.find_one_and_update({'_id': 1}, {'$set': {'n': 1.0}})"
    project.write("1_type", f"def up(db): {change}")
    found = trial(project, samples=0)
    assert (found.effects["items"].matched, found.effects["items"].modified) == (1, 1)
    assert trial(project).samples == (Sample("items", 1, {"n": 1}, {"n": 1.0}),)
    assert type((trial(project).samples[0].after or {})["n"]) is float


def test_a_step_ends_at_the_first_use_of_what_an_earlier_one_did_not_execute(
    project: Project,
) -> None:
    project.db.items.insert_many({"_id": i, "n": i} for i in range(3))
    project.db.old.insert_one({})
    project.db.create_collection("view", viewOn="old")
    project.write("1_index", "def up(db): db.items.create_index('n', unique=True)")
    project.write("2_drop", "def up(db): db.old.drop()")
    project.write("3_other", "def up(db): db.other.insert_one({'n': db.items.count_documents({})})")
    project.write("4_writes", "def up(db): db.items.insert_one({'n': 9})")
    project.write("5_reads", "def up(db): db.other.insert_one({'n': db.view.count_documents({})})")
    project.write("6_next", "def up(db): db.other.insert_one({})")
    found = [outcome.trial for outcome in dry(project)]
    assert [trial and trial.verdict for trial in found] == [
        Verdict.NOT_EXECUTED,
        Verdict.NOT_EXECUTED,
        Verdict.SUCCEEDS,
        Verdict.PARTLY,
        Verdict.NOT_EXECUTED,
        Verdict.NOT_EXECUTED,
    ]
    *_, writes, reads, last = found
    assert writes
    assert [each.detail for each in writes.not_executed] == [
        "not checked: whether what is written violates n_1"
    ]
    assert reads
    assert reads.reason == "it uses view after drop, which was not executed"
    assert last
    assert last.reason == "5, on which it may build, was not executed to its end"


def test_a_backfill_that_is_executed_in_part_closes_its_collection(project: Project) -> None:
    project.db.items.insert_many({"_id": i} for i in range(300))
    project.write(
        "1_many",
        """
        def up(db, ctx):
            ctx.backfill("items", {"$set": {"x": 1}}, batch_size=20)
            assert db.items.count_documents({"x": 1}) == 300
        """,
    )
    found = trial(project)
    assert found.verdict is Verdict.PARTLY
    assert found.reason == "it uses items after the first batches of a backfill"


def test_the_duplicate_keys_of_a_unique_index_are_named_and_masked(project: Project) -> None:
    numbers = [1, 1, 1, 2, 2, 3]
    project.db.items.insert_many({"n": n, "token": f"secret {n}"} for n in numbers)
    project.write("1_index", "def up(db): db.items.create_index(['n', 'token'], unique=True)")
    (outcome,) = dry(project)
    assert outcome.trial
    (index,) = outcome.trial.not_executed
    assert (index.documents, index.violations) == (
        6,
        (Violation({"n": 1, "token": "***"}, 3), Violation({"n": 2, "token": "***"}, 2)),
    )
    assert outcome.error
    assert outcome.error.type == "DuplicateKeyError"
    assert "secret" not in f"{outcome}"
    assert outcome.failed


@pytest.mark.parametrize(
    ("documents", "options", "detail"),
    [
        ([{"x": 1}, {"x": 2}], {}, "there are no duplicate keys"),
        ([{}, {"y": 1}], {"sparse": True}, "there are no duplicate keys"),
        ([{}, {"x": None}], {}, 'duplicate keys: {"x": null} 2 times'),
        ([{"x": 1}, {"x": 1.0}], {}, 'duplicate keys: {"x": 1} 2 times'),
        (
            [{"x": 1}, {"x": 1, "live": True}],
            {"partialFilterExpression": {"live": True}},
            "there are no duplicate keys",
        ),
        ([{"x": "a"}, {"x": "A"}], {}, "there are no duplicate keys"),
        (
            [{"x": "a"}, {"x": "A"}],
            {"collation": {"locale": "en", "strength": 2}},
            'duplicate keys: {"x": "a"} 2 times',
        ),
        (
            [{"x": [1, 2]}, {"x": [2, 3]}],
            {},
            "duplicate keys were not checked: some documents have arrays in these fields",
        ),
    ],
)
def test_duplicate_keys_are_looked_for_as_the_index_defines_them(
    project: Project, documents: list[dict[str, Any]], options: dict[str, Any], detail: str
) -> None:
    project.db.items.insert_many(documents)
    project.write("1_i", f"def up(db): db.items.create_index('x', unique=True, **{options})")
    (index,) = trial(project).not_executed
    assert index.detail == f'x_1 on {{"x": 1}}; {detail}'


def test_which_fields_are_masked_is_a_setting(project: Project) -> None:
    project.write(
        "1_new", "def up(db): db.people.insert_one({'_id': 1, 'IBAN': 'x', 'token': 'y'})"
    )
    (outcome,) = project.dry_runner(MIGRATE_REDACT=["iban"]).up().outcomes
    assert outcome.trial
    assert outcome.trial.samples[0].after == {"_id": 1, "IBAN": "***", "token": "y"}


def test_the_context_says_that_it_is_a_rehearsal(project: Project) -> None:
    project.write("1_asks", "def up(db, ctx): db.items.insert_one({'rehearsal': ctx.rehearsal})")
    assert [s.after and s.after["rehearsal"] for s in trial(project).samples] == [True]
    project.runner().up()
    assert [d["rehearsal"] for d in project.db.items.find()] == [False]


def test_down_is_executed_too(project: Project) -> None:
    project.write_inserts(1, 2)
    project.runner().up()
    before = content(project.db)
    report = project.dry_runner().down(steps=2)
    assert [
        (o.step.version, o.trial and o.trial.effects["done"].deleted) for o in report.outcomes
    ] == [
        (2, 1),
        (1, 1),
    ]
    assert content(project.db) == before


def test_the_progress_shows_a_verdict_without_its_remedy(project: Project) -> None:
    project.db.items.insert_one({})
    project.write("1_a", "def up(db): db.log.insert_one({}); db.items.drop()")
    lines = project.invoke("up", "--dry-run").stdout.splitlines()
    assert any(line.startswith("- 1 a  partly executed") for line in lines), lines


# --- beside a run, and without transactions


def test_it_runs_while_somebody_holds_the_lock_and_says_so(project: Project) -> None:
    project.write_inserts(1)
    with project.runner().lease.hold(Actor.current("a test")):
        before = content(project.db)
        report = project.dry_runner().up()
        assert content(project.db) == before
    assert [o.trial and o.trial.verdict for o in report.outcomes] == [Verdict.SUCCEEDS]
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("The lock is held by ")


def test_without_transactions_nothing_is_executed_and_it_says_so(
    project: Project, standalone_uri: str, db: Database[Any]
) -> None:
    project.write_inserts(1)
    uri = standalone_uri.replace("/?", f"/{db.name}?")
    text = project.run("up", "--dry-run", MONGO_URI=uri)
    assert text.returncode == 4
    assert "1 insert  not executed\n  a dry run needs transactions" in text.stdout
    assert "No migration could be executed." in text.stdout
    printed = project.run("up", "--dry-run", "--json", MONGO_URI=uri)
    report = json.loads(printed.stdout)
    assert (printed.returncode, report["executed"], report["dryRun"]) == (4, False, True)
    assert report["steps"][0]["verdict"] == "not executed"
    assert "standalone" in report["steps"][0]["reason"]
    with MongoClient[Any](standalone_uri) as client:
        assert client[db.name].list_collection_names() == []


@pytest.mark.parametrize(
    ("command", "skip"), [("getParameter", 0), ("listCollections", 0), ("find", 1)]
)
def test_a_server_that_goes_away_before_the_first_step_is_an_error_of_ours(
    project: Project, failpoint: Failpoint, command: str, skip: int
) -> None:
    project.write_inserts(1)
    failpoint(command, times=6, skip=skip, closeConnection=True)
    with pytest.raises(ConnectionFailedError):
        project.dry_runner().up()


def test_on_mongomock_nothing_is_executed(project: Project) -> None:
    project.write_inserts(1)
    mock: Any = mongomock.MongoClient().shop
    report = DryRunner(project.runner(mock)).up()
    assert not report.executed
    assert report.executed_nothing
    (outcome,) = report.outcomes
    assert outcome.trial
    assert "mongomock has no sessions" in str(outcome.trial.reason)
    assert mock.list_collection_names() == []


def test_with_nothing_to_do_it_says_so(project: Project) -> None:
    result = project.invoke("up", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.endswith("\nNothing to do: every migration is applied.\n")
