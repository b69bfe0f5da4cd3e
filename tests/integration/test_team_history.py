"""Two years of a team, told as a story: what is recorded of one migration is never taken for another."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util

from flask_migrate_mongo import MongoMigrate
from tests.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from tests.project import Project

TOKEN = "a-token-of-the-story"

MIGRATION = """
name = {name!r}


def up(db):
    db.ran.insert_one({{"migration": {name!r}}})


def down(db):
    db.ran.insert_one({{"undone": {name!r}}})
"""


class Team:
    """A team's folder and database, and what each interface says of them."""

    def __init__(self, project: Project, db: Database[Any] | None = None) -> None:
        self.project = project
        self.db = project.db if db is None else db

    def write(self, file_name: str, source: str = MIGRATION) -> Path:
        """Write a migration that notes each time when it runs."""
        name = file_name.partition("_")[2]
        return self.project.write(file_name, source.format(name=name))

    def does(self, *command: str, exit_code: int = 0, **settings: object) -> str:
        """Run a command, and return all that it prints."""
        runner = self.project.app(self.db, **settings).test_cli_runner()
        result = runner.invoke(args=["db-migrate", *command])
        assert result.exit_code == exit_code, result.output
        return result.output

    def check(self, *kinds: str) -> None:
        """`check` finds problems of exactly these kinds, in text and in JSON, and `status --check` agrees."""
        found = json.loads(self.does("check", "--json", exit_code=4 if kinds else 0))
        assert sorted(p["kind"] for p in found["problems"]) == sorted(kinds)
        assert all(p["remedy"] for p in found["problems"])

    def refuses(self, *said: str) -> None:
        """`status`, `plan`, `up` and the API refuse, exit 5, and say this; `check` counts one problem."""
        before = self.runs()
        for command in ("status", "plan", "up"):
            output = self.does(command, exit_code=5)
            assert all(text in output for text in said), output
        for method, path in (("GET", "status"), ("POST", "up")):
            status, body = self.rest(method, path)
            assert (status, body["status"]) == (409, 409)
            assert all(text in body["detail"] for text in said if "flask" not in text), body
        self.check("mistaken")
        assert self.runs() == before

    def rest(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Send a request to the API."""
        client = self.project.app(self.db, MIGRATE_API_TOKEN=TOKEN).test_client()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = client.open(f"/api/migrations/{path}", method=method, headers=headers)
        return answer.status_code, answer.get_json()

    def is_settled(self) -> None:
        """Nothing is pending, nothing is wrong, and every interface says so."""
        self.check()
        self.does("status", "--check")
        assert "Nothing to do" in self.does("up")
        assert "Nothing to do" in self.does("plan")
        status, body = self.rest("GET", "health")
        assert (status, body["ready"]) == (200, True)

    def runs(self) -> Counter[str]:
        """Count how often each migration has run."""
        return Counter(d["migration"] for d in self.db.ran.find({"migration": {"$exists": True}}))

    def ran_once(self, *names: str) -> None:
        """Exactly these migrations have run, each once."""
        assert self.runs() == Counter(names)


@pytest.fixture
def team(project: Project) -> Team:
    return Team(project)


def test_two_years_of_a_team(team: Team) -> None:  # noqa: PLR0915  (two years are long)
    ran: list[str] = []

    # January. The shop comes from Node: its history was written by migrate-mongo, and its migrations are ported.
    recorded = json_util.loads((ROOT / "tests/recorded/histories/migrate-mongo.json").read_text())
    team.db.changelog.insert_many(recorded)
    for entry in recorded:
        team.write(entry["fileName"].replace("-", "_").removesuffix(".js"))
    team.check(*["pending"] * 3)
    assert "20240215101500" in team.does("import-history", "--from", "migrate-mongo")
    team.check(*["pending"] * 3)
    team.does("import-history", "--from", "migrate-mongo", "--confirm")
    team.is_settled()
    team.ran_once()
    assert team.does("status", "--all").count("imported") == 3
    assert list(team.db.changelog.find()) == recorded

    # February. Two branches use one number; Alice's is applied on staging when Bob's comes.
    team.write("20250201001_alice")
    team.does("up")
    ran += ["alice"]
    bob = team.write("20250201001_bob")
    assert "have the same number" in team.does("up", exit_code=5)
    bob = Path(team.does("renumber", bob.name).splitlines()[1])
    team.check("pending")
    team.does("up")
    ran += ["bob"]
    team.is_settled()
    team.ran_once(*ran)

    # March. A merge gives Bob's file yet another number.
    moved = bob.rename(bob.with_name("20270301001_bob.py"))
    team.refuses(moved.name, bob.name.partition("_")[0])
    team.does("renumber", moved.name)
    team.is_settled()
    team.ran_once(*ran)

    # April. A formatter goes through the folder, and nothing is to be done.
    for path in team.project.migrations.glob("*.py"):
        path.write_text(
            "# Formatted.\n" + path.read_text().replace("'", '"').replace("\n\n\n", "\n\n")
        )
    team.is_settled()

    # May. Alice's down() was wrong, and is corrected on purpose.
    alice = team.project.migrations / "20250201001_alice.py"
    alice.write_text(alice.read_text().replace("undone", "rolled_back"))
    team.check("changed")
    team.does("resolve", "alice", "--accept-file", "--reason", "its down() was wrong")
    team.is_settled()

    # June. The feature of January is removed, with its file.
    (team.project.migrations / "20240301080000_add_totals.py").unlink()
    team.check("missing")
    team.does("resolve", "20240301080000", "--forget", "--reason", "totals were removed")
    team.is_settled()

    # July. A deployment ends by SIGTERM in the middle of a migration, and the next one stops before it.
    half = team.write("20270701001_half", HALF.replace("{ending}", "time.sleep(60)"))
    sigterm(team.project)
    stop: dict[str, Any] = {"MIGRATE_INTERRUPTED": "stop"}
    assert "resolve 20270701001" in team.does("up", exit_code=5, **stop)
    team.check("interrupted")
    team.db.ran.delete_many({"migration": "half"})
    half.write_text(MIGRATION.format(name="half"))
    team.does("resolve", "half", "--not-applied", "--reason", "removed its half")
    team.does("up", **stop)
    ran += ["half"]
    team.is_settled()
    team.ran_once(*ran)

    # The second year. 30 migrations are squashed into one, whose file is the only one that stays.
    versions = range(20280101001, 20280101031)
    for version in versions:
        team.write(f"{version}_m{version}")
    team.does("up")
    ran += [f"m{version}" for version in versions]
    team.does("squash", str(versions[0]), str(versions[-1]), "all of 2028")
    for version in versions:
        (team.project.migrations / f"{version}_m{version}.py").unlink()
    team.check("pending")
    team.does("up")
    team.is_settled()
    team.ran_once(*ran)
    assert "missing" not in team.does("status", "--all")

    # A new environment is set up from what is there.
    new = Team(team.project, team.db.client[f"{team.db.name}_new"])
    try:
        new.does("up")
        new.is_settled()
        there = {"add_users", "add_orders"} | set(ran)
        assert new.runs() == Counter(there)
        # And one from a dump, which somebody calls complete: it is not, and is not recorded as if it were.
        dump = Team(team.project, team.db.client[f"{team.db.name}_dump"])
        team.write("20290101001_index", VERIFIED)
        refused = dump.does("baseline", "--reason", "restored the dump", exit_code=5)
        assert "the index is missing" in refused
        assert dump.db.migrations.count_documents({}) == 0
        dump.db.users.create_index("email")
        dump.does("baseline", "--reason", "restored the dump, and made the index")
        dump.is_settled()
        assert dump.runs() == {}
    finally:
        for suffix in ("new", "dump"):
            team.db.client.drop_database(f"{team.db.name}_{suffix}")


def test_two_branches_with_one_number(team: Team) -> None:
    # Alice creates and applies 001 on her branch, on the shared staging database.
    alice = team.write("20261124001_alice_adds_a")
    team.does("up")
    team.is_settled()
    # Bob's branch does not have her file, and has one with the same number.
    code = alice.read_text()
    alice.unlink()
    bob = team.write("20261124001_bob_adds_b")
    team.refuses("alice_adds_a", "20261124001_bob_adds_b.py")
    assert "renumber 20261124001_bob_adds_b.py" in team.does("up", exit_code=5)
    assert "alice_adds_a" in team.does("down", exit_code=5)
    # The branches are merged: both files have one number, and no command guesses.
    alice.write_text(code)
    for command in ("plan", "up", "down"):
        assert "have the same number" in team.does(command, exit_code=5)
    assert "have the same number" in team.does("status", "--all")
    assert "it names 20261124001_alice_adds_a.py, 2026" in team.does(
        "renumber", "20261124001", exit_code=2
    )
    # Bob's is applied nowhere, so it gets the next free number.
    moved = team.does("renumber", bob.name).strip()
    assert moved.endswith("_bob_adds_b.py")
    assert not bob.exists()
    team.check("pending")
    team.does("up")
    team.is_settled()
    team.ran_once("alice_adds_a", "bob_adds_b")


def test_a_file_that_was_renumbered_takes_its_record_along(team: Team) -> None:
    for number, name in enumerate(("a", "b", "c"), 20261124001):
        team.write(f"{number}_{name}")
    team.does("up")
    order = json.loads(team.does("history", "--json"))["history"]
    # On another branch 002 became 004, because that number was taken there.
    (team.project.migrations / "20261124002_b.py").rename(
        team.project.migrations / "20261124004_b.py"
    )
    team.refuses("20261124004_b.py", "20261124002")
    assert "20261124002 is now that of 20261124004" in team.does("renumber", "20261124004_b.py")
    team.is_settled()
    # Its place in the order of application stays: c is still the last one.
    assert len(json.loads(team.does("history", "--json"))["history"]) == len(order)
    output = team.does("down")
    assert "20261124003" in output
    team.ran_once("a", "b", "c")


def test_a_renumbered_file_whose_number_another_one_took(team: Team) -> None:
    # On Bob's database his 001 is applied. After the merge his file is 002, and 001 is Alice's.
    bob = team.write("20261124001_bob")
    team.does("up")
    bob.rename(team.project.migrations / "20261124002_bob.py")
    team.write("20261124001_alice")
    output = team.does("up", exit_code=5)
    assert "20261124001_alice.py" in output
    assert "20261124002_bob.py" in output
    team.does("renumber", "20261124002_bob.py")
    team.check("out-of-order")
    team.does("up")
    team.is_settled()
    team.ran_once("alice", "bob")


def test_a_formatter_and_a_comment_change_nothing(team: Team) -> None:
    path = team.write("20261124001_a")
    team.does("up")
    path.write_text('"""Why."""\n# A comment.\n' + path.read_text().replace("'", '"'))
    team.is_settled()
    team.does("down")
    team.does("up")


def test_a_file_that_was_edited_on_purpose_is_accepted(team: Team) -> None:
    path = team.write("20261124001_a")
    team.write("20261124002_b")
    team.does("up")
    path.write_text(path.read_text().replace('"undone"', '"rolled_back"'))
    team.check("changed")
    assert "changed since" in team.does("status", "--all")
    team.does("resolve", "20261124001", "--accept-file", exit_code=2)
    team.does("resolve", "a", "--accept-file", "--reason", "the field has a new name")
    team.is_settled()
    assert "the field has a new name" in team.does("history", "20261124001")
    # Its place in the order stays: b is rolled back first.
    team.does("down")
    assert team.project.statuses() == {20261124001: "completed", 20261124002: "rolled-back"}


def test_a_file_that_is_gone_for_good_is_forgotten(team: Team) -> None:
    gone = team.write("20261124001_a")
    team.write("20261124002_b")
    team.does("up")
    gone.unlink()
    team.check("missing")
    assert "resolve 20261124001 --forget" in team.does("check", exit_code=4)
    team.does("resolve", "20261124001", "--forget", "--reason", "the feature was removed")
    team.is_settled()
    # The event log keeps all of it, and the number is free.
    log = team.does("history", "20261124001")
    for event in ("started", "applied", "forgotten", "the feature was removed"):
        assert event in log
    team.write("20261124001_other")
    team.check("out-of-order")
    team.does("up")
    team.ran_once("a", "b", "other")


def test_a_file_that_is_there_is_not_forgotten(team: Team) -> None:
    team.write("20261124001_a")
    team.does("up")
    output = team.does("resolve", "20261124001", "--forget", "--reason", "r", exit_code=5)
    assert "has a file" in output
    team.is_settled()


HALF = """
import time

name = {name!r}


def up(db):
    db.ran.insert_one({{"migration": {name!r}}})
    {ending}
"""


def sigterm(project: Project) -> None:
    process = project.spawn("up")
    end = time.monotonic() + 30
    while project.db.ran.count_documents({"migration": "half"}) == 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def kill(project: Project) -> None:
    process = project.spawn("up", MIGRATE_LOCK_TTL="2")
    end = time.monotonic() + 30
    while project.db.ran.count_documents({"migration": "half"}) == 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    time.sleep(2.1)


def fail(project: Project) -> None:
    project.invoke("up")


@pytest.mark.parametrize(
    ("ending", "end"),
    [("time.sleep(60)", sigterm), ("time.sleep(60)", kill), ("1 / 0", fail)],
    ids=["SIGTERM", "SIGKILL", "an exception"],
)
def test_what_did_not_end_is_interrupted_whatever_ended_it(
    team: Team, ending: str, end: Callable[[Project], None]
) -> None:
    path = team.write("20261124001_half", HALF.replace("{ending}", ending))
    end(team.project)
    # Nobody runs it again unasked where the policy says so, and every interface shows it.
    stopping: dict[str, Any] = {"MIGRATE_INTERRUPTED": "stop", "MIGRATE_LOCK_WAIT": 5}
    output = team.does("up", exit_code=5, **stopping)
    assert "resolve 20261124001" in output
    assert "interrupted" in team.does("status", "--all")
    team.check("interrupted")
    team.ran_once("half")
    # Somebody looked at the data: half of it is there, and was removed by hand.
    team.project.db.ran.delete_many({})
    team.does("resolve", "half", "--not-applied", "--reason", "removed what was there")
    path.write_text(MIGRATION.format(name="half"))
    team.does("up", **stopping)
    team.is_settled()
    team.ran_once("half")


VERIFIED = (
    MIGRATION
    + """

def verify(db):
    assert "email_1" in db.users.index_information(), "the index is missing"
"""
)


def test_a_baseline_with_a_false_verify_is_refused_and_a_true_one_is_marked(team: Team) -> None:
    # A database that was set up by hand, and that is said to have everything.
    team.write("20261124001_a")
    team.write("20261124002_b", VERIFIED)
    team.write("20261124003_c")
    output = team.does("baseline", "--reason", "restored from a dump", exit_code=5)
    assert "the index is missing" in output
    assert team.project.statuses() == {}
    team.check("pending", "pending", "pending")
    # Only what is true is recorded.
    team.project.db.users.create_index("email")
    dry = team.does("baseline", "--to", "b", "--reason", "r", "--dry-run")
    assert "Would record 2 migrations" in dry
    assert team.project.statuses() == {}
    team.does("baseline", "--to", "20261124002", "--reason", "restored from a dump")
    team.check("pending")
    status = team.does("status", "--all")
    assert status.count("baseline") == 2
    assert status.count("not verified") == 1
    shown = json.loads(team.does("status", "--json"))["applied"]
    assert [(e["origin"], e["verified"]) for e in shown] == [("baseline", None), ("baseline", True)]
    assert "restored from a dump" in team.does("history", "20261124001")
    team.does("up")
    team.is_settled()
    team.ran_once("c")


def test_a_failed_down_is_seen_until_it_is_settled(team: Team) -> None:
    path = team.write(
        "20261124001_a",
        MIGRATION.replace(
            'db.ran.insert_one({{"undone"', '1 / 0\n    db.ran.insert_one({{"undone"'
        ),
    )
    team.does("up")
    team.does("down", exit_code=1)
    team.check("failed")
    assert "down failed" in team.does("status", "--all")
    assert team.rest("GET", "health")[0] == 503
    # Somebody looked at the data: up() is still in effect.
    team.does("resolve", "a", "--applied", "--reason", "nothing was rolled back")
    team.is_settled()
    team.does("down", exit_code=1)
    # The fix is a change of an applied file.
    path.write_text(path.read_text().replace("1 / 0", "pass"))
    assert "--allow-drift" in team.does("down", exit_code=5)
    team.does("resolve", "a", "--accept-file", "--reason", "fixed its down()")
    team.does("down")
    team.check("pending")


def test_a_migration_in_work_is_redone_in_one_run(team: Team) -> None:
    team.write("20261124001_a")
    path = team.write("20261124002_b")
    team.does("up")
    path.write_text(path.read_text().replace('"undone"', '"rolled_back"'))
    assert "accept" in team.does("redo", exit_code=5)
    team.does("redo", "--allow-drift")
    assert team.project.trail(20261124002)[-4:] == [
        "started",
        "rolled-back",
        "started",
        "completed",
    ]
    assert team.runs() == {"a": 1, "b": 2}
    assert team.project.db.migration_locks.count_documents({"fence": 2}) == 1
    # The file as it is now is the applied one.
    team.is_settled()
    # Also one that is not the last, by its slug; and a dry run changes nothing.
    team.does("redo", "a", "--dry-run")
    assert team.runs() == {"a": 1, "b": 2}
    team.does("redo", "a")
    assert team.runs() == {"a": 2, "b": 2}
    # If the second half fails, it is failed and not half of both.
    path.write_text(path.read_text().replace("db.ran", "1 / 0\n    db.ran", 1))
    team.does("redo", "b", "--allow-drift", exit_code=1)
    team.check("interrupted")


def test_targets_are_reached_and_not_passed(team: Team) -> None:
    for number in range(1, 6):
        team.write(f"2026112400{number}_m{number}")
    team.does("up", "--to", "m2")
    assert sorted(team.project.statuses()) == [20261124001, 20261124002]
    team.does("up", "--steps", "1")
    team.does("up")
    assert {team.project.record(v)["batch"] for v in (20261124004, 20261124005)} == {3}
    assert "Nothing to do" in team.does("up", "--to", "20261124003")
    assert "means 5 migrations" in team.does("up", "--to", "2026", exit_code=2)
    assert "exclude each other" in team.does("down", "--to", "m2", "--batch", exit_code=2)

    def applied() -> list[int]:
        return sorted(v for v, s in team.project.statuses().items() if s == "completed")

    team.does("down", "--batch")
    assert applied() == [20261124001, 20261124002, 20261124003]
    status, _ = team.rest("POST", "down?to=m1")
    assert (status, applied()) == (200, [20261124001])
    status, _ = team.rest("POST", "up?steps=2")
    assert (status, applied()) == (200, [20261124001, 20261124002, 20261124003])
    assert team.rest("POST", "up?to=m9")[0] == 404
    app = team.project.app()
    assert len(MongoMigrate().up(app, to="20261124004").outcomes) == 1
    assert len(MongoMigrate().down(app, to="m1").outcomes) == 3
    assert [o.step.version for o in MongoMigrate().redo(app).outcomes] == [20261124001] * 2


def test_branches_with_new_files_conflict_in_a_linear_project(team: Team) -> None:
    linear: dict[str, Any] = {"MIGRATE_LINEAR": True}
    first = Path(team.does("create", "first", **linear).strip())
    latest = team.project.migrations / ".latest"
    assert latest.read_text() == f"{first.name}\n"
    second = Path(team.does("create", "second", **linear).strip())
    assert latest.read_text() == f"{second.name}\n"
    for path in (first, second):
        field = path.stem.partition("_")[2]
        path.write_text(
            f"idempotent = True\n\n\ndef up(db):\n    db.done.create_index({field!r})\n"
        )
    # A merge that kept the other side's line.
    latest.write_text(f"{first.name}\n")
    for command in (("check", "--allow", "pending"), ("lint", "--select", "MM000")):
        output = team.does(*command, exit_code=4, **linear)
        assert ".latest" in output
        assert second.name in output
    renamed = team.does("renumber", first.name, **linear).strip()
    assert latest.read_text() == f"{Path(renamed).name}\n"
    team.does("check", "--allow", "pending", **linear)
    assert "stale" not in team.does("check", "--allow", "pending")


# --- the folder


def test_files_in_folders_below_are_named_and_not_run(team: Team) -> None:
    team.write("20261124001_a")
    (team.project.migrations / "release_1" / "later").mkdir(parents=True)
    (team.project.migrations / "release_1" / "later" / "20261124004_d.py").touch()
    (team.project.migrations / "release_1" / "20261124002_b.py").write_text("def up(db): 1 / 0\n")
    (team.project.migrations / "_drafts").mkdir()
    (team.project.migrations / "_drafts" / "20261124003_c.py").write_text("def up(db): 1 / 0\n")
    for command, exit_code in (("status", 0), ("plan", 0), ("check", 4)):
        output = team.does(command, exit_code=exit_code)
        assert "release_1/20261124002_b.py, release_1/later/20261124004_d.py" in output
        assert "Move them into the folder" in output
        assert "20261124003" not in output
    team.does("up")
    team.ran_once("a")


def test_a_folder_of_alembic_is_refused_by_every_command(team: Team) -> None:
    (team.project.migrations / "env.py").touch()
    (team.project.migrations / "versions").mkdir()
    for command in (("status",), ("plan",), ("up",), ("check",), ("lint",), ("create", "x")):
        assert "MIGRATE_DIRECTORY" in team.does(*command, exit_code=6)
    assert not list(team.project.migrations.glob("*_x.py"))


# --- what people see


def test_warnings_are_shown_before_anything_runs(team: Team) -> None:
    team.write("20261124001_a")
    team.write("20261124003_c")
    team.does("up")
    (team.project.migrations / "20261124001_a.py").unlink()
    team.write("20261124002_b")
    output = team.does("up")
    for warning in ("is out of order", "its file is missing"):
        assert output.count(warning) == 1
        assert output.index(warning) < output.index("20261124002 b  applied")


def test_a_run_that_crashed_is_not_called_running_without_a_hint(team: Team) -> None:
    team.write("20261124001_half", HALF.replace("{ending}", "time.sleep(60)"))
    kill(team.project)
    status = team.does("status", "--all")
    assert "running" in status
    assert "its run crashed" in status
    team.check("running")
    team.does("force-unlock", "--confirm")
    # Released by force, it is interrupted at once, and the event log names the run.
    status = team.does("status", "--all")
    assert "interrupted" in status
    assert "run None" not in team.does("history", "20261124001")
    team.check("interrupted")


def test_an_error_is_stored_as_a_text_beside_its_parts(team: Team) -> None:
    team.write("20261124001_fails", "def up(db): raise ValueError('no such city')\n")
    team.does("up", exit_code=1)
    record = team.project.record(20261124001)
    assert record["error"] == "ValueError: no such city"
    assert record["metadata"]["failure"]["type"] == "ValueError"
    assert "line 1" in record["metadata"]["failure"]["traceback"]
    (failed,) = json.loads(team.does("status", "--json"))["failed"]
    assert failed["error"]["message"] == "no such city"


def test_what_was_never_recorded_is_settled_too(team: Team) -> None:
    team.write("20261124001_a")
    team.does("resolve", "a", "--applied", "--reason", "made it in the shell")
    team.is_settled()
    assert "resolved" in team.does("status", "--all")
    assert team.runs() == {}
    assert "made it in the shell" in team.does("history", "a")
    # Settled by hand, it has no times of an earlier life.
    team.does("down")
    team.does("resolve", "a", "--applied", "--reason", "did it again")
    record = team.project.record(20261124001)
    assert (record["executionTime"], record["rolledBackAt"]) == (None, None)


# --- the check of an effect


@pytest.mark.parametrize("answer", ["return False", "raise AssertionError('not there')"])
def test_a_verify_that_does_not_pass_rolls_back_a_transactional_migration(
    team: Team, answer: str
) -> None:
    source = MIGRATION + f"\n\ndef verify(db):\n    {answer}\n"
    team.write("20261124001_a", f"transactional = True\n{source}")
    output = team.does("up", exit_code=1)
    assert "verify()" in output or "not there" in output
    assert team.runs() == {}
    team.check("failed")


def test_verify_sees_what_up_did_in_its_transaction_and_is_not_called_by_down(team: Team) -> None:
    source = MIGRATION + "\n\ndef verify(db, ctx):\n    assert db.ran.count_documents({{}}) == 1\n"
    team.write("20261124001_a", f"transactional = True\n{source}")
    team.does("up", "--dry-run")
    team.does("up")
    assert team.project.record(20261124001)["metadata"]["verified"] is True
    team.does("down")
    team.ran_once("a")


def test_a_verify_that_cannot_be_called_is_refused_before_anything_runs(team: Team) -> None:
    team.write("20261124001_a")
    team.write("20261124002_b", MIGRATION + "\n\ndef verify(database):\n    pass\n")
    for command in (("up",), ("baseline", "--reason", "r")):
        output = team.does(*command, exit_code=5)
        assert "verify() asks for 'database'" in output
    assert team.project.statuses() == {}


# --- completion


@pytest.mark.parametrize("words", ["show", "up --to", "redo", "resolve --applied"])
def test_a_shell_completes_versions_without_a_database(team: Team, words: str) -> None:
    for name in ("20261124001_a", "20261124002_b", "7_other"):
        team.write(name)
    app = team.project.command()[4]
    line = f"flask --app {app} db-migrate {words} 2026"
    environ = team.project.environ(
        MONGO_URI="mongodb://127.0.0.1:1/nothing",
        _FLASK_COMPLETE="bash_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split()) - 1),
    )
    flask = Path(sys.executable).with_name("flask")
    done = subprocess.run([flask], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,20261124001", "plain,20261124002"]
    # Without the folder there is nothing to complete, and no traceback in the middle of a prompt.
    team.project.migrations.rename(team.project.migrations.with_name("elsewhere"))
    done = subprocess.run([flask], env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
