"""How many commands are sent, counted by the driver, and that an index serves each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from bson.codec_options import CodecOptions
from pymongo import MongoClient

from flask_migrate_mongo.driver.server import server_of
from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.reports import StepState
from flask_migrate_mongo.model.values import Direction, Step
from flask_migrate_mongo.store import lease, records
from flask_migrate_mongo.store.lease import LOCK_ID
from tests.sent import Sent
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask_migrate_mongo.engine.runner import Runner
    from tests.conftest import Failpoint
    from tests.project import Project

SIZES = (0, 1, 3, 30)
OURS = frozenset({"migrations", "migration_locks"})


@pytest.fixture
def commands(project: Project) -> Iterator[Sent]:
    listener = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        project.db = client[project.db.name]
        yield listener


def write(project: Project, number: int, *, first: int = 1, transactional: bool = False) -> None:
    """Write migrations that send nothing themselves."""
    flag = "transactional = True\n" if transactional else ""
    for version in range(first, first + number):
        source = f"{flag}name = 'nothing {version}'\ndef up(db): pass\ndef down(db): pass\n"
        project.write(f"{version}_nothing", source)


def apply(runner: Runner) -> None:
    report = runner.up()
    assert {o.state for o in report.outcomes} <= {StepState.APPLIED}
    assert report.error is None


# --- looking


@pytest.mark.parametrize("size", SIZES)
def test_status_is_two_commands(project: Project, commands: Sent, size: int) -> None:
    write(project, size)
    runner = project.runner()
    apply(runner)
    commands.taken()
    report = runner.status()
    assert commands.taken() == ["find", "aggregate"]
    assert (len(report.survey.applied), report.lock) == (size, None)


@pytest.mark.parametrize("size", SIZES)
def test_status_is_two_commands_while_the_lock_is_held(
    project: Project, commands: Sent, size: int
) -> None:
    write(project, size)
    runner = project.runner()
    apply(runner)
    with runner.lease.hold(runner.actor("a test")):
        commands.taken()
        report = runner.status()
        assert commands.taken() == ["find", "aggregate"]
    assert len(report.survey.applied) == size
    assert report.lock is not None
    assert report.lock.is_live
    # The aggregate and `hello` tell the same clock.
    assert abs((runner.server.now() - report.lock.seen_at).total_seconds()) < 60


def test_a_record_reads_the_same_with_and_without_the_projection(project: Project) -> None:
    write(project, 3)
    project.write("20260101009_fails", 'def up(db):\n    raise ValueError("No")\n')
    runner = project.runner()
    runner.up()
    project.db.migrations.insert_many(
        [
            # As other tools may have left them.
            {"version": "10", "status": "completed"},
            {"version": "11", "status": "failed", "error": "Text", "metadata": None},
            {"version": "12", "status": "completed", "metadata": {"checkpoint": {"checksum": "c"}}},
        ]
    )
    aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    stored = project.db.migrations.with_options(aware).find()
    assert set(runner.history.load().records) == {records.read(each) for each in stored}


def test_who_holds_the_lock_is_one_command(project: Project, commands: Sent) -> None:
    runner = project.runner()
    assert runner.lock() is None
    assert commands.taken() == ["aggregate"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dry_run", [False, True])
def test_up_with_nothing_pending_is_one_command(
    project: Project, commands: Sent, size: int, *, dry_run: bool
) -> None:
    write(project, size)
    apply(project.runner())
    runner = project.dry_runner() if dry_run else project.runner()
    commands.taken()
    assert runner.up().is_noop
    assert commands.taken() == ["find"]


# --- acting


@pytest.fixture(autouse=True)
def no_slow_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run be so slow that it asks again whether it still holds the lease."""
    monkeypatch.setattr(lease, "RECENT_SECONDS", 60)


BEGINNING = ["find", "hello", "findAndModify", "createIndexes", "find"]
"""What a run sends before its first step: a look, the lock, the index, and a look under the lock."""


def expected(size: int, *, transactional: bool = False) -> list[str]:
    """Return what a run sends: two records a step, and the release of the lock at the end."""
    step = ["update", "update", "commitTransaction"] if transactional else ["update", "update"]
    return [*BEGINNING, *(step * size), "update"]


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("transactional", [False, True])
def test_up_of_new_files_is_six_commands_and_two_or_three_a_step(
    project: Project, commands: Sent, size: int, *, transactional: bool
) -> None:
    write(project, size, transactional=transactional)
    apply(project.runner())
    sent = commands.taken()
    assert sent == expected(size, transactional=transactional)
    assert len(sent) == 6 + (3 if transactional else 2) * size


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("transactional", [False, True])
def test_down_and_up_again_are_as_many_commands(
    project: Project, commands: Sent, size: int, *, transactional: bool
) -> None:
    write(project, size, transactional=transactional)
    runner = project.runner()
    apply(runner)
    commands.taken()
    undone = runner.down(steps=size).outcomes
    assert [outcome.state for outcome in undone] == [StepState.ROLLED_BACK] * size
    assert commands.taken() == expected(size, transactional=transactional)
    apply(runner)
    assert commands.taken() == expected(size, transactional=transactional)


def test_a_lock_that_is_held_is_found_so_in_three_commands(
    project: Project, commands: Sent
) -> None:
    write(project, 1)
    runner, other = project.runner(), project.runner()
    with other.lease.hold(other.actor("a test")):
        commands.taken()
        assert project.invoke("up").exit_code == 3
        assert commands.taken() == ["find", "hello", "findAndModify", "aggregate"]
    apply(runner)


def test_what_was_applied_between_the_first_look_and_the_lock_is_not_run_again(
    project: Project, commands: Sent
) -> None:
    project.write_inserts(1)
    runner, other = project.runner(), project.runner()
    with ThreadPoolExecutor() as pool:
        with other.lease.hold(other.actor("a test")) as grant:
            commands.taken()
            waiting = pool.submit(runner.up, Options(wait=60))
            until(lambda: "findAndModify" in commands.names())
            _, run = other.settle(grant)
            (file,) = other.folder.discover().files
            step = Step(file, Direction.UP)
            at = grant.ensure()
            claim = other.history.claim(step, run)
            claim.start(position=0, at=at, session=None)
            claim.complete(took_ms=1, at=at)
        report = waiting.result(timeout=60)
    assert (report.outcomes, report.error) == ((), None)
    assert project.db.done.count_documents({}) == 0
    assert project.trail(1) == ["started", "completed"]


# --- what serves them


def filters(command: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a command looks for; nothing for one that reads a whole collection."""
    found = [command[key] for key in ("filter", "query") if command.get(key)]
    found += [
        statement["q"] for key in ("updates", "deletes") for statement in command.get(key, ())
    ]
    stages = list(command.get("pipeline", ()))
    return [*found, *(stage["$match"] for stage in stages if "$match" in stage)]


def test_an_index_serves_every_command_that_looks_for_something(
    project: Project, commands: Sent
) -> None:
    write(project, 5)
    project.write("6_fails", "def up(db): raise ValueError('no')\ndef down(db): pass\n")
    runner = project.runner()
    runner.up()
    runner.status()
    runner.events()
    runner.events("3")
    settling.resolve(runner, "6", applied=True, reason="a test")
    runner.down(steps=2)
    project.db.migrations.update_one({"version": "2"}, {"$set": {"status": "running"}})
    runner.up()
    with runner.lease.hold(runner.actor("a test")):
        runner.force_unlock(confirmed=True)
    ours = [c for c in commands.commands if str(next(iter(c.values()))) in OURS]
    looked_for = [condition for command in ours for condition in filters(command)]
    assert len(looked_for) > 20
    assert (
        [c for c in looked_for if not ("version" in c or c.get("_id") == LOCK_ID)]
        == [
            # That of this test, by the driver's own hand, names the version as well.
        ]
    )
    names = {next(iter(command)) for command in ours}
    assert names == {"find", "findAndModify", "createIndexes", "update", "aggregate"}
    indexes = project.db.migrations.index_information()
    assert indexes["version_1"]["unique"] is True


# --- stages of pipelines that Amazon DocumentDB lacks

COUNT: dict[str, dict[str, object]] = {"$collStats": {"count": {}}}
LACKING = {"$unionWith", "$facet", "$collStats", "$merge", "$replaceWith"}


def keys_in(value: object) -> set[str]:
    """Collect the keys of a command at any depth."""
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    if isinstance(value, dict):
        return value.keys() | set().union(*map(keys_in, value.values()))
    return set()


@pytest.mark.parametrize("command", ["status", "plan", "up", "history", "down"])
@pytest.mark.parametrize("transactional", [False, True])
def test_the_main_commands_use_no_stage_that_some_deployments_lack(
    project: Project, commands: Sent, command: str, *, transactional: bool
) -> None:
    project.write_inserts(1, 2)
    project.write(
        "3_last",
        f"transactional = {transactional}\n"
        "def up(db): db.people.update_many({}, {'$set': {'x': 1}})\n"
        "def down(db): db.people.update_many({}, {'$unset': {'x': ''}})",
    )
    project.db.people.insert_many([{} for _ in range(20)])
    if command != "up":
        project.write_inserts(0)
        assert project.invoke("up").exit_code == 0
        project.write_inserts(4)
    commands.taken()
    done = project.invoke(command)
    assert done.exit_code == 0, done.output
    assert commands.commands
    # Where this one is refused, the command `count` follows.
    sent = [each for each in commands.commands if each.get("pipeline") != [COUNT]]
    assert not LACKING & keys_in(sent)


def test_a_server_without_collstats_is_asked_with_count(
    project: Project, commands: Sent, failpoint: Failpoint
) -> None:
    project.db.people.insert_many([{} for _ in range(20)])
    server = server_of(project.db)
    failpoint("aggregate", errorCode=40324)  # Unrecognized pipeline stage name.
    assert server.estimated_count("people") == 20
    assert commands.names()[-2:] == ["aggregate", "count"]
