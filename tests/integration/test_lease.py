"""The lease: one holder at a time, on the server's clock, renewed and fenced."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
import time_machine

from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.model.errors import LeaseLostError, LockHeldError, NotConfirmedError
from flask_migrate_mongo.model.values import Actor, LockState
from flask_migrate_mongo.process import elapsed
from flask_migrate_mongo.store.lease import LOCK_ID, Lease
from tests.conftest import APPNAME, uri_with
from tests.waiting import until

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.conftest import Failpoint
    from tests.project import Project

LOCKS = "migration_locks"


def lease(db: Database[Any], *, ttl: float = 60) -> Lease:
    return Lease(Server(db), LOCKS, ttl=ttl)


def actor(reason: str = "up") -> Actor:
    return Actor.current(reason)


def lock_of(db: Database[Any]) -> dict[str, Any]:
    found = db[LOCKS].find_one({"_id": LOCK_ID})
    assert found is not None
    return dict(found)


def server_time(db: Database[Any]) -> datetime:
    now: datetime = db.client.admin.command("hello")["localTime"]
    return now


def test_only_one_holds_it_and_the_other_learns_who(db: Database[Any]) -> None:
    first = actor("up")
    with (
        lease(db).hold(first),
        pytest.raises(LockHeldError) as held,
        lease(db).hold(actor()),
    ):
        pass
    lock = held.value.lock
    assert (lock.holder, lock.run_id, lock.pid) == (first.label, first.run_id, first.pid)
    assert f"{first.label} (up) holds the lock since {lock.locked_at:%Y-%m-%d %H:%M}" in str(
        held.value
    )
    assert "--wait" in str(held.value)
    assert "force-unlock --confirm" in str(held.value)


def test_who_waits_learns_at_once_who_has_it_and_again_when_another_one_does(
    db: Database[Any],
) -> None:
    first, second = actor("first"), actor("second")
    seen: list[tuple[str, float]] = []

    def on_wait(lock: LockState, seconds: float) -> None:
        seen.append((lock.run_id, seconds))
        if lock.run_id == first.run_id:
            take = {"runId": second.run_id, "reason": "second"}
            db[LOCKS].update_one({"_id": LOCK_ID}, {"$set": take})

    with (
        lease(db).hold(first),
        pytest.raises(LockHeldError, match=r"^Waited 2 s for the lock\..*\(second\)") as held,
        lease(db).hold(actor(), wait=2, on_wait=on_wait),
    ):
        pass
    assert [run_id for run_id, _ in seen] == [first.run_id, second.run_id]
    assert 2 >= seen[0][1] > seen[1][1] > 0
    assert held.value.lock.run_id == second.run_id


def test_the_document_has_the_promised_fields(db: Database[Any]) -> None:
    with lease(db, ttl=1800).hold(actor("up")):
        lock = lock_of(db)
    assert lock["locked"] is True
    assert lock["reason"] == "up"
    assert lock["expiresAt"] - lock["lockedAt"] == timedelta(minutes=30)
    assert lock["heartbeatAt"] == lock["lockedAt"] == lock["createdAt"] == lock["updatedAt"]
    assert set(lock) >= {"_id", "lockedBy", "fence", "host", "pid", "runId"}


def test_the_fence_rises_at_every_acquisition(db: Database[Any]) -> None:
    fences = []
    for _ in range(3):
        with lease(db).hold(actor()) as grant:
            fences.append(grant.fence)
    assert fences == [1, 2, 3]


def test_an_expired_lease_is_taken_over_and_its_holder_finds_it_gone(db: Database[Any]) -> None:
    with lease(db).hold(actor()) as first:
        expire(db)
        with lease(db).hold(actor()) as second:
            assert second.fence == first.fence + 1
            with pytest.raises(LeaseLostError, match="another run took it over"):
                first.verify()
            with pytest.raises(LeaseLostError):
                first.ensure()


def expire(db: Database[Any]) -> None:
    past = server_time(db) - timedelta(seconds=1)
    assert db[LOCKS].update_one({"_id": LOCK_ID}, {"$set": {"expiresAt": past}}).modified_count


@pytest.mark.parametrize("hours", [-2, 2])
def test_the_client_s_clock_has_no_say_in_expiry(db: Database[Any], hours: int) -> None:
    with time_machine.travel(datetime.now(timezone.utc) + timedelta(hours=hours), tick=True):
        with lease(db, ttl=600).hold(actor()):
            expires, now = lock_of(db)["expiresAt"], server_time(db)
            assert timedelta(seconds=590) < expires - now <= timedelta(seconds=600)
            with pytest.raises(LockHeldError), lease(db).hold(actor()):
                pass
        with lease(db).hold(actor()) as holder:
            expire(db)
            with lease(db).hold(actor()) as successor:
                assert successor.fence > holder.fence


def test_a_living_holder_never_expires(db: Database[Any]) -> None:
    with lease(db, ttl=2).hold(actor()) as grant:
        first = lock_of(db)
        until(lambda: lock_of(db)["expiresAt"] > first["expiresAt"] + timedelta(seconds=1.5))
        with pytest.raises(LockHeldError), lease(db).hold(actor()):
            pass
        grant.ensure()
        assert lock_of(db)["heartbeatAt"] > first["heartbeatAt"]


def test_failed_heartbeats_are_counted_and_overcome(
    db: Database[Any], failpoint: Failpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with lease(db, ttl=8).hold(actor()) as grant:
        before = lock_of(db)["heartbeatAt"]
        failpoint("update", times=2, errorCode=8)
        until(lambda: grant.failed_beats == 2)
        until(lambda: lock_of(db)["heartbeatAt"] > before)
        grant.ensure()
    assert "Heartbeat 2 failed" in caplog.text


def test_a_lease_that_cannot_be_renewed_for_its_ttl_is_lost(
    db: Database[Any], failpoint: Failpoint
) -> None:
    with lease(db, ttl=8).hold(actor()) as grant:
        failpoint("update", times=1000, errorCode=8)
        until(lambda: grant.failed_beats > 0)
        grant.ensure()

        def is_lost() -> bool:
            try:
                grant.ensure()
            except LeaseLostError as exc:
                return "could not be renewed for 8 s" in str(exc)
            return False

        until(is_lost)


def test_a_lease_that_was_not_renewed_in_time_is_kept_while_nobody_has_taken_it(
    db: Database[Any], failpoint: Failpoint
) -> None:
    with lease(db, ttl=2).hold(actor()) as grant:
        failpoint("update", times=1_000, errorCode=8)
        until(lambda: elapsed() > grant.deadline)
        failpoint("none", times=0, errorCode=1)
        grant.ensure()
        assert elapsed() < grant.deadline


def test_the_heartbeat_notices_a_loss_by_itself(
    db: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with lease(db, ttl=2).hold(actor()):
        db[LOCKS].update_one({"_id": LOCK_ID}, {"$set": {"runId": "another"}})
        until(lambda: "took it over" in caplog.text)


def test_a_heartbeat_finds_a_connection_where_the_pool_has_only_one(
    db: Database[Any], mongo_uri: str, failpoint: Failpoint
) -> None:
    uri = uri_with(mongo_uri, db.name, f"appname={APPNAME}", "maxPoolSize=1")
    with (
        pymongo.MongoClient[dict[str, Any]](uri) as client,
        lease(client[db.name], ttl=2).hold(actor()) as grant,
    ):
        before = lock_of(db)["heartbeatAt"]
        failpoint("aggregate", blockConnection=True, blockTimeMS=3_000)
        client[db.name].people.count_documents(
            {}
        )  # occupies the connection for longer than the TTL
        grant.ensure()
        assert lock_of(db)["heartbeatAt"] > before


def test_a_heartbeat_does_not_join_the_transaction_of_a_step(db: Database[Any]) -> None:
    with (
        lease(db, ttl=60).hold(actor()) as grant,
        db.client.start_session() as session,
        session.start_transaction(),
        session.bind(end_session=False),
    ):
        db.people.insert_one({})
        before = lock_of(db)["heartbeatAt"]
        grant.verify()
        session.abort_transaction()
    assert lock_of(db)["heartbeatAt"] > before


def test_promise_8_only_its_holder_releases_a_lease(db: Database[Any]) -> None:
    """Promise 8: only its holder releases a lease."""
    with lease(db).hold(actor()):
        expire(db)
        with lease(db).hold(actor()) as second:
            pass
        db[LOCKS].update_one({"_id": LOCK_ID}, {"$set": {"locked": True, "runId": "third"}})
    # The first has left its block by now, and so has the second: neither freed the third's lock.
    assert lock_of(db)["locked"] is True
    assert lock_of(db)["fence"] == second.fence


def test_waiting_gets_it_as_soon_as_it_is_free(db: Database[Any]) -> None:
    holding, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with lease(db).hold(actor()):
            holding.set()
            enough.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(10)
    threading.Timer(0.3, enough.set).start()
    with lease(db).hold(actor(), wait=10) as grant:
        assert grant.fence == 2
    holder.join()


def test_waiting_ends_at_its_deadline(db: Database[Any]) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    waiting = Lease(Server(db), LOCKS, ttl=60, sleep=sleep)
    began = time.monotonic()
    with (
        lease(db).hold(actor()),
        pytest.raises(LockHeldError),
        waiting.hold(actor(), wait=1),
    ):
        pass
    # On a busy machine it sleeps for less, because asking takes longer.
    assert sum(slept) <= 1.0 <= time.monotonic() - began
    assert len(set(slept)) == len(slept), "the pauses are jittered"


def test_an_acquisition_whose_answer_was_lost_is_ours(db: Database[Any]) -> None:
    me = actor()
    with lease(db).hold(me):
        pass
    db[LOCKS].update_one({"_id": LOCK_ID}, {"$set": {"locked": True}})
    with lease(db).hold(me) as grant:
        assert grant.fence == 1


class Mute:
    """A collection whose find_one_and_update does what it should, and is answered with nothing."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def find_one_and_update(self, *args: Any, **kwargs: Any) -> None:
        self._collection.find_one_and_update(*args, **kwargs)


class MuteServer(Server):
    def collection(self, name: str) -> Any:
        return Mute(super().collection(name))


def test_an_acquisition_that_was_answered_with_nothing_is_asked_for(db: Database[Any]) -> None:
    mute = Lease(MuteServer(db), LOCKS, ttl=60)
    with mute.hold(actor()) as grant:
        assert grant.fence == 1
        with pytest.raises(LockHeldError), mute.hold(actor()):
            pass
    assert lock_of(db)["locked"] is False


def test_forcing_needs_a_confirmation_that_says_who_holds_it(db: Database[Any]) -> None:
    holder = actor("up")
    with lease(db).hold(holder):
        with pytest.raises(NotConfirmedError) as refused:
            lease(db).force_release(actor(), confirmed=False)
        assert holder.label in str(refused.value)
        assert f"pid {holder.pid}" in str(refused.value)
        assert lock_of(db)["locked"] is True


def test_promise_8_forcing_a_lease_leaves_a_trace(project: Project) -> None:
    """Promise 8: forcing a lease leaves a trace."""
    holder = actor("up")
    with lease(project.db).hold(holder) as grant:
        released = project.runner().force_unlock(confirmed=True)
        assert released is not None
        assert released.run_id == holder.run_id
        with pytest.raises(LeaseLostError):
            grant.verify()
    (event,) = project.runner().events()
    assert event.kind == "unlocked"
    assert event.details["of"] == holder.label
    assert lock_of(project.db)["fence"] == 2
    assert lock_of(project.db)["locked"] is False


def test_forcing_a_free_lock_does_nothing(db: Database[Any]) -> None:
    assert lease(db).force_release(actor(), confirmed=True) is None
    assert db.list_collection_names() == []


def test_a_lock_document_that_was_deleted_does_not_lower_the_fence(project: Project) -> None:
    project.write_inserts(20261101001)
    for _ in range(3):
        project.runner().up()
        project.runner().down()
    project.db[LOCKS].drop()
    report = project.runner().up()
    assert report.error is None, report.error
    assert project.statuses() == {20261101001: "completed"}
    assert project.record(20261101001)["metadata"]["fence"] == 7
    assert lock_of(project.db)["fence"] == 7
