"""The declared schema in `check`, in Python and over REST, and what a saved diff leaves out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo import MongoClient

from flask_migrate_mongo import CheckFailedError, InvalidRequestError, MongoMigrate
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import DifferenceKind, SchemaDifference
from flask_migrate_mongo.schema.live import LiveIndex
from flask_migrate_mongo.schema.report import fingerprint
from tests.interfaces.test_rest import Api, done, problem
from tests.sent import Sent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

TOKEN = "reader-0123456789"
DECLARED: list[Collection] = []
"""What the applications of these tests declare; each test sets it."""
SETTING = f"{__name__}:DECLARED"
TWO = [Collection("orders", [Index("customer")]), Collection("users", [Index("email")])]
MISSING = "{} {}: The index does not exist. Queries that need it scan the collection."


@pytest.fixture(autouse=True)
def declared(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the declared collections, each of which exists."""
    monkeypatch.setenv("MIGRATE_SCHEMA", SETTING)
    DECLARED[:] = TWO
    for each in TWO:
        project.db.create_collection(each.name)


def code(project: Project, *command: str) -> int:
    return project.invoke(*command).exit_code


def fails(project: Project, *command: str, exit_code: int = 4) -> Any:
    result = project.invoke(*command, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def names(found: list[dict[str, Any]]) -> list[str]:
    return [f"{each['collection']} {each['index']}" for each in found]


@pytest.fixture
def saved(project: Project) -> Path:
    """Save a diff in which the index of the users is missing."""
    path = project.root / "known.json"
    project.db.orders.create_index("customer")
    assert code(project, "schema", "diff", "--save", str(path)) == 4
    return path


# --- what a saved diff leaves out


def test_what_the_saved_diff_has_is_known_and_what_is_new_counts(
    project: Project, saved: Path
) -> None:
    command = ("schema", "diff", "--new-only", str(saved))
    known = f"known      {MISSING.format('users', 'email_1')}"
    end = "Compared 2 declared collections with 2 indexes."
    result = project.invoke(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == [known, f"0 differences, 0 notes, 1 known. {end}"]
    project.db.orders.drop_index("customer_1")
    result = project.invoke(*command)
    assert result.exit_code == 4
    assert result.stdout.splitlines()[1:] == [
        f"missing    {MISSING.format('orders', 'customer_1')}",
        known,
        f"1 difference, 0 notes, 1 known. {end}",
    ]
    found = fails(project, *command)
    assert names(found["differences"]) == ["orders customer_1"]
    assert names(found["known"]) == ["users email_1"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"expireAfterSeconds": 60}, {"expireAfterSeconds": 90}),
        ({"unique": True}, {"unique": True, "sparse": True}),
    ],
)
def test_a_known_difference_that_drifts_further_counts_again(
    project: Project, before: dict[str, Any], after: dict[str, Any]
) -> None:
    path = str(project.root / "known.json")
    DECLARED[:] = [Collection("users", [Index("email")])]
    project.db.users.create_index("email", **before)
    assert code(project, "schema", "diff", "--save", path) == 4
    assert code(project, "schema", "diff", "--new-only", path) == 0
    project.db.users.drop_index("email_1")
    project.db.users.create_index("email", **after)
    assert names(fails(project, "schema", "diff", "--new-only", path)["differences"]) == [
        "users email_1"
    ]


def test_another_index_under_the_name_of_a_known_one_counts(project: Project, saved: Path) -> None:
    command = ("schema", "diff", "--new-only", str(saved))
    DECLARED[1] = Collection("users", [Index("phone", name="email_1")])
    assert names(fails(project, *command)["differences"]) == ["users email_1"]
    DECLARED[1] = Collection("users", [Index("email", why="logins")])
    assert code(project, *command) == 0


def test_with_strict_undeclared_indexes_can_be_known_and_one_that_changed_is_not(
    project: Project, saved: Path
) -> None:
    project.db.users.create_index("email")
    project.db.users.create_index("old")
    project.db.drop_collection("other")
    command = ("schema", "diff", "--strict", "--new-only", str(saved))
    assert names(fails(project, *command)["notes"]) == ["users old_1"]
    assert code(project, *command, "--save", str(saved)) == 4
    assert code(project, *command) == 0
    project.db.users.drop_index("old_1")
    project.db.users.create_index("old", unique=True)
    assert names(fails(project, *command)["notes"]) == ["users old_1"]
    assert code(project, *command[:2], *command[3:]) == 0


def test_a_saved_diff_keeps_what_was_known_before_and_still_differs(
    project: Project, saved: Path
) -> None:
    project.db.orders.drop_index("customer_1")
    command = ("schema", "diff", "--new-only", str(saved))
    assert code(project, *command, "--save", str(saved)) == 4
    assert code(project, *command) == 0
    project.db.users.create_index("email")
    assert code(project, *command, "--save", str(saved)) == 0
    project.db.users.drop_index("email_1")
    assert names(fails(project, *command)["differences"]) == ["users email_1"]


def test_a_saved_diff_is_the_same_however_much_the_indexes_are_used(
    project: Project, saved: Path
) -> None:
    project.db.users.create_index("old")
    command = ("schema", "diff", "--save", str(saved))
    assert code(project, *command) == 4
    before = saved.read_text()
    assert json.loads(before)["notes"][0]["size"] is None
    assert fails(project, "schema", "diff")["notes"][0]["size"] is not None
    for number in range(100):
        project.db.users.insert_one({"old": number})
    list(project.db.users.find({"old": 1}).hint("old_1"))
    assert code(project, *command) == 4
    assert saved.read_text() == before


def test_the_saved_diff_of_a_revision_can_come_from_standard_input(
    project: Project, saved: Path
) -> None:
    runner = project.app().test_cli_runner()
    for command in (["schema", "diff"], ["check"]):
        args = ["db-migrate", *command, "--new-only", "-"]
        result = runner.invoke(args=args, input=saved.read_text())
        assert result.exit_code == 0, result.output
        assert runner.invoke(args=args, input="").exit_code == 2


def test_a_full_disk_leaves_the_saved_diff_as_it_was(
    project: Project, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before, new = saved.read_text(), project.root / "new.py"
    monkeypatch.setattr("os.fsync", full)
    found = fails(project, "schema", "diff", "--save", str(saved), exit_code=6)
    assert found["code"] == "no-output"
    assert project.invoke("schema", "dump", "--output", str(new)).exit_code == 6
    assert (saved.read_text(), new.exists()) == (before, False)


def test_only_a_saved_diff_is_replaced(project: Project, saved: Path) -> None:
    for content in ("collections = []\n", "{}", "[]"):
        other = project.root / "shop_schema.py"
        other.write_text(content)
        found = fails(project, "schema", "diff", "--save", str(other), exit_code=5)
        assert found["code"] == "output-exists"
        assert other.read_text() == content
    found = fails(project, "schema", "diff", "--save", f"{saved}/x", exit_code=6)
    assert found["code"] == "no-output"
    found = project.invoke("schema", "dump", "--output", f"{saved}/x")
    assert (found.exit_code, "could not be written" in found.stderr) == (6, True)


@pytest.mark.parametrize("command", [("schema", "diff"), ("check",)])
@pytest.mark.parametrize(
    "content", ["", "null", "[]", "{}", "1", '{"differences": [{}], "notes": [], "known": []}', "ÿ"]
)
def test_what_is_no_saved_diff_is_refused(
    project: Project, saved: Path, command: tuple[str, ...], content: str
) -> None:
    saved.write_text(content, encoding="latin-1")
    fails(project, *command, "--new-only", str(saved), exit_code=2)
    saved.unlink()
    fails(project, *command, "--new-only", str(saved), exit_code=2)


# --- in `check`


def test_check_finds_each_difference_of_the_schema_but_no_note(project: Project) -> None:
    project.db.orders.create_index("old")
    found = fails(project, "check")
    assert [(each["kind"], each["message"]) for each in found["problems"]] == [
        ("schema", MISSING.format("orders", "customer_1")),
        ("schema", MISSING.format("users", "email_1")),
    ]
    assert "`flask db-migrate schema diff`" in found["problems"][0]["remedy"]
    project.write_inserts(1)
    assert [each["kind"] for each in fails(project, "check")["problems"]] == [
        *("pending", "schema", "schema")
    ]
    project.db.orders.create_index("customer")
    project.db.users.create_index("email")
    assert project.invoke("up").exit_code == 0
    assert project.invoke("check").stdout.endswith("\nNo problem found.\n")


def test_check_leaves_the_schema_out_where_that_is_allowed(project: Project) -> None:
    found = fails(project, "check", "--allow", "schema", exit_code=0)
    assert found["problems"] == []
    assert [each["kind"] for each in found["allowed"]] == ["schema"] * 2


def test_check_counts_only_what_the_saved_diff_lacks(project: Project, saved: Path) -> None:
    command = ("check", "--new-only", str(saved))
    assert project.invoke(*command).stdout.splitlines()[1:] == [
        f"schema (allowed): {MISSING.format('users', 'email_1')}",
        "No problem found.",
    ]
    project.db.orders.drop_index("customer_1")
    found = fails(project, *command)
    assert [each["message"] for each in found["problems"]] == [
        MISSING.format("orders", "customer_1")
    ]
    assert len(found["allowed"]) == 1


def test_without_the_setting_check_reads_no_schema_and_needs_one_for_a_saved_diff(
    project: Project, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent()
    with MongoClient[Any](project.uri, event_listeners=[sent]) as client:
        project.db = client[project.db.name]
        project.db.orders.create_index("old")
        assert code(project, "check") == 4
        # The use of indexes is not asked for: `check` shows no notes.
        assert sent.of("listIndexes")
        stages = [next(iter(each["pipeline"][0])) for each in sent.of("aggregate")]
        assert "$collStats" not in stages
        sent.commands.clear()
        monkeypatch.delenv("MIGRATE_SCHEMA")
        assert code(project, "check") == 0
        assert "listIndexes" not in sent.names()
    assert fails(project, "check", "--new-only", str(saved), exit_code=6)["code"] == "no-schema"


@pytest.mark.parametrize("allow", [(), ("--allow", "schema")])
def test_a_schema_that_cannot_be_compared_is_an_error_of_check(
    project: Project, allow: tuple[str, ...]
) -> None:
    DECLARED.clear()
    assert fails(project, "check", *allow, exit_code=6)["code"] == "no-schema"


# --- in Python


def test_a_comparison_in_python_is_what_the_command_prints(project: Project) -> None:
    project.db.orders.create_index("old")
    migrate, app = MongoMigrate(), project.app()
    report = migrate.schema_diff(app)
    assert report.to_dict() == fails(project, "schema", "diff")
    assert [each.index_name for each in report.differences] == ["customer_1", "email_1"]
    with pytest.raises(
        CheckFailedError, match=r"orders customer_1: The index.*\n.*email"
    ) as raised:
        report.raise_for_failure()
    assert (raised.value.exit_code, raised.value.report) == (4, report)


def test_a_comparison_in_python_leaves_out_what_an_earlier_one_had(project: Project) -> None:
    project.db.orders.create_index("old")
    migrate, app = MongoMigrate(), project.app()
    before = migrate.schema_diff(app).to_dict()
    report = migrate.schema_diff(app, strict=True, new_only=before)
    assert report.raise_for_failure() is report
    assert [each.index_name for each in report.known] == ["customer_1", "old_1", "email_1"]
    checked = migrate.check(app, new_only=before).raise_for_failure()
    assert (checked.problems, len(checked.allowed)) == ((), 2)
    assert migrate.check(app, allow=["schema"]).problems == ()
    project.db.users.create_index("new")
    assert migrate.schema_diff(app, new_only=before).failure is None
    with pytest.raises(CheckFailedError, match="users new_1: The index is not declared"):
        migrate.schema_diff(app, strict=True, new_only=before).raise_for_failure()
    with pytest.raises(InvalidRequestError, match="no saved diff"):
        migrate.schema_diff(app, new_only={"differences": []})


# --- over REST


def test_the_api_answers_with_the_document_that_the_command_prints(project: Project) -> None:
    project.db.orders.create_index("old")
    api = Api(project.app(MIGRATE_API_TOKEN={TOKEN: "read"}), TOKEN)
    assert done(api("GET", "/schema")) == fails(project, "schema", "diff")
    problem(api("GET", "/schema?strict=true"), 400, "invalid-request")
    problem(Api(api.app, None)("GET", "/schema"), 401, "unauthenticated")


def test_the_api_says_that_no_schema_is_declared(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATE_SCHEMA")
    api = Api(project.app(MIGRATE_API_TOKEN={TOKEN: "read"}), TOKEN)
    problem(api("GET", "/schema"), 404, "no-schema")


def test_a_missing_collection_whose_declaration_changes_is_new(project: Project) -> None:
    known = str(project.root / "known.json")
    DECLARED[:] = [Collection("missing", [Index("a")])]
    assert code(project, "schema", "diff", "--save", known) == 4
    assert code(project, "schema", "diff", "--new-only", known) == 0
    DECLARED[:] = [Collection("missing", [Index("a"), Index("b", unique=True)])]
    assert code(project, "schema", "diff", "--new-only", known) == 4
    DECLARED[:] = [Collection("missing", [Index("a")], validator={"x": 1})]
    assert code(project, "schema", "diff", "--new-only", known) == 4


def test_equal_numbers_of_other_types_are_the_same_difference() -> None:
    kind = DifferenceKind.UNDECLARED_INDEX
    found = [
        LiveIndex({"name": "x_1", "key": {"x": one}}) for one in (1, 1.0, Int64(1), Decimal128("1"))
    ]
    assert len({fingerprint(SchemaDifference(kind, "a", live_index=each)) for each in found}) == 1


def test_a_diff_replaces_no_pipe(project: Project) -> None:
    pipe = project.root / "pipe"
    os.mkfifo(pipe)
    fails(project, "schema", "diff", "--save", str(pipe), exit_code=5)
    assert pipe.is_fifo()
