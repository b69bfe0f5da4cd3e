"""The server behind a database: its clock, what it can do, and its errors in our words."""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo import ReadPreference, errors
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.model.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    MigrateError,
    redact,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pymongo.collection import Collection
    from pymongo.database import Database

Document = dict[str, Any]

_log = logging.getLogger("flask_migrate_mongo.server")

_HAVING_TRANSACTIONS = frozenset({"RSPrimary", "Mongos"})
_ACCESS_CODES = frozenset({13, 18, 8000})
# What the driver's retry rules, or a later try, can overcome: elections, shutdowns, network
# errors of the server's own, and conflicts with another write. From the error_codes.yml of mongod.
_PASSING_CODES = frozenset(
    {6, 7, 89, 91, 112, 189, 251, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436}
)


class Server:
    """What holds a database: a real server, or mongomock, which has neither clock nor sessions."""

    def __init__(self, database: Database[Any]) -> None:
        self.database = database

    @property
    def is_real(self) -> bool:
        """Whether there is a server at all; any attribute exists on mongomock, so only the type tells."""
        return isinstance(self.database.client, pymongo.MongoClient)

    def now(self) -> datetime:
        """Return the primary's time, in UTC; without a server, this process's."""
        if not self.is_real:
            return datetime.now(timezone.utc)
        return _utc(self._hello()["localTime"])

    @cached_property
    def transactions_lacking(self) -> str | None:
        """Why this server has no transactions, or None when it has them."""
        if not self.is_real:
            return "mongomock has no sessions"
        if self._is_known_to_have_transactions():
            return None
        hello = self._hello()
        if "logicalSessionTimeoutMinutes" not in hello:
            return "it has no sessions"
        if "setName" in hello or hello.get("msg") == "isdbgrid":
            return None
        return "it is a standalone, neither a replica set nor sharded"

    def _is_known_to_have_transactions(self) -> bool:
        """Whether the driver, as it connected, has seen what has them: asking again is a round trip."""
        topology = self.database.client.topology_description
        seen = {found.server_type_name for found in topology.server_descriptions().values()}
        return bool(topology.logical_session_timeout_minutes and seen & _HAVING_TRANSACTIONS)

    def _hello(self) -> Mapping[str, Any]:
        with translated():
            return self.database.client.admin.command("hello")

    def transaction_seconds(self) -> float | None:
        """Return how long the server lets a transaction last, or None when it does not tell."""
        name = "transactionLifetimeLimitSeconds"
        try:
            found = self.database.client.admin.command({"getParameter": 1, name: 1}).get(name)
        except errors.OperationFailure:  # Only administrators may ask, and no router knows.
            return None
        return None if found is None else float(found)

    def collection(self, name: str) -> Collection[Document]:
        """Return one of our own collections: read from the primary, written to a majority.

        The types and time zones of the application's own handle do not reach it.
        """
        with translated():
            return self.database.get_collection(
                name,
                codec_options=CodecOptions(tz_aware=True),
                read_preference=ReadPreference.PRIMARY,
                write_concern=WriteConcern("majority"),
            )

    def kill_session(self, session_id: bytes) -> None:
        """End a dead run's session, and with it the open transaction whose locks would hold us up.

        Without it the server ends the transaction itself, 60 s after its start; so a refusal is
        only logged.
        """
        try:
            self.database.client.admin.command("killSessions", [{"id": session_id}])
        except errors.PyMongoError as exc:
            _log.warning("The transaction of a dead run was not ended at once: %s", _detail(exc))

    @contextlib.contextmanager
    def spare(self) -> Iterator[Server]:
        """Give a handle that never waits for a migration to give back the pool's only connection.

        A client of its own where the application's pool is limited to one connection; the
        application's client otherwise.
        """
        client = self.database.client
        if not self.is_real or client.options.pool_options.max_pool_size != 1:
            yield self
            return
        # Private: nothing public tells a client's credentials and TLS files.
        with type(client)(**{**client._init_kwargs, "connect": False}) as own:  # noqa: SLF001
            yield Server(own[self.database.name])

    def handle(self, *, transactional: bool) -> Database[Any]:
        """Return the database as a migration gets it: read from the primary.

        In a transaction it has no write concern of its own: the server accepts one on the commit
        only, and pymongo sends it with each write of a bound session.
        """
        if not self.is_real:
            return self.database
        concern = WriteConcern() if transactional else None
        return self.database.with_options(
            read_preference=ReadPreference.PRIMARY, write_concern=concern
        )


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise what the driver raises as an error of ours, with the driver's as its cause."""
    try:
        yield
    except errors.PyMongoError as exc:
        raise _ours(exc) from exc


def is_passing(exc: errors.PyMongoError) -> bool:
    """Whether a later try can succeed."""
    return isinstance(exc, errors.ConnectionFailure) or _code(exc) in _PASSING_CODES


def _ours(exc: errors.PyMongoError) -> MigrateError:
    detail = _detail(exc)
    if _code(exc) in _ACCESS_CODES:
        return AccessDeniedError(
            f"The server refused access: {detail}.",
            "Check user, password and authSource in MONGO_URI, and that the user may read and write this database.",
        )
    if is_passing(exc):
        return ConnectionFailedError(
            f"The database does not answer: {detail}.",
            "Check that the server is running and that MONGO_URI is right.",
        )
    if isinstance(exc, errors.ConfigurationError | errors.InvalidName | errors.InvalidOperation):
        return ConfigurationError(
            f"The database cannot be used as configured: {detail}.",
            "Check MONGO_URI, MIGRATE_DATABASE and the database that is passed to MongoMigrate.",
        )
    return DatabaseError(
        f"The server refused a command: {detail}.",
        "Its log may say more. Fix the cause, then run the command again.",
    )


def _code(exc: errors.PyMongoError) -> int | None:
    """Return the server's code for an error, None when it is not the server's."""
    return _within(exc).get("code") or (
        exc.code if isinstance(exc, errors.OperationFailure) else None
    )


def _within(exc: errors.PyMongoError) -> Mapping[str, Any]:
    """Return the first error of a bulk write, which itself has a code and a text of no meaning."""
    details = exc.details if isinstance(exc, errors.BulkWriteError) else None
    found = details or {}
    return next(iter((*found.get("writeErrors", ()), *found.get("writeConcernErrors", ()))), {})


def _detail(exc: errors.PyMongoError) -> str:
    # The driver appends its whole view of the cluster, and its timeouts, to the one fact wanted.
    text = _within(exc).get("errmsg") or str(exc)
    for tail in (", Timeout: ", " (configured timeouts", ", full error: "):
        text = text.partition(tail)[0]
    return redact(text).rstrip(".")
