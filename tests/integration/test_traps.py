"""Traps that migration tools are known to have fallen into, each with what must happen here instead."""

from __future__ import annotations

import json
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient, monitoring

from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.model.errors import LockHeldError
from flask_migrate_mongo.model.reports import RunReport, StepState
from flask_migrate_mongo.model.values import Actor

if TYPE_CHECKING:
    from tests.conftest import Failpoint
    from tests.project import Project

# Codes that no retry can overcome, as a full disk or a validator would give.
DOCUMENT_VALIDATION_FAILURE = 121
NOT_PRIMARY = 10107


def done(project: Project) -> list[int]:
    """Return the versions whose data is there, in the order in which it came."""
    return [document["version"] for document in project.db.done.find()]


# --- locks


class Listener(monitoring.CommandListener):
    """Notices when a run asks for the lock, which it does with this command alone."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "findAndModify":
            self.asked.set()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def test_pending_is_computed_under_the_lock_so_a_waiting_run_applies_nothing_twice(
    project: Project,
) -> None:
    project.write_inserts(1)
    listener, reports = Listener(), list[RunReport]()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        waiting = project.runner(client[project.db.name])
        second = threading.Thread(target=lambda: reports.append(waiting.up(Options(wait=30))))
        with project.runner().lease.hold(Actor.current("the first run")):
            second.start()
            # The second run saw it pending, and waits; meanwhile the first one applies it.
            assert listener.asked.wait(10)
            project.db.done.insert_one({"version": 1})
            project.db.migrations.insert_one(
                {"version": "1", "name": "insert", "status": "completed", "metadata": {}}
            )
        second.join(30)
    assert [report.outcomes for report in reports] == [()]
    assert done(project) == [1]


def test_two_processes_at_once_apply_each_migration_once(project: Project) -> None:
    source = (
        "import time\ndef up(db):\n    time.sleep(0.2)\n    db.done.insert_one({'version': %d})\n"
    )
    for version in (1, 2):
        project.write(f"{version}_slow", source % version)
    processes = [project.spawn("up", "--wait", "30", "--json") for _ in range(3)]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert done(project) == [1, 2]
    assert sorted(len(report["steps"]) for report in reports) == [0, 0, 2]


@pytest.mark.parametrize(
    ("skip", "which"),
    [
        (0, "the start of the first"),
        (1, "the success of the first"),
        (2, "the start of the second"),
        (3, "the success of the second"),
    ],
)
def test_the_lock_does_not_leak_when_writing_the_history_fails(
    project: Project, failpoint: Failpoint, skip: int, which: str
) -> None:
    project.write_inserts(1, 2)
    failpoint("update", skip=skip, errorCode=DOCUMENT_VALIDATION_FAILURE)
    result = project.invoke("up")
    assert result.exit_code != 0, which
    assert project.runner().lock() is None
    assert project.invoke("up").exit_code == 0
    assert set(project.statuses().values()) == {"completed"}


def test_the_lock_does_not_leak_when_the_history_cannot_be_claimed(
    project: Project, failpoint: Failpoint
) -> None:
    project.write_inserts(1)
    failpoint("update", errorCode=DOCUMENT_VALIDATION_FAILURE)
    assert project.invoke("up").exit_code == 6
    assert project.runner().lock() is None
    assert done(project) == []


def test_a_passing_fault_of_the_history_is_ridden_out(
    project: Project, failpoint: Failpoint
) -> None:
    project.write_inserts(1)
    failpoint("update", times=2, errorCode=NOT_PRIMARY)
    assert project.invoke("up").exit_code == 0
    assert project.trail(1) == ["started", "completed"]
    assert done(project) == [1]


def test_releasing_a_lease_that_is_no_longer_ours_changes_nothing(project: Project) -> None:
    with project.runner().lease.hold(Actor.current("the first run")):
        project.db.migration_locks.update_one(
            {}, {"$set": {"runId": "another", "lockedBy": "somebody else"}}
        )
        taken = project.db.migration_locks.find_one()
    assert project.db.migration_locks.find_one() == taken
    lock = project.runner().lock()
    assert lock is not None
    assert lock.holder == "somebody else"


def test_no_lock_is_taken_when_nothing_is_pending(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up")
    before = project.db.migration_locks.find_one()
    assert project.invoke("up").exit_code == 0
    assert project.db.migration_locks.find_one() == before
    with project.runner().lease.hold(Actor.current("somebody else")):
        assert project.invoke("up").exit_code == 0


def test_the_message_of_a_held_lock_has_a_date(project: Project) -> None:
    project.write_inserts(1)
    with project.runner().lease.hold(Actor.current("a test")):
        lock = project.db.migration_locks.find_one() or {}
        with pytest.raises(LockHeldError) as caught:
            project.runner().up()
    assert f"since {lock['lockedAt']:%Y-%m-%d %H:%M:%S} UTC" in str(caught.value)
    assert caught.value.lock.locked_at.replace(tzinfo=None) == lock["lockedAt"]


# --- down


def test_a_failed_down_leaves_the_migration_applied_and_first_in_line(project: Project) -> None:
    project.write_inserts(1)
    project.write(
        "2_stuck",
        "def up(db): db.done.insert_one({'version': 2})\ndef down(db): raise ValueError('stuck')\n",
    )
    project.invoke("up")
    assert project.invoke("down").exit_code == 1
    assert project.statuses() == {1: "completed", 2: "completed"}
    again = project.runner().down()
    assert [outcome.step.version for outcome in again.outcomes] == [2]
    assert done(project) == [1, 2]
    assert project.trail(2) == ["started", "completed", "started", "failed", "started", "failed"]
    summary = json.loads(project.invoke("status", "--json").stdout)["summary"]
    assert (summary["applied"], summary["pending"]) == (2, 0)


def test_down_on_a_migration_without_down_runs_nothing_at_all(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_oneway", "def up(db): db.done.insert_one({'version': 2})\n")
    project.invoke("up")
    result = project.invoke("down")
    assert result.exit_code == 5
    assert done(project) == [1, 2]
    assert project.trail(2) == ["started", "completed"]
    assert project.statuses() == {1: "completed", 2: "completed"}


def test_down_goes_by_the_order_of_application_and_not_of_file_names(project: Project) -> None:
    project.write_inserts(1, 3)
    project.invoke("up")
    project.write_inserts(2)
    project.invoke("up")
    undone = [project.runner().down().outcomes[0].step.version for _ in range(3)]
    assert undone == [2, 3, 1]


def test_what_another_run_undid_meanwhile_is_parsed_again_and_keeps_its_transaction(
    project: Project,
) -> None:
    """An applied file is not parsed at first: its flags are read once it is pending."""
    source = (
        "def up(db, ctx): db.done.insert_one({'version': %d, 'session': ctx.session is not None})\n"
    )
    project.write("1_insert", "transactional = True\n" + source % 1)
    project.invoke("up")
    project.write("2_insert", source % 2)
    listener, reports = Listener(), list[RunReport]()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        waiting = project.runner(client[project.db.name])
        second = threading.Thread(target=lambda: reports.append(waiting.up(Options(wait=30))))
        with project.runner().lease.hold(Actor.current("the first run")):
            second.start()
            assert listener.asked.wait(10)
            project.db.done.delete_many({})
            project.db.migrations.update_one({}, {"$set": {"status": "rolled-back"}})
        second.join(30)
    assert [report.error for report in reports] == [None]
    found = list(project.db.done.find({}, {"_id": False}))
    assert found == [{"version": 1, "session": True}, {"version": 2, "session": False}]


def test_a_bare_down_undoes_one_and_not_everything(project: Project) -> None:
    project.write_inserts(1, 2, 3)
    project.invoke("up")
    assert project.invoke("down").exit_code == 0
    assert done(project) == [1, 2]


# --- files


@pytest.mark.parametrize("transactional", [False, True])
def test_an_edited_applied_file_does_not_run_again(
    project: Project, *, transactional: bool
) -> None:
    head = f"transactional = {transactional}\n"
    source = head + "def up(db): db.done.insert_one({'version': 1})\n"
    project.write("1_insert", source)
    project.invoke("up")
    project.write("1_insert", source.replace("1})", "100})"))
    result = project.invoke("up")
    assert (result.exit_code, done(project)) == (0, [1])
    assert "has changed since it was applied; it is not run again" in result.stderr
    status = json.loads(project.invoke("status", "--json").stdout)
    assert (status["applied"][0]["drifted"], status["pending"]) == (True, [])


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_other_line_ends_are_no_change(project: Project, end: str) -> None:
    path = project.write("1_insert", "def up(db): db.done.insert_one({'version': 1})\n")
    project.invoke("up")
    path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert project.invoke("status", "--check").exit_code == 0


def test_a_renamed_applied_file_does_not_run_again(project: Project) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    (project.migrations / "1_insert.py").rename(project.migrations / "1-another-name.py")
    result = project.invoke("up")
    assert project.result(result.stdout) == "Nothing to do: every migration is applied.\n"
    assert done(project) == [1, 2]
    assert project.invoke("status", "--check").exit_code == 0


def test_a_deleted_applied_file_makes_nothing_run_again_and_stays_in_status(
    project: Project,
) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    (project.migrations / "1_insert.py").unlink()
    result = project.invoke("up")
    assert (result.exit_code, done(project)) == (0, [1, 2])
    assert "1 (insert) is applied, but its file is missing" in result.stderr
    applied = json.loads(project.invoke("status", "--json").stdout)["applied"]
    assert [(a["version"], a["missing"]) for a in applied] == [("1", True), ("2", False)]
    # The one above it can be undone still.
    assert project.invoke("down").exit_code == 0
    assert done(project) == [1]


@pytest.mark.parametrize(
    "name",
    [
        "Add User Index",
        "2 more fields 4 users",
        "Größe der Straße",
        "日本語",
        "🚀",
        'it\'s "quoted" \\ and `ticked`',
        "two\nlines",
        "../../etc/passwd",
        "x" * 300,
        "-v",
        "_private",
        ".hidden",
        "{{ name }} {% raw %}",
        "__init__",
    ],
)
def test_a_generated_file_is_found_whatever_its_name(project: Project, name: str) -> None:
    created = project.invoke("create", "--json", "--", name)
    assert created.exit_code == 0, created.output
    (path,) = project.migrations.iterdir()
    assert str(path) == json.loads(created.stdout)["path"]
    assert path.name.isprintable()
    assert len(path.name.encode()) < 200
    (pending,) = json.loads(project.invoke("status", "--json").stdout)["pending"]
    assert pending["name"] == " ".join(name.split())


def test_a_file_merged_late_is_not_skipped(project: Project) -> None:
    project.write_inserts(1, 3)
    project.invoke("up")
    project.write_inserts(2)
    result = project.invoke("up")
    assert "2 (insert) is out of order" in result.stderr
    assert done(project) == [1, 3, 2]


# --- failures


def test_the_failure_record_is_not_part_of_the_transaction_that_is_aborted(
    project: Project,
) -> None:
    project.write(
        "1_tx",
        """
        transactional = True

        def up(db):
            db.done.insert_one({"version": 1})
            raise ValueError("no such field")
        """,
    )
    assert project.invoke("up").exit_code == 1
    assert done(project) == []
    record = project.record(1)
    assert (record["status"], record["metadata"]["failure"]["message"]) == (
        "failed",
        "no such field",
    )
    assert project.trail(1) == ["started", "failed"]


def test_the_record_is_part_of_the_transaction_of_the_data(
    project: Project, failpoint: Failpoint
) -> None:
    project.write("1_tx", "transactional = True\ndef up(db): db.done.insert_one({'version': 1})\n")
    failpoint("commitTransaction", errorCode=DOCUMENT_VALIDATION_FAILURE)
    assert project.invoke("up").exit_code == 1
    assert (done(project), project.statuses()) == ([], {1: "failed"})
    assert project.invoke("up").exit_code == 0
    assert (done(project), project.statuses()) == ([1], {1: "completed"})


def test_the_exit_code_tells_of_a_failure_that_the_run_went_past(project: Project) -> None:
    project.write("1_bad", "def up(db): 1 / 0\n")
    project.write_inserts(2)
    assert project.invoke("up", "--continue-on-error").exit_code == 1
    assert project.invoke("up", "--continue-on-error", "--json").exit_code == 1
    assert project.statuses() == {1: "failed", 2: "completed"}
    assert project.run("up", "--continue-on-error").returncode == 1


def test_what_was_applied_before_the_failure_is_printed(project: Project) -> None:
    project.write_inserts(1, 2)
    project.write("3_bad", "def up(db): 1 / 0\n")
    result = project.invoke("up")
    assert "✓ 1 insert  applied" in result.stdout
    assert "✓ 2 insert  applied" in result.stdout
    assert "✗ 3 bad  failed" in result.stderr
    assert "Applied 2 migrations" in result.stdout


def test_a_failed_migration_is_never_shown_as_applied(project: Project) -> None:
    project.write("1_bad", "def up(db): 1 / 0\n")
    project.invoke("up")
    status = json.loads(project.invoke("status", "--json").stdout)
    assert (status["applied"], [f["version"] for f in status["failed"]]) == ([], ["1"])
    assert (
        project.result(project.invoke("down").stdout) == "Nothing to do: no migration is applied.\n"
    )


def test_a_dry_run_claims_no_success_that_it_has_not_seen(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_bad", "def up(db): db.done.insert_one({'_id': 1, '$bad': 1}); 1 / 0")
    result = project.invoke("up", "--dry-run")
    assert result.exit_code == 1
    assert "1 would succeed, 1 would fail" in result.stdout
    assert "nothing was changed" in result.stdout
    assert not {"Applied", "applied", "completed"} & set(result.output.split())
    assert project.db.list_collection_names() == []


def test_the_first_error_is_kept_when_recording_it_fails_too(
    project: Project, failpoint: Failpoint
) -> None:
    project.write("1_bad", "def up(db): raise ValueError('the first cause')\n")
    failpoint("update", skip=1, errorCode=DOCUMENT_VALIDATION_FAILURE)
    result = project.invoke("up", "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["steps"][0]["error"]["message"] == "the first cause"
    assert report["error"]["code"] == "database"
    assert project.runner().lock() is None


def test_the_first_error_is_printed_when_recording_it_fails_too(
    project: Project, failpoint: Failpoint
) -> None:
    project.write("1_bad", "def up(db): raise ValueError('the first cause')\n")
    failpoint("update", skip=1, errorCode=DOCUMENT_VALIDATION_FAILURE)
    result = project.invoke("up")
    assert "  ValueError: the first cause" in result.stderr
    assert "Error: The server refused a command" in result.stderr


def test_a_failure_that_could_not_be_recorded_is_interrupted_and_runs_again(
    project: Project, failpoint: Failpoint
) -> None:
    project.write("1_bad", "def up(db): raise ValueError('the first cause')\n")
    failpoint("update", skip=1, errorCode=DOCUMENT_VALIDATION_FAILURE)
    project.invoke("up")
    project.write("1_bad", "def up(db): db.done.insert_one({'version': 1})\n")
    result = project.invoke("up")
    assert result.exit_code == 0, result.output
    assert project.trail(1) == ["started", "interrupted", "started", "completed"]


def test_a_transaction_that_could_not_be_recorded_keeps_no_data(
    project: Project, failpoint: Failpoint
) -> None:
    project.write("1_tx", "transactional = True\ndef up(db): db.done.insert_one({'version': 1})\n")
    failpoint("update", skip=1, errorCode=DOCUMENT_VALIDATION_FAILURE)
    report: RunReport = project.runner().up()
    assert report.outcomes[0].state is StepState.FAILED
    assert (done(project), project.statuses()) == ([], {1: "failed"})


class Mute(Observer):
    """An interface whose screen is gone; rich ends the process then."""

    def __init__(self, at: str, error: BaseException) -> None:
        def fail(_: object) -> None:
            raise error

        setattr(self, at, fail)


@pytest.mark.parametrize("error", [BrokenPipeError(), SystemExit(1)])
@pytest.mark.parametrize("at", ["planned", "started", "ended"])
def test_a_door_that_cannot_show_the_progress_does_not_end_the_run_half_way(
    project: Project, at: str, error: BaseException
) -> None:
    project.write_inserts(1, 2)
    report = project.runner().up(Options(observer=Mute(at, error)))
    assert [outcome.state for outcome in report.outcomes] == [StepState.APPLIED] * 2
    assert project.statuses() == {1: "completed", 2: "completed"}


# --- clients


def test_a_run_of_many_migrations_has_one_client(project: Project) -> None:
    source = """
        import gc
        from pymongo import MongoClient

        def up(db):
            clients = sum(isinstance(o, MongoClient) for o in gc.get_objects())
            db.clients.insert_one({"clients": clients, "id": id(db.client)})
        """
    for version in (1, 2, 3):
        project.write(f"{version}_count", f"version = {version}\n{textwrap.dedent(source)}")
    assert project.run("up").returncode == 0
    found = list(project.db.clients.find())
    assert [document["clients"] for document in found] == [1, 1, 1]
    assert len({document["id"] for document in found}) == 1


def test_a_long_command_is_not_cut_off_by_a_timeout_of_ours(project: Project) -> None:
    project.write(
        "1_ask",
        "def up(db): db.done.insert_one({'t': db.client.options.timeout, 's': db.client.options.pool_options.socket_timeout})\n",
    )
    assert project.run("up").returncode == 0
    assert project.db.done.find_one({}, {"_id": 0}) == {"t": None, "s": None}
