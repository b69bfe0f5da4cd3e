"""Each command of a run fails in turn: data and record agree, and the next run finishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymongo
import pymongo.monitoring
import pytest

from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.errors import ConnectionFailedError, MigrateError
from flask_migrate_mongo.model.reports import RunReport, StepState
from flask_migrate_mongo.store import lease
from flask_migrate_mongo.store.lease import RECENT_SECONDS
from tests.conftest import APPNAME, uri_with
from tests.server.lossy_proxy import LossyProxy
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.database import Database

    from tests.conftest import Failpoint
    from tests.project import Project

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]

PLAIN, NEXT, TRANSACTIONAL, LAST = range(20261101001, 20261101005)
NAMES = {PLAIN: "plain", NEXT: "next", TRANSACTIONAL: "transactional", LAST: "last"}

BLOCKED_MS = 3_000

DIRECT = ("directConnection=true", "serverMonitoringMode=poll")
"""Through the proxy alone; a driver that polls finds a server that it lost half a second earlier."""

COMMANDS = (
    "find",
    "findAndModify",
    "insert",
    "update",
    "createIndexes",
    "commitTransaction",
    "killSessions",
)
"""Everything that a run of these migrations sends, apart from the driver's own hello."""

FEWEST = 19
"""How many of them a run sends that is too short for a heartbeat."""

FAULTS: dict[str, dict[str, Any]] = {
    "connection closed": {"closeConnection": True},
    "10107 not primary": {"errorCode": 10107},
    "91 shutting down": {"errorCode": 91},
    "112 write conflict": {"errorCode": 112},
    "251 no such transaction": {"errorCode": 251},
    "blocked for 3 s": {"blockConnection": True, "blockTimeMS": BLOCKED_MS},
}

SOURCES = {
    PLAIN: "def up(db):\n    db.people.insert_one({'by': 'plain'})\n",
    # The success of the first and the start of this one are recorded in one command.
    NEXT: "def up(db):\n    db.people.insert_one({'by': 'next'})\n",
    TRANSACTIONAL: (
        "transactional = True\n\n\ndef up(db):\n"
        "    db.people.insert_one({'by': 'transactional'})\n"
        "    db.people.update_many({'by': 'transactional'}, {'$inc': {'times': 1}})\n"
    ),
    LAST: "def up(db):\n    db.people.insert_one({'by': 'last'})\n",
}


@pytest.fixture
def migrations(project: Project) -> Project:
    for version, source in SOURCES.items():
        project.write(f"{version}_change", source)
    return project


def attempt(project: Project) -> RunReport | MigrateError:
    """Run `up`; what it says, whether as a report or as a refusal."""
    try:
        return project.runner(MIGRATE_LOCK_TTL=2).up(Options(wait=20))
    except MigrateError as exc:
        return exc


def disagreements(project: Project, said: RunReport | MigrateError) -> list[str]:
    """Compare the data, the records, and what was said of them."""
    data = [d["by"] for d in project.db.people.find()]
    records = project.statuses()
    outcomes = said.outcomes if isinstance(said, RunReport) else ()
    reported = {outcome.step.version: outcome.state for outcome in outcomes}
    found = []
    for version, by in NAMES.items():
        facts = f"{by}: data {data.count(by)}, record {records.get(version)}, report {reported.get(version)}"
        applied = records.get(version) == "completed"
        if data.count(by) != (1 if applied else 0):
            found.append(facts)
        if applied != (reported.get(version) is StepState.APPLIED) and reported:
            found.append(facts)
    if isinstance(said, RunReport) and not said.error and not said.failures and not found:
        missing = set(SOURCES) - {v for v, status in records.items() if status == "completed"}
        found += [f"success reported, but {version} is not applied" for version in missing]
    return found


def reset(project: Project) -> None:
    project.db.client.drop_database(project.db)


def finish(project: Project) -> list[str]:
    """Let the next runs finish, undisturbed, and return what is wrong then."""
    report = attempt(project)
    complete = dict.fromkeys(SOURCES, "completed")
    found = (
        [] if project.statuses() == complete else [f"not finished: {project.statuses()} {report}"]
    )
    twice = list(project.db.people.find({"times": {"$gt": 1}}))
    return found + [f"ran twice: {document}" for document in twice]


class Counter(pymongo.monitoring.CommandListener):
    """Counts the commands that a failpoint can hit, and those that failed."""

    def __init__(self) -> None:
        self.started_ = self.failed_ = 0

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.started_ += event.command_name in COMMANDS

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        self.failed_ += event.duration_micros > BLOCKED_MS * 900

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        self.failed_ += event.command_name in COMMANDS


@pytest.fixture
def counter(migrations: Project) -> Iterator[Counter]:
    counter = Counter()
    with pymongo.MongoClient[dict[str, Any]](migrations.uri, event_listeners=[counter]) as client:
        migrations.db = client[migrations.db.name]
        yield counter


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_at_each_command_leaves_data_and_record_in_agreement(
    migrations: Project,
    counter: Counter,
    failpoint: Failpoint,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    fault: dict[str, Any],
) -> None:
    before = counter.started_
    assert isinstance(attempt(migrations), RunReport)
    commands = counter.started_ - before
    found: list[str] = []
    faults = 0
    # Being blocked takes long: the short form blocks every third command.
    every = rounds(3, 1) if "blockConnection" in fault else 1
    for at in range(0, commands, every):
        for times in range(1, rounds(1, 3) + 1):
            reset(migrations)
            started, failed = counter.started_, counter.failed_
            failpoint(*COMMANDS, skip=at, times=times, **fault)
            # Here a run that becomes slow does ask again, and that may fail, too.
            monkeypatch.setattr(lease, "RECENT_SECONDS", RECENT_SECONDS)
            said = attempt(migrations)
            if counter.started_ - started <= at:
                # The run that was counted took longer, and had more heartbeats.
                failpoint("none", times=0, errorCode=1)
                continue
            # A heartbeat that was blocked can end after its run.
            until(lambda before=failed: counter.failed_ > before)  # type: ignore[misc]
            faults += counter.failed_ - failed
            failpoint("none", times=0, errorCode=1)
            found += [f"at {at}: {what}" for what in disagreements(migrations, said)]
            found += [f"at {at}: {what}" for what in finish(migrations)]
    tally(commands=commands, faults=faults, violations=len(found))
    assert found == []
    assert faults >= len(range(0, FEWEST, every))


@pytest.fixture
def proxy(mongo_uri: str) -> Iterator[LossyProxy]:
    with LossyProxy(int(mongo_uri.split("/")[2].rpartition(":")[2])) as proxy:
        yield proxy


@pytest.mark.parametrize("retry", [True, False], ids=["retryWrites", "no retryWrites"])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice in a row"])
def test_a_lost_answer_to_each_command_leaves_data_and_record_in_agreement(
    migrations: Project,
    db: Database[dict[str, Any]],
    proxy: LossyProxy,
    tally: Callable[..., None],
    times: int,
    *,
    retry: bool,
) -> None:
    found: list[str] = []
    at = 0
    lost: list[str] = []
    options = (f"appname={APPNAME}", *DIRECT, f"retryWrites={str(retry).lower()}")
    uri = uri_with(f"mongodb://127.0.0.1:{proxy.port}/?", db.name, *options)
    with pymongo.MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5_000) as client:
        while True:
            migrations.db = client[db.name]
            db.client.drop_database(db)
            proxy.lose(skip=at, times=times)
            said = attempt(migrations)
            if not proxy.lost:
                break
            lost += proxy.lost
            migrations.db = db
            wrong = (*unreported(migrations, said), *finish(migrations))
            found += [f"at {at} ({', '.join(proxy.lost)}): {what}" for what in wrong]
            at += 1
        # A slow run sends more, and the next one may have sent this one earlier than it was waited for.
        migrations.db = client[db.name]
        db.client.drop_database(db)
        proxy.lose(command="commitTransaction", times=times)
        said = attempt(migrations)
        lost += proxy.lost
        migrations.db = db
        found += (*unreported(migrations, said), *finish(migrations))
    tally(commands=at, answers_lost=len(lost), violations=len(found))
    assert "commitTransaction" in lost
    assert found == []


def unreported(project: Project, said: RunReport | MigrateError) -> list[str]:
    """Disagreements, but for one that nothing can rule out.

    A plain write whose answer is lost was made; the driver reports it as failed when it may not
    retry it, and so does the record.
    """
    found = disagreements(project, said)
    outcomes = said.outcomes if isinstance(said, RunReport) else ()
    failed = {o.step.version for o in outcomes if o.state is StepState.FAILED}
    excused = tuple(f"{NAMES[v]}: data 1, record failed" for v in failed - {TRANSACTIONAL})
    return [what for what in found if not what.startswith(excused)] if excused else found


def test_a_commit_that_was_never_heard_is_sent_again(
    migrations: Project, failpoint: Failpoint
) -> None:
    # The driver sends it again once by itself.
    failpoint("commitTransaction", times=4, closeConnection=True)
    report = attempt(migrations)
    assert isinstance(report, RunReport)
    assert [o.state for o in report.outcomes] == [StepState.APPLIED] * len(SOURCES), report
    assert disagreements(migrations, report) == []


def test_a_commit_that_took_effect_is_not_repeated_though_its_retry_is_refused(
    migrations: Project, db: Database[dict[str, Any]], proxy: LossyProxy, failpoint: Failpoint
) -> None:
    options = (f"appname={APPNAME}", *DIRECT)
    uri = uri_with(f"mongodb://127.0.0.1:{proxy.port}/?", db.name, *options)
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        migrations.db = client[db.name]
        # The commit takes effect and its answer is lost; a server that has forgotten the
        # session, as after a restart, then says that there is no such transaction.
        proxy.lose(command="commitTransaction")
        labels = ["TransientTransactionError"]
        failpoint("commitTransaction", skip=1, times=1, errorCode=251, errorLabels=labels)
        report = attempt(migrations)
    assert proxy.lost == ["commitTransaction"]
    assert isinstance(report, RunReport)
    assert [o.state for o in report.outcomes] == [StepState.APPLIED] * len(SOURCES), report
    assert [d["times"] for d in db.people.find({"by": "transactional"})] == [1]


def test_a_lock_that_was_taken_and_never_heard_of_is_given_back(
    migrations: Project, db: Database[dict[str, Any]], proxy: LossyProxy
) -> None:
    options = (f"appname={APPNAME}", *DIRECT, "retryWrites=false")
    uri = uri_with(f"mongodb://127.0.0.1:{proxy.port}/?", db.name, *options)
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        migrations.db = client[db.name]
        proxy.lose(skip=1)
        with pytest.raises(ConnectionFailedError):
            migrations.runner().up()
    assert proxy.lost == ["findAndModify"]
    assert (lock := db.migration_locks.find_one()) is not None
    assert (lock["fence"], lock["locked"]) == (1, False)
