"""Which files the entries of another tool mean, and which tool a document is of."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Int64, ObjectId

from flask_migrate_mongo.model.errors import InvalidRequestError, NotMappedError
from flask_migrate_mongo.model.values import MigrationFile, Status, Tool
from flask_migrate_mongo.model.wording import cli
from flask_migrate_mongo.planning.importing import (
    ImportState,
    MappedEntry,
    map_entries,
    parse_map,
)
from flask_migrate_mongo.store.foreign import ForeignEntry, ForeignState, looks_like
from flask_migrate_mongo.store.records import is_record

from .given import NOW, a_file, a_record, recorded

USERS = a_file(20240110093000, slug="add_users", name="add users", file_name="20240110093000_u.py")
ORDERS = a_file(2, slug="add_orders", name="Orders, with totals", file_name="2_add_orders.py")
FILES = (USERS, ORDERS)


def entry(name: str, minutes: int = 0, **more: Any) -> ForeignEntry:
    return ForeignEntry(name, NOW + timedelta(minutes=minutes), **more)


def one(name: str, *files: MigrationFile, chosen: str = "", **more: Any) -> MappedEntry:
    choices = {name: chosen} if chosen else {}
    (mapped,) = map_entries([entry(name, **more)], files or FILES, recorded(), choices)
    return mapped


# --- by number, slug or name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("20240110093000-add_users.js", USERS),
        ("20240110093000-Add-Users.mjs", USERS),
        ("20240110093000_add_users.py", USERS),
        ("20240110093000_add_users", USERS),
        ("20240110093000", USERS),
        ("20240215101500-add-orders.ts", ORDERS),
        ("0002_add_orders", ORDERS),
        ("add orders", ORDERS),
        ("20240215101500_orders_with_totals", ORDERS),
    ],
)
def test_an_entry_means_the_file_with_its_number_or_its_name(
    name: str, file: MigrationFile
) -> None:
    mapped = one(name)
    assert (mapped.state, mapped.file) == (ImportState.TO_RECORD, file)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("20240110093000-drop_users.js", "20240110093000_u.py has its number, and another name"),
        ("20240110093000-add_orders.js", "20240110093000_u.py has its number, and another name"),
        ("20240301080000-add_totals.js", "no file has its number or its name"),
        ("20240301080000", "no file has its number or its name"),
        ("日本語", "no file has its number or its name"),
        ("", "no file has its number or its name"),
        ("add_users.v2", "no file has its number or its name"),
    ],
)
def test_an_entry_that_can_be_another_migration_is_not_guessed(name: str, note: str) -> None:
    mapped = one(name)
    assert (mapped.state, mapped.file, mapped.note) == (ImportState.UNMAPPED, None, note)


def test_a_name_that_is_not_ascii_is_never_that_of_another_one() -> None:
    # Both have the slug "migration", since nothing of them is left in ASCII.
    file = a_file(5, slug="migration", name="日本")
    assert one("日本語", file).state is ImportState.UNMAPPED
    assert one("日本", file).file == file


def test_a_name_that_two_files_have_is_not_guessed() -> None:
    twins = (a_file(1, slug="same", name="a"), a_file(2, slug="same", name="b"))
    mapped = one("20240101000000-same.js", *twins)
    assert mapped.note == "it can be 1_change.py or 2_change.py"


def test_a_title_counts_for_a_tool_with_identifiers_alone() -> None:
    assert one("e0d0e19dd94c", title="add orders").file == ORDERS


def test_two_entries_for_one_file_are_both_unmapped() -> None:
    entries = [entry("20240215101500-add_orders.js"), entry("20240215101501-add_orders.js")]
    found = map_entries(entries, FILES, recorded(), {})
    assert {(e.state, e.file, e.note) for e in found} == {
        (ImportState.UNMAPPED, None, "several entries mean 2_add_orders.py")
    }


# --- the order, and what has been recorded


def test_the_order_is_that_of_application_and_the_first_application_counts() -> None:
    entries = [
        entry("2_add_orders", 3),
        entry("20240110093000", 1),
        entry("2_add_orders", 2),
        entry("20240110093000", 9),
    ]
    found = map_entries(entries, FILES, recorded(), {})
    assert [e.entry for e in found] == [entries[1], entries[2]]


def test_entries_of_the_same_moment_stay_as_they_were_written() -> None:
    names = ["b", "a", "c"]
    found = map_entries([ForeignEntry(name) for name in names], FILES, recorded(), {})
    assert [e.entry.name for e in found] == names


@pytest.mark.parametrize("status", list(Status))
def test_a_migration_with_a_record_here_keeps_it(status: Status) -> None:
    history = recorded(a_record(2, status))
    (mapped,) = map_entries([entry("2_add_orders")], FILES, history, {})
    assert mapped.state is ImportState.KNOWN
    assert mapped.note == f"has a record here: {status.value}"


def test_a_forgotten_record_counts_as_none() -> None:
    history = recorded(a_record(2, Status.PENDING, forgotten=True))
    (mapped,) = map_entries([entry("2_add_orders")], FILES, history, {})
    assert mapped.state is ImportState.TO_RECORD


def test_what_was_rolled_back_there_is_not_applied_here() -> None:
    mapped = one("20240110093000", state=ForeignState.NOT_APPLIED)
    assert (mapped.state, mapped.file) == (ImportState.NOT_APPLIED, None)


@pytest.mark.parametrize("chosen", ["", "2"])
def test_what_failed_there_is_refused_unless_it_is_ignored(chosen: str) -> None:
    failed = {"state": ForeignState.UNFINISHED}
    assert one("2_add_orders", chosen=chosen, **failed).state is ImportState.UNMAPPED
    assert one("2_add_orders", chosen="ignore", **failed).state is ImportState.IGNORED


# --- the map


@pytest.mark.parametrize("chosen", ["2", "add_orders", "add orders"])
def test_the_map_names_a_file_by_number_or_slug(chosen: str) -> None:
    assert one("20240110093000-drop_users.js", chosen=chosen).file == ORDERS


@pytest.mark.parametrize("chosen", ["3", "nothing"])
def test_a_map_that_names_no_file_is_no_mapping(chosen: str) -> None:
    mapped = one("x", chosen=chosen)
    assert mapped.state is ImportState.UNMAPPED
    assert mapped.note == f"the map says {chosen!r}, which is not one file here"


def test_a_map_is_read_line_by_line() -> None:
    text = "# comment\n\n a.js = 1 \nb = c.js=add users\n x.js =ignore\na.js=1"
    assert parse_map(text) == {"a.js": "1", "b = c.js": "add users", "x.js": "ignore"}


@pytest.mark.parametrize("line", ["a.js", "= 1", "a.js =", '{"a.js": 1}'])
def test_a_line_that_is_no_mapping_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^Line 2 of the map is not"):
        parse_map(f"# first\n{line}")


def test_a_name_with_two_versions_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^Line 2 of the map names 'a' again"):
        parse_map("a = 1\na = 2")


def test_the_refusal_lists_every_entry() -> None:
    text = NotMappedError(Tool.MONGRATE, "old", {"a.py": "why", "b.py": "because"}).explain(cli)
    assert text.splitlines() == [
        "2 entries of old cannot be mapped to a file here. Nothing was recorded.",
        "  a.py: why",
        "  b.py: because",
        "Write a line `NAME = VERSION` for each into a file, or `NAME = ignore` if it has no file here, then: `flask db-migrate import-history --from mongrate --collection old --map FILE --confirm`.",
    ]


# --- documents


@pytest.mark.parametrize(
    ("document", "tool"),
    [
        ({"fileName": "1-a.js", "appliedAt": NOW, "migrationBlock": 1.0}, Tool.MIGRATE_MONGO),
        ({"fileName": "1-a.js", "appliedAt": NOW, "fileHash": "0"}, Tool.MIGRATE_MONGO),
        ({"name": "1_a", "applied": None}, Tool.PYMONGO_MIGRATE),
        ({"migration_datetime": "1", "created_at": NOW}, Tool.MONGODB_MIGRATIONS),
        (
            {"revision": "a", "down_revision": None, "status": "applied", "applied_at": NOW},
            Tool.MONGOMIG,
        ),
        ({"migration": "1_a.py"}, Tool.MONGRATE),
        ({"migration": "1_a", "batch": 1}, "Laravel"),
        ({"migrationName": "x"}, "Umzug"),
        ({"name": "x", "createdAt": NOW, "state": "up"}, "migrate-mongoose"),
        ({"version": 7, "dirty": False}, "golang-migrate"),
        ({"version": "v1.2"}, None),
        ({"version": 7, "status": "done"}, None),
        ({"migration": "x", "ranAt": NOW}, None),
        ({}, None),
    ],
)
def test_a_document_names_its_tool_and_is_no_record(
    document: dict[str, Any], tool: Tool | str | None
) -> None:
    document["_id"] = ObjectId()
    assert looks_like(document) == tool
    assert not is_record(document)


@pytest.mark.parametrize(
    "more",
    [
        {"version": "v1.2"},
        {"version": True},
        {"version": 7.5},
        {"version": float("inf")},
        {"version": None},
        {"version": 7},
        {"version": Int64(7)},
        {"status": "done"},
        {"status": 1},
        {"batch": "first"},
        {"executionTime": "5 ms"},
        {"appliedAt": "2024-01-10"},
        {"rolledBackAt": 1704877800},
        {"updatedAt": "now"},
        {"metadata": {"position": "1"}},
        {"metadata": {"fence": "1"}},
        {"metadata": {"startedAt": "now"}},
        {"metadata": {"progress": "half"}},
        {"metadata": {"replaces": 1}},
        {"metadata": {"origin": "copied"}},
    ],
)
def test_a_field_that_no_command_could_use_makes_it_no_record(more: dict[str, Any]) -> None:
    assert is_record({"version": "7", "status": "completed"})
    assert not is_record({"version": "7", "status": "completed", **more})


@pytest.mark.parametrize("version", ["7", "007"])
def test_what_another_tool_stored_as_we_do_is_a_record(version: object) -> None:
    at = datetime(2024, 1, 10, tzinfo=timezone.utc)
    given = {"version": version, "status": "completed", "batch": 0, "executionTime": 1.5}
    assert is_record({**given, "appliedAt": at, "metadata": None})
