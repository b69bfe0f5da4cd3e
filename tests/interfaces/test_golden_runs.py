"""What people see of runs, dry runs and rehearsals in a terminal of 80 columns, and of each way in which they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.model.values import Actor
from tests.conftest import APPNAME

if TYPE_CHECKING:
    from tests.conftest import Failpoint
    from tests.golden import Shop

GOOD, BAD, LATER = "20261124001_good_one", "20261124002_bad_one", "20261124003_later_one"
ANNA = Actor("f00d" * 8, "web-1", 4711, "anna", "up")

INSERTS = """
    def up(db):
        db.things.insert_one({"_id": 5})

    def down(db):
        db.things.delete_one({"_id": 5})
"""

TWICE = """
    name = "Things twice"

    def up(db):
        db.things.insert_one({"_id": 4})
        db.things.insert_one({"_id": 5})
"""

BACKFILL = """
    import os, signal

    name = "Totals of orders"

    def up(db, ctx):
        def change(document):
            {at_25}
            return {{"$set": {{"total": 1}}}}

        ctx.backfill("orders", change, batch_size=10, {options})
"""


def between_two(shop: Shop, source: str) -> None:
    shop.write(GOOD, INSERTS)
    shop.write(BAD, source)
    shop.write(LATER, "def up(db): db.later.insert_one({})\ndef down(db): db.later.drop()")


def backfill(shop: Shop, at_25: str, options: str = "") -> None:
    shop.db.orders.insert_many([{"_id": number} for number in range(50)])
    between_two(shop, BACKFILL.format(at_25=f"if document['_id'] == 25: {at_25}", options=options))


# --- runs


def test_a_run(shop: Shop) -> None:
    between_two(
        shop,
        'def up(db, ctx):\n    ctx.log.info("%d things", 3)\n    ctx.log.warning("One is odd.")',
    )
    shop.prints("up", "up")
    shop.prints("up-nothing", "up")
    shop.prints("redo", "redo")


def test_names_of_every_length_and_script(shop: Shop) -> None:
    for number, name in enumerate(("word " * 30, "x" * 300, "索引を作成する" * 10, "Łódź 🚀"), 1):
        shop.write(
            f"2026112400{number}_x", f"name = {name!r}\ndef up(db): pass\ndef down(db): pass"
        )
    shop.prints("up-long-names", "up")
    shop.prints("down-dry-run-long-names", "down", "--batch", "--dry-run")


# --- failures


def test_an_exception_in_a_plain_step(shop: Shop) -> None:
    between_two(shop, TWICE)
    shop.prints("failed-plain", "up")


def test_an_exception_in_a_transactional_step(shop: Shop) -> None:
    between_two(shop, f"    transactional = True\n{TWICE}")
    shop.prints("failed-transactional", "up")
    shop.prints("failed-dry-run", "up", "--dry-run")


def test_several_failures(shop: Shop) -> None:
    between_two(shop, TWICE)
    shop.prints("failed-several", "up", "--continue-on-error")


def test_duplicate_keys_of_a_unique_index(shop: Shop) -> None:
    shop.db.things.insert_many([{"a": 1}, {"a": 1}])
    between_two(shop, 'def up(db): db.things.create_index("a", unique=True)')
    shop.prints("failed-unique-index", "up")


def test_a_document_that_a_validator_rejects(shop: Shop) -> None:
    rule = {"$jsonSchema": {"required": ["name"]}}
    shop.db.create_collection("users", validator=rule)
    between_two(shop, 'def up(db): db.users.insert_one({"password": "hunter2", "age": 7})')
    assert "hunter2" not in shop.prints("failed-validator", "up")


def test_a_word_of_300_letters_in_an_error(shop: Shop) -> None:
    between_two(shop, "def up(db): raise ValueError('the word ' + 'x' * 300 + ' is long')")
    shop.prints("failed-long-word", "up")


def test_a_failing_down(shop: Shop) -> None:
    shop.write(GOOD, "def up(db): pass\n\ndef down(db):\n    db.things.drop()\n    1 / 0")
    assert shop.runner().up().failure is None
    shop.prints("failed-down", "down")


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_in_a_step(shop: Shop, signal: str) -> None:
    between_two(
        shop,
        f"""
        import os, signal, time

        def up(db):
            db.things.insert_one({{}})
            os.kill(os.getpid(), signal.{signal})
            time.sleep(60)
        """,
    )
    shop.prints("stopped-by-sigint" if signal == "SIGINT" else "stopped-by-sigterm", "up")


# --- backfills


def test_a_signal_in_a_backfill(shop: Shop) -> None:
    backfill(shop, "os.kill(os.getpid(), signal.SIGINT)")
    shop.prints("backfill-stopped", "up")
    shop.prints("backfill-stopped-again", "up")


def test_a_backfill_that_is_cancelled(shop: Shop) -> None:
    request = (
        'db.migrations.update_one({"status": "running"}, {"$set": {"metadata.request": "cancel"}})'
    )
    backfill(shop, request)
    shop.prints("backfill-cancelled", "up")


def test_a_backfill_that_is_paused(shop: Shop) -> None:
    backfill(shop, "pass", "pause_when=iter([False, True, True] + [False] * 99).__next__")
    shop.prints("backfill-paused", "up")


def test_a_backfill_whose_function_fails(shop: Shop) -> None:
    backfill(shop, "raise ValueError('no total')")
    shop.prints("backfill-failed", "up")


def test_a_document_that_a_backfill_cannot_change(shop: Shop) -> None:
    shop.db.orders.create_index("total", unique=True)
    shop.db.orders.insert_one({"_id": -1, "total": 1})
    shop.db.orders.insert_many([{"_id": number, "total": number} for number in range(2, 30)])
    source = """
    def up(db, ctx):
        ctx.backfill("orders", lambda document: {"$set": {"total": 1}}, batch_size=10)
    """
    between_two(shop, source)
    shop.prints("backfill-rejected", "up")


# --- the lock


def test_a_held_lock(shop: Shop) -> None:
    shop.write(GOOD, INSERTS)
    with shop.runner().lease.hold(ANNA):
        shop.prints("lock-held", "up")
        shop.prints("lock-waited", "up", "--wait", "1")


def test_a_lost_lock(shop: Shop) -> None:
    source = """
    def up(db, ctx):
        db.migration_locks.update_one({}, {"$set": {"locked": False}})
        ctx.ensure_lease()
    """
    between_two(shop, source)
    shop.prints("lock-lost", "up")


# --- refusals


def test_a_changed_file(shop: Shop) -> None:
    shop.write(GOOD, INSERTS)
    assert shop.runner().up().failure is None
    shop.write(GOOD, INSERTS.replace("5", "6"))
    shop.prints("refused-drift", "down")


def test_a_late_file(shop: Shop) -> None:
    shop.write(LATER, "def up(db): pass")
    assert shop.runner().up().failure is None
    shop.write(GOOD, INSERTS)
    shop.prints("refused-out-of-order", "up", environ={"MIGRATE_OUT_OF_ORDER": "refuse"})


def test_a_migration_that_is_not_written(shop: Shop) -> None:
    shop.write(GOOD, "def up(db): raise NotImplementedError")
    shop.prints("refused-unwritten", "up")


def test_no_down(shop: Shop) -> None:
    shop.write(GOOD, "def up(db): pass")
    assert shop.runner().up().failure is None
    shop.prints("refused-no-down", "down")


# --- the server


def test_a_server_that_does_not_answer(shop: Shop) -> None:
    uri = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=100"
    shop.prints("no-server", "up", environ={"MONGO_URI": uri})


def test_a_server_that_is_lost_in_the_middle(shop: Shop, failpoint: Failpoint) -> None:
    between_two(shop, 'def up(db):\n    db.things.delete_one({"_id": 1})')
    failpoint("delete", times=None, closeConnection=True)
    printed = shop.prints(
        "server-lost", "up", environ={"MONGO_URI": f"{shop.uri}&appname={APPNAME}"}
    )
    assert "AutoReconnect" in printed


# --- dry runs and rehearsals


def test_a_dry_run_with_several_verdicts(shop: Shop) -> None:
    shop.db.things.insert_many([{"_id": number, "a": number % 2} for number in range(4)])
    shop.write(GOOD, 'def up(db): db.things.update_many({"a": 1}, {"$set": {"b": "x"}})')
    shop.write(
        BAD, 'def up(db):\n    db.people.insert_one({"_id": 1})\n    db.things.create_index("a")'
    )
    shop.write(LATER, 'def up(db): db.orders.insert_one({"_id": 1})')
    shop.write("20261124004_fails", "def up(db):\n    db.orders.delete_one({})\n    1 / 0")
    shop.write("20261124005_last", "def up(db): pass")
    shop.prints("dry-run", "up", "--dry-run")


def test_a_rehearsal_with_a_difference(shop: Shop) -> None:
    shop.db.things.insert_many([{"_id": number} for number in range(4)])
    shop.write(
        GOOD,
        'def up(db): db.things.update_many({}, {"$set": {"b": 1}})\ndef down(db): pass',
    )
    shop.write(BAD, 'def up(db): db.things.insert_one({"_id": 1})')
    shop.write(LATER, INSERTS)
    shop.prints("rehearse", "rehearse")
