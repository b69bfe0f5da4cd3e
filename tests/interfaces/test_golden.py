"""What people see in a terminal of 80 columns, file by file in tests/golden."""

from __future__ import annotations

import ast
from datetime import datetime, timezone
from pathlib import Path

import pytest

from flask_migrate_mongo.model.values import Actor
from tests.golden import FOLDER, Golden, Shop, normalized, too_wide, visible

TESTS = Path(__file__).parents[1]


LONG_NAME = "Move the preferred language of customers from the profile to the account"


def write(shop: Shop, version: int, name: str, *lines: str, down: bool = True) -> None:
    """Write a migration with a name, and attributes or comments before its functions."""
    undo = "def down(db):\n    db.things.delete_many({})" if down else ""
    do = f"def up(db):\n    db.things.insert_one({{'n': {version}}})"
    source = "\n".join((f"name = {name!r}", *lines, do, undo, ""))
    shop.write(f"{version}_{name.split(maxsplit=1)[0].lower()[:20]}", source)


def write_some(shop: Shop) -> None:
    write(shop, 20261101001, "Lower-case names", "transactional = True")
    write(shop, 20261102001, "Add totals", down=False)
    write(shop, 20261103001, "Geo index", "idempotent = True")


# --- status


def test_the_status_of_an_empty_project(shop: Shop) -> None:
    shop.prints("status-empty", "status")


def test_the_status_before_and_after_everything_is_applied(shop: Shop) -> None:
    write_some(shop)
    shop.prints("status-pending", "status")
    shop.prints("plan", "plan")
    shop.apply()
    shop.prints("status-applied", "status")
    shop.prints("status-all", "status", "--all")
    shop.prints("status-all-wide", "status", "--all", columns=200)
    shop.prints("history", "history")
    shop.prints("history-wide", "history", columns=200)
    shop.prints("history-events", "history", "--events")
    shop.prints("show", "show", "lower-case")
    shop.prints("plan-nothing", "plan")


def test_what_needs_a_person_is_in_the_status(shop: Shop) -> None:
    write_some(shop)
    shop.apply()
    write(shop, 20261101001, "Lower-case names", "transactional = True", "CHANGED = 1")
    (shop.migrations / "20261102001_add.py").unlink()
    write(shop, 20261101002, "Comes late")
    shop.write(
        "20261104001_fails", "idempotent = True\ndef up(db): raise ValueError('no such city')"
    )
    shop.prints("status-changed-missing-late", "status")
    shop.prints("check", "check")
    shop.apply()
    shop.prints("status-failed", "status")


def test_a_migration_that_was_interrupted_and_one_that_runs(shop: Shop) -> None:
    write_some(shop)
    shop.write("20261104001_halfway", "def up(db): raise SystemExit(3)")
    shop.invoke("up")
    shop.settle()
    shop.prints("status-interrupted", "status")
    running = {"status": "running", "metadata.runId": "a" * 32}
    shop.db.migrations.update_one({"version": "20261104001"}, {"$set": running})
    shop.prints("status-crashed", "status")


def test_the_lock_is_in_the_status(shop: Shop) -> None:
    write_some(shop)
    actor = Actor("a" * 32, "web-1", 4711, "anna", "up")
    with shop.runner().lease.hold(actor):
        shop.prints("status-locked", "status")
        shop.prints("lock-status", "lock-status")
        shop.prints("force-unlock", "force-unlock")
    shop.prints("lock-free", "lock-status")


def test_names_of_any_length_and_script_fit_the_terminal(shop: Shop) -> None:
    write(shop, 20261101001, LONG_NAME)
    write(shop, 20261102001, "データの移行を追加する " * 5)
    write(shop, 20261103001, "w" * 300)
    shop.apply()
    write(shop, 20261104001, "v" * 300)
    shop.prints("names-status", "status")
    shop.prints("names-status-all", "status", "--all")
    shop.prints("names-history", "history")
    shop.prints("names-plan", "plan")


# --- other commands


def test_commands_that_settle_what_is_recorded(shop: Shop) -> None:
    write_some(shop)
    baseline = ("baseline", "--to", "20261102001", "--reason", "restored from a dump")
    shop.prints("baseline", *baseline, "--dry-run")
    shop.apply()
    write(shop, 20261101001, "Lower-case names", "CHANGED = 1")
    accept = ("--accept-file", "--reason", "formatted")
    shop.prints("resolve", "resolve", "20261101001", *accept)
    shop.prints("renumber", "renumber", "20261102001")


def test_the_history_of_another_tool(shop: Shop) -> None:
    write_some(shop)
    when = datetime(2026, 11, 2, 8, 30, tzinfo=timezone.utc)
    names = ("20261101001-lower-case-names.js", "20261102001-add-totals.js", "20251231001-old.js")
    shop.db.changelog.insert_many([{"fileName": name, "appliedAt": when} for name in names])
    shop.prints("import-history", "import-history", "--from", "migrate-mongo")
    (shop.root / "names.txt").write_text("20251231001-old.js = ignore\n", encoding="utf-8")
    mapped = ("--map", "names.txt", "--confirm")
    shop.prints("import-history-mapped", "import-history", "--from", "migrate-mongo", *mapped)


def test_requests_to_a_backfill_that_does_not_run(shop: Shop) -> None:
    shop.prints("pause-nothing", "pause")
    shop.prints("resume-nothing", "resume")
    shop.prints("cancel-nothing", "cancel")


def test_a_migration_that_failed(shop: Shop) -> None:
    shop.write("20261104001_fails", "def up(db): raise ValueError('no such city')")
    shop.invoke("up")
    shop.prints("history-failed", "history")


def test_commands_that_write_and_lint_files(shop: Shop) -> None:
    write_some(shop)
    shop.prints("squash", "squash", "20261101001", "20261103001", "first half")
    shop.prints("create", "create", "日本語 を追加")
    write(shop, 20261105001, "Drops", "x = open('/etc/hostname').read()")
    shop.prints("lint", "lint", "20261105001")


def test_the_schema_and_its_difference(shop: Shop) -> None:
    shop.db.orders.create_index([("customer", 1), ("created", -1)])
    shop.prints("schema-dump", "schema", "dump", columns=100)
    declared = "from flask_migrate_mongo.schema import Collection, Index\n"
    declared += "COLLECTIONS = [Collection('orders', indexes=[Index('total', why='reports')])]\n"
    (shop.root / "declared.py").write_text(declared, encoding="utf-8")
    path = f"{shop.root}:{shop.environ()['PYTHONPATH']}"
    given = {"MIGRATE_SCHEMA": "declared:COLLECTIONS", "PYTHONPATH": path}
    shop.prints("schema-diff", "schema", "diff", environ=given)


def test_doctor(shop: Shop) -> None:
    write_some(shop)
    shop.prints("doctor", "doctor")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("help", ("-h",)),
        ("help-status", ("status", "--help")),
        ("hint-upgrade", ("upgrade",)),
        ("hint-migrate", ("migrate",)),
        ("hint-misspelled", ("stauts",)),
    ],
)
def test_help_and_hints(shop: Shop, name: str, args: tuple[str, ...]) -> None:
    shop.prints(name, *args)


# --- the harness


def test_every_golden_file_is_used_by_a_test() -> None:
    used = {
        node.value
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {path.name for path in FOLDER.iterdir()} - {f"{name}.txt" for name in used} == set()


def test_a_placeholder_is_as_wide_as_what_it_replaces() -> None:
    text = "t_0123456789ab on 127.0.0.1:43210  2026-11-27 16:08:48  /tmp/golden-abc_1234/x"
    assert len(normalized(text)) == len(text)
    assert not any(digit in normalized(text) for digit in "345689")


def test_a_line_that_does_not_fit_is_found_and_wide_characters_count_twice() -> None:
    assert too_wide(f"{'a' * 80}\n{'索' * 41}\n{'e' + chr(0x301)}", 80) == ["索" * 41]


def test_what_is_drawn_over_is_left_out() -> None:
    assert visible("⠋ runs\r\x1b[2K\x1b[1mdone\x1b[0m  \r\nnext\r\n") == "done\nnext"


def test_a_capture_that_differs_fails_and_writing_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.golden.FOLDER", tmp_path)
    Golden(writes=True).check("one", "$ status\n7 ms")
    Golden(writes=False).check("one", "$ status\n9 ms")
    with pytest.raises(AssertionError):
        Golden(writes=False).check("one", "$ status\nother")
    with pytest.raises(AssertionError):
        Golden(writes=True).check("one", f"$ status\n{'x' * 81}")
