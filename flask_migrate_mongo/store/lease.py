"""The lease: one document that at most one run holds, on the server's clock."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, TypeVar

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
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

_T = TypeVar("_T")

OnWait = Callable[[LockState, float], None]

LOCK_ID = ObjectId(b"migrate-lock")
"""The one lock of a database. The prefix is fixed, so that two runs contend for one document."""

BEATS_PER_TTL = 4
RECENT_SECONDS = 1
"""How long ago the server has confirmed the lease at most when a step starts under it."""

AWAY_SECONDS = 60
"""How long a server may be away: an election takes about 12 s."""

RETRY_SECONDS = 0.25
"""The pause between two tries while the server is away."""

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
        self.server = server
        self.locks = server.collection(collection)
        self.ttl = ttl
        self._sleep = sleep

    @contextlib.contextmanager
    def hold(
        self, actor: Actor, *, wait: float = 0, on_wait: OnWait = lambda *_: None
    ) -> Iterator[Grant]:
        """Hold the lease for the block, renewed by a thread; release it at the end.

        Waits up to `wait` seconds while another run has it. `on_wait` receives its lock, and how many seconds are left, once
        for each run that has it. Raises LockHeldError.
        """
        try:
            grant = self._acquire_within(actor, wait, on_wait)
        except ConnectionFailedError:
            # It may be taken although the reply was lost: release it, so that no run waits until it expires.
            self._free(actor, datetime.now(timezone.utc))
            raise
        try:
            with grant.beating():
                yield grant
        finally:
            self._free(actor, grant.now())

    def _free(self, actor: Actor, at: datetime) -> None:
        update = {"$set": {"locked": False, "updatedAt": at}}
        try:
            with translated():
                self.locks.update_one(_held_by(actor.run_id), update)
        except (MigrateError, KeyboardInterrupt) as exc:
            # Not raised: it would mask how the run itself ended.
            why = exc if isinstance(exc, MigrateError) else "interrupted by a second signal"
            _log.warning(
                "The lock was not released and ends by itself in at most %g s: %s", self.ttl, why
            )

    def inspect(self) -> LockState | None:
        """Read who holds the lock, live or expired; None when nobody does."""
        seen = self.server.read_with_time(self.locks, {"_id": LOCK_ID})
        return _state(*seen) if seen and seen[0].get("locked") else None

    def force_release(
        self, actor: Actor, *, confirmed: bool, fence: int | None = None
    ) -> LockState | None:
        """Release the lock of any holder, raise the fence and store an event. The result is the released lock.

        Only the holder that was looked at is released: a new one that came in between stays.
        Raises NotConfirmedError, which says who holds it, unless `confirmed`, and if it is not the one
        with this `fence`.
        """
        seen = self.inspect()
        if seen is None:
            return None
        if not confirmed or fence not in (None, seen.fence):
            raise NotConfirmedError(seen)
        event = {
            "event": "unlocked",
            "at": seen.seen_at,
            "by": actor.label,
            "of": seen.holder,
            "ofRun": seen.run_id,
        }
        with translated():
            self.locks.update_one(
                _held_by(seen.run_id),
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
            found = self.locks.find_one({"_id": LOCK_ID}, {"events": 1}) or {}
        return tuple(
            Event(e["event"], e["at"], version=None, details={"by": e["by"], "of": e["of"]})
            for e in found.get("events", ())
        )

    def _acquire_within(self, actor: Actor, wait: float, on_wait: OnWait) -> Grant:
        deadline = elapsed() + wait
        holder: str | None = None
        while True:
            try:
                return self._acquire(actor)
            except LockHeldError as exc:
                left = deadline - elapsed()
                if not left > 0:  # Written so that nan, too, ends the wait.
                    raise LockHeldError(exc.lock, waited=wait) from None
                if exc.lock.run_id != holder:
                    holder = exc.lock.run_id
                    on_wait(exc.lock, left)
                # Jittered, so that many waiting processes do not ask at the same instants.
                self._sleep(min(left, random.uniform(0.1, 0.6)))  # noqa: S311

    def _acquire(self, actor: Actor) -> Grant:
        asked_at = elapsed()
        now = self.server.now()
        taken = self._take(actor, now)
        if taken is None:
            # Asked and not guessed: it is ours after all if the server took it and its reply was lost.
            seen = self.server.read_with_time(self.locks, {"_id": LOCK_ID})
            taken, now = seen or ({}, now)
            if taken.get("runId") != actor.run_id or not taken.get("locked"):
                raise LockHeldError(_state(taken, now))
        return Grant(self, actor, taken["fence"], Renewal(asked_at, taken["lockedAt"]))

    def _take(self, actor: Actor, now: datetime) -> Document | None:
        """Take the lock if it is free or expired; None if it is held, or the reply was lost.

        Expiry is compared with the server's own time as a plain date, since `$expr`, and with it
        `$$NOW`, is refused in the filter of an upsert.
        """
        held = {
            "locked": True,
            "lockedBy": actor.label,
            "reason": actor.reason,
            "host": actor.host,
            "pid": actor.pid,
            "runId": actor.run_id,
            "lockedAt": now,
            **self.renewal_fields(now),
        }
        with translated():
            try:
                return self.locks.find_one_and_update(
                    {"_id": LOCK_ID, "$or": [{"locked": False}, {"expiresAt": {"$lte": now}}]},
                    {"$set": held, "$inc": {"fence": 1}, "$setOnInsert": {"createdAt": now}},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                return None

    def renewal_fields(self, now: datetime) -> Document:
        """Build the fields of a lock that is taken or renewed."""
        expires = now + timedelta(seconds=self.ttl)
        return {"heartbeatAt": now, "expiresAt": expires, "updatedAt": now}


class Renewal(NamedTuple):
    """When the lease was last renewed: on the clock of `elapsed`, asked before the server was."""

    asked_at: float
    server_time: datetime


class Grant:
    """A lease that is held, until it is released, lost or forced away."""

    def __init__(self, lease: Lease, actor: Actor, fence: int, renewal: Renewal) -> None:
        self.actor = actor
        self.fence = fence
        self.failed_beats = 0
        self._lease = lease
        self._renewal = renewal
        self._lost: str | None = None
        self._session: ClientSession | None = None
        self._done = threading.Event()
        self._mutex = threading.Lock()

    @property
    def deadline(self) -> float:
        """When the lease ends unless renewed, on the clock of `elapsed`."""
        return self._renewal.asked_at + self._lease.ttl

    def ensure(self) -> datetime:
        """Raise LeaseLostError unless the lease is still held; else estimate the server's time.

        The server is asked only when the time is up without a renewal. That alone loses nothing:
        as long as no other run has taken the lease, a late renewal still succeeds.
        """
        if self._lost is None and elapsed() >= self.deadline:
            try:
                self._renew()
            except MigrateError as exc:
                # Unless the renewal has found out why.
                reason = f"it could not be renewed for {self._lease.ttl:g} s ({exc})"
                self._lost = self._lost or reason
        if self._lost is not None:
            raise LeaseLostError(self._lost)
        return self.now()

    def now(self) -> datetime:
        """Estimate the server's time: as of the last renewal, plus the time since."""
        last = self._renewal
        return last.server_time + timedelta(seconds=elapsed() - last.asked_at)

    def ensure_recent(self) -> datetime:
        """Like `ensure`, and ask the server if its last confirmation is older than RECENT_SECONDS."""
        if elapsed() - self._renewal.asked_at > RECENT_SECONDS:
            self.verify()
        return self.ensure()

    def verify(self) -> None:
        """Ask the server whether the lease is still ours, and renew it. Raises LeaseLostError.

        While the server does not answer, the lease counts as held until it would have expired.
        """
        self.ensure()
        try:
            self._renew()
        except ConnectionFailedError as exc:
            _log.warning("The lease could not be verified: %s", exc)
        self.ensure()

    @contextlib.contextmanager
    def guarding(self, session: ClientSession | None) -> Iterator[None]:
        """Kill the session if the lease is lost inside the block."""
        self._session = session
        try:
            yield
        finally:
            self._session = None

    def outlast(self, action: Callable[[], _T], *, give_up: float = math.inf) -> _T:
        """Repeat an action while the server is away, until the lease would end, or `give_up`.

        Raises the last ConnectionFailedError. `give_up` is on the clock of `elapsed`.
        """
        return outlast(action, lambda: min(self.deadline, give_up))

    def raise_fence(self, above: int) -> None:
        """Lift the fence over that of records from before the lock document was deleted."""
        self._set(self._lease.locks, {"fence": above + 1})
        self.fence = above + 1

    def _renew(self) -> None:
        # In an empty context: it must not join the session that a step has bound to this one.
        contextvars.Context().run(self._renew_on, self._lease.server)

    def _renew_on(self, server: Server) -> None:
        locks = server.collection(self._lease.locks.name)
        asked_at = elapsed()
        now = server.now()
        self._set(locks, self._lease.renewal_fields(now))
        with self._mutex:
            self._renewal = max(self._renewal, Renewal(asked_at, now))

    def _set(self, locks: Collection[Document], fields: Document) -> None:
        """Set fields of the lock. Raises LeaseLostError if it is no longer ours."""
        with translated():
            held = locks.update_one(_held_by(self.actor.run_id), {"$set": fields}).matched_count
        if not held:
            self._lost = "another run took it over, or it was released by force"
            raise LeaseLostError(self._lost)

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

    def _beat(self) -> None:
        interval = pause = self._lease.ttl / BEATS_PER_TTL
        with self._lease.server.spare() as server:
            while not self._done.wait(pause):
                try:
                    self._renew_on(server)
                    pause = interval
                except LeaseLostError as exc:
                    if (
                        self._done.is_set()
                    ):  # The run has ended and released it while the server was slow.
                        return
                    _log.error("%s", exc)
                    self._end_own_statement(server)
                    return
                except Exception as exc:  # noqa: BLE001  (whatever it is, the next beat may succeed)
                    self.failed_beats += 1
                    pause = interval / BEATS_PER_TTL
                    _log.warning("Heartbeat %d failed: %s", self.failed_beats, exc)

    def _end_own_statement(self, server: Server) -> None:
        """End what the step has in flight, so that it does not run beside the next run."""
        session = self._session
        if session is not None:
            server.kill_session(session.session_id["id"])


def outlast(action: Callable[[], _T], give_up: Callable[[], float]) -> _T:
    """Repeat an action while the server is away, until a time on the clock of `elapsed`.

    Raises the last ConnectionFailedError.
    """
    while True:
        try:
            return action()
        except ConnectionFailedError as exc:
            if elapsed() >= give_up():
                raise
            _log.warning("Trying again: %s", exc)
            time.sleep(RETRY_SECONDS)


def _held_by(run_id: str) -> Document:
    return {"_id": LOCK_ID, "locked": True, "runId": run_id}


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
