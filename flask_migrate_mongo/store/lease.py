"""The lease: one document that at most one run holds, on the server's clock."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    LeaseLostError,
    LockHeldError,
    MigrateError,
    NotConfirmedError,
)
from flask_migrate_mongo.model.values import Actor, Event, LockState
from flask_migrate_mongo.process import elapsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.collection import Collection

LOCK_ID = ObjectId(b"migrate-lock")
"""The one lock of a database. The prefix is fixed, so that two runs contend for one document."""

BEATS_PER_TTL = 3
RECENT_SECONDS = 1
"""How long ago the server has confirmed the lease at most when a step starts under it."""

EVENTS_KEPT = 100

_log = logging.getLogger("flask_migrate_mongo.lease")


class Lease:
    """The lock of one database. `ttl` is in seconds."""

    def __init__(
        self,
        server: Server,
        collection: str,
        *,
        ttl: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._locks = server.collection(collection)
        self._ttl = ttl
        self._sleep = sleep

    @contextlib.contextmanager
    def hold(self, actor: Actor, *, wait: float = 0) -> Iterator[Grant]:
        """Hold the lease for the block, renewed by a thread; release it at the end.

        Waits up to `wait` seconds while another run has it. Raises LockHeldError.
        """
        try:
            grant = self._acquire_within(actor, wait)
        except ConnectionFailedError:
            # It may be taken although the reply was lost: release it, so that no run waits until it expires.
            _free(self._locks, actor, self._ttl, datetime.now(timezone.utc))
            raise
        try:
            with grant.beating():
                yield grant
        finally:
            grant.release()

    def inspect(self) -> LockState | None:
        """Read who holds the lock, live or expired; None when nobody does."""
        seen = self._look()
        return _state(*seen) if seen and seen[0].get("locked") else None

    def force_release(self, actor: Actor, *, confirmed: bool) -> LockState | None:
        """Release the lock of any holder, raise the fence and store an event. The result is the released lock.

        Only the holder that was looked at is released: a new one that came in between stays.
        Raises NotConfirmedError, which says who holds it, unless `confirmed`.
        """
        seen = self.inspect()
        if seen is None:
            return None
        if not confirmed:
            raise NotConfirmedError(seen)
        event = {
            "event": "unlocked",
            "at": seen.seen_at,
            "by": actor.label,
            "of": seen.holder,
            "ofRun": seen.run_id,
        }
        with translated():
            self._locks.update_one(
                {"_id": LOCK_ID, "locked": True, "runId": seen.run_id},
                {
                    "$set": {"locked": False, "updatedAt": seen.seen_at},
                    "$inc": {"fence": 1},
                    "$push": {"events": {"$each": [event], "$slice": -EVENTS_KEPT}},
                },
            )
        return seen

    def events(self) -> tuple[Event, ...]:
        """Read the forced releases, the oldest first."""
        with translated():
            found = self._locks.find_one({"_id": LOCK_ID}, {"events": 1}) or {}
        return tuple(
            Event(e["event"], e["at"], version=None, details={"by": e["by"], "of": e["of"]})
            for e in found.get("events", ())
        )

    def _acquire_within(self, actor: Actor, wait: float) -> Grant:
        deadline = elapsed() + wait
        while True:
            try:
                return self._acquire(actor)
            except LockHeldError:
                left = deadline - elapsed()
                if not left > 0:  # Written so that nan, too, ends the wait.
                    raise
                # Jittered, so that many waiting processes do not ask at the same instants.
                self._sleep(min(left, random.uniform(0.1, 0.6)))  # noqa: S311

    def _acquire(self, actor: Actor) -> Grant:
        asked_at = elapsed()
        now = self._server.now()
        taken = self._take(actor, now)
        if taken is None:
            # Asked and not guessed: it is ours after all if the server took it and its reply was lost.
            taken, now = self._look() or ({}, now)
            if taken.get("runId") != actor.run_id or not taken.get("locked"):
                raise LockHeldError(_state(taken, now))
        renewal = Renewal(asked_at, taken["lockedAt"])
        return Grant(self._server, self._locks, actor, taken["fence"], self._ttl, renewal)

    def _take(self, actor: Actor, now: datetime) -> Document | None:
        """Take the lock if it is free or expired; None if it is held, or the reply was lost.

        Expiry is compared with the server's own time as a plain date, since `$expr`, and with it
        `$$NOW`, is refused in the filter of an upsert.
        """
        moments = dict.fromkeys(("lockedAt", "heartbeatAt", "updatedAt"), now)
        expires = {"expiresAt": now + timedelta(seconds=self._ttl)}
        with translated():
            try:
                return self._locks.find_one_and_update(
                    {"_id": LOCK_ID, "$or": [{"locked": False}, {"expiresAt": {"$lte": now}}]},
                    {
                        "$set": {**_holder(actor), **moments, **expires},
                        "$inc": {"fence": 1},
                        "$setOnInsert": {"createdAt": now},
                    },
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                return None

    def _look(self) -> tuple[Document, datetime] | None:
        """Read the lock, held or free, and the server's time; None if there never was a lock."""
        return self._server.read_with_time(self._locks, {"_id": LOCK_ID})


class Renewal(NamedTuple):
    """When the lease was last renewed: on the clock of `elapsed`, asked before the server was."""

    asked_at: float
    server_time: datetime


class Grant:
    """A lease that is held, until it is released, lost or forced away."""

    def __init__(
        self,
        server: Server,
        locks: Collection[Document],
        actor: Actor,
        fence: int,
        ttl: float,
        renewal: Renewal,
    ) -> None:
        self.actor = actor
        self.fence = fence
        self.failed_beats = 0
        self._server = server
        self._locks = locks
        self._ttl = ttl
        self._renewal = renewal
        self._lost: str | None = None
        self._done = threading.Event()
        self._mutex = threading.Lock()

    @property
    def deadline(self) -> float:
        """When the lease ends unless renewed, on the clock of `elapsed`."""
        with self._mutex:
            return self._renewal.asked_at + self._ttl

    def now(self) -> datetime:
        """Estimate the server's time: as of the last renewal, plus the time since."""
        with self._mutex:
            return self._renewal.server_time + timedelta(seconds=elapsed() - self._renewal.asked_at)

    def ensure(self) -> None:
        """Raise LeaseLostError unless the lease is still held.

        The server is asked only when the time is up without a renewal. That alone loses nothing:
        as long as no other run has taken the lease, a late renewal still succeeds.
        """
        if self._lost is None and elapsed() >= self.deadline:
            self._renew_late()
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def ensure_recent(self) -> None:
        """Raise LeaseLostError unless the server has confirmed the lease within the last second."""
        with self._mutex:
            age = elapsed() - self._renewal.asked_at
        if age > RECENT_SECONDS:
            self.verify()
        else:
            self.ensure()

    def _renew_late(self) -> None:
        try:
            self.renew()
        except LeaseLostError:
            pass  # It is known to be lost by now, and why.
        except MigrateError as exc:
            self._lost = f"it could not be renewed for {self._ttl:g} s ({exc})"

    def verify(self) -> None:
        """Ask the server whether the lease is still ours, and renew it. Raises LeaseLostError.

        While the server does not answer, the lease counts as held until it would have expired.
        """
        self.ensure()
        try:
            self.renew()
        except ConnectionFailedError as exc:
            _log.warning("The lease could not be verified: %s", exc)
        self.ensure()

    def raise_fence(self, above: int) -> None:
        """Lift the fence over that of records from before the lock document was deleted."""
        with translated():
            self._locks.update_one(self._mine, {"$set": {"fence": above + 1}})
        self.fence = above + 1

    def renew(self) -> None:
        """Renew the lease once. Raises LeaseLostError when it is no longer ours."""
        # In an empty context: it must not join the session that a step has bound to this one.
        contextvars.Context().run(self._renew, self._server, self._locks)

    def _renew(self, server: Server, locks: Collection[Document]) -> None:
        asked_at = elapsed()
        now = server.now()
        fields = {
            "heartbeatAt": now,
            "expiresAt": now + timedelta(seconds=self._ttl),
            "updatedAt": now,
        }
        with translated():
            renewed = locks.update_one(self._mine, {"$set": fields}).matched_count
        if not renewed:
            self._lost = "another run took it over, or it was released by force"
            raise LeaseLostError(self._lost)
        with self._mutex:
            self._renewal = max(self._renewal, Renewal(asked_at, now))

    def release(self) -> None:
        """Let the lease go, if it is still ours; a failure is logged and leaves it to expire."""
        _free(self._locks, self.actor, self._ttl, self.now())

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Renew in the background for the length of the block."""
        # An empty context: the thread must not inherit a session that a step has bound.
        thread = threading.Thread(
            target=contextvars.Context().run,
            args=(self._beat,),
            name="migrate-heartbeat",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(timeout=1)

    @property
    def _mine(self) -> Document:
        return _held_by(self.actor)

    def _beat(self) -> None:
        with self._server.spare() as server:
            self._beat_through(server, server.collection(self._locks.name))

    def _beat_through(self, server: Server, locks: Collection[Document]) -> None:
        interval = self._ttl / BEATS_PER_TTL
        pause = interval
        while not self._done.wait(pause):
            try:
                self._renew(server, locks)
                pause = interval
            except LeaseLostError as exc:
                _log.error("%s", exc)
                return
            except Exception as exc:  # noqa: BLE001  (whatever it is, the next beat may succeed)
                self.failed_beats += 1
                pause = interval / BEATS_PER_TTL
                _log.warning("Heartbeat %d failed: %s", self.failed_beats, exc)


def _holder(actor: Actor) -> Document:
    return {
        "locked": True,
        "lockedBy": actor.label,
        "reason": actor.reason,
        "host": actor.host,
        "pid": actor.pid,
        "runId": actor.run_id,
    }


def _held_by(actor: Actor) -> Document:
    return {"_id": LOCK_ID, "locked": True, "runId": actor.run_id}


def _free(locks: Collection[Document], actor: Actor, ttl: float, at: datetime) -> None:
    try:
        with translated():
            locks.update_one(_held_by(actor), {"$set": {"locked": False, "updatedAt": at}})
    except MigrateError as exc:
        # Not raised: it would mask how the run itself ended.
        _log.warning("The lock was not released and ends by itself in at most %g s: %s", ttl, exc)


def _state(found: Document, now: datetime) -> LockState:
    return LockState(
        holder=found.get("lockedBy") or "unknown",
        host=found.get("host") or "unknown",
        pid=found.get("pid") or 0,
        run_id=found.get("runId") or "",
        reason=found.get("reason") or "unknown",
        fence=found.get("fence") or 0,
        locked_at=found.get("lockedAt") or now,
        heartbeat_at=found.get("heartbeatAt") or found.get("lockedAt") or now,
        expires_at=found.get("expiresAt") or now,
        seen_at=now,
    )
