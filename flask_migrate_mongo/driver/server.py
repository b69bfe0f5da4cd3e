"""The server behind a database: its clock, what it can do, and its errors in our words."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, cast

from bson.binary import UUID_SUBTYPE, Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, ReadPreference, UpdateMany, UpdateOne, errors
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.cursor import RawBatchCursor
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.model.documents import DeploymentKind, MigratedDatabase
from flask_migrate_mongo.model.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    MigrateError,
    message_of,
)
from flask_migrate_mongo.model.masking import DEFAULT_MASK, Mask
from flask_migrate_mongo.process import Stopped

from .outages import remedy_of

# The types of stored documents, so that no other module needs `Any` for them.
Document = dict[str, Any]
DocumentView = Mapping[str, Any]
Update = DocumentView | list[DocumentView]
"""What an update sets, or a pipeline."""

_log = logging.getLogger("flask_migrate_mongo.server")

EXACT = CodecOptions[Document](tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""Decodes every date, also one that Python cannot hold, into a value that encodes to the same bytes."""
OLDEST_WIRE_VERSION = 13
"""That of MongoDB 5.0."""

_MAJORITY_SECONDS = 60
MAJORITY = WriteConcern("majority", wtimeout=_MAJORITY_SECONDS * 1000)
"""Of writes of ours. Limited, because with a member down they could wait for ever."""

_NO_COLLECTION = "migrations_none"
"""Need not exist: to read it starts a transaction."""
_SUPERSEDE_MILLISECONDS = 2_000
"""How long a statement is waited for that still runs in the session."""
_NOT_CONFIRMED = 64
_HAVING_TRANSACTIONS = frozenset({"RSPrimary", "Mongos"})
_KINDS = {
    "RSPrimary": DeploymentKind.REPLICA_SET,
    "RSSecondary": DeploymentKind.REPLICA_SET,
    "Mongos": DeploymentKind.SHARDED,
    "Standalone": DeploymentKind.STANDALONE,
    "LoadBalancer": DeploymentKind.LOAD_BALANCED,
}
"""The kinds of a deployment, by the type of a server in it, as the driver names that."""

_ANY = "migrations"
"""A collection to read from; it need not exist."""

_ACCESS_CODES = frozenset({13, 18})
# Atlas' proxy answers with this code to whatever it refuses: a space quota, too.
_ATLAS_ERROR = 8000
_ATLAS_ACCESS = r"(?i)bad auth|authentication failed|not (?:allowed|authorized)"
# Failures that the driver's own retries, or a later try, can overcome: elections, shutdowns, network
# errors of the server's own, and conflicts with another write. From the error_codes.yml of mongod.
_PASSING_CODES = frozenset(
    {
        *(6, 7, 64, 89, 91, 112, 134, 189, 251, 262, 365, 9001, 10058, 10107),
        *(11600, 11601, 11602, 13435, 13436),
    }
)


class Replies(Protocol):
    """A cursor over batches of documents: as the server sends them, or as mongomock holds them."""

    def __next__(self) -> bytes | list[Document]: ...

    def close(self) -> None:
        """End the cursor."""


class Server:
    """A MongoDB server behind a database. `MongomockServer` overrides what mongomock lacks."""

    sends_commands = True
    """Whether a listener sees the commands of this process."""

    allows_workers = True
    """Whether several threads and processes can work on the database at once."""

    codec_options = EXACT
    """How our own collections are read."""

    def __init__(self, database: Database[Document]) -> None:
        self.database = database
        self._has_warned = False
        self._sessions: bool | None = None

    # --- facts

    @property
    def location(self) -> MigratedDatabase:
        """The database and its servers, as the driver knows them without asking."""
        topology = self.database.client.topology_description
        servers = topology.server_descriptions()
        hosts = sorted(host if port is None else _host(host, port) for host, port in servers)
        kinds = (_KINDS.get(each.server_type_name) for each in servers.values())
        kind = next(filter(None, kinds), None)
        names = filter(None, (each.replica_set_name for each in servers.values()))
        return MigratedDatabase(self.database.name, tuple(hosts), kind, next(names, None))

    def now(self) -> datetime:
        """Read the primary's time, in UTC."""
        moment: datetime = self._hello()["localTime"]
        return moment

    @cached_property
    def transactions_lacking(self) -> str | None:
        """Why this server has no transactions; None if it has them."""
        # The driver learned it when it connected, which saves a round trip.
        topology = self.database.client.topology_description
        found = topology.server_descriptions().values()
        if topology.logical_session_timeout_minutes and any(
            each.server_type_name in _HAVING_TRANSACTIONS and each.cluster_time for each in found
        ):
            return None
        hello = self._hello()
        if "logicalSessionTimeoutMinutes" not in hello:
            return "it has no sessions"
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            return "it is a standalone, neither a replica set nor sharded"
        # FerretDB with the name of a set says that it is one, but has no cluster time.
        return None if "$clusterTime" in hello else self._refusal_of_transactions()

    def has_sessions(self) -> bool:
        """Whether this server has sessions. Asked once: behind a load balancer, or in an outage, the driver does not know."""
        if self._sessions is None:
            topology = self.database.client.topology_description
            known = topology.logical_session_timeout_minutes is not None
            self._sessions = known or "logicalSessionTimeoutMinutes" in self._hello()
        return self._sessions

    def _refusal_of_transactions(self) -> str | None:
        with translated(), self.database.client.start_session() as session:
            session.start_transaction()
            try:
                self.collection(_ANY).find_one({}, {"_id": 1}, session=session)
                # The driver hides a refused abort.
                session.commit_transaction()
            except errors.OperationFailure as exc:
                text = (exc.details or {}).get("errmsg", "no reason was given")
                return f"it refuses them: {text}"
        return None

    def ensure_supported(self) -> None:
        """Raise ConfigurationError if the connected server is older than MongoDB 5.0, and learn whether it has sessions."""
        # Later, in an outage between two steps, nobody could be asked.
        self.has_sessions()
        if self.wire_version < OLDEST_WIRE_VERSION:
            msg = "The server is older than MongoDB 5.0, which migrations need. Nothing was run."
            raise ConfigurationError(msg, "Upgrade the server, one major version after the other.")

    @property
    def wire_version(self) -> int:
        """What all known servers can: the lowest of their wire versions."""
        found = self.database.client.topology_description.server_descriptions().values()
        versions = [each.max_wire_version for each in found if each.is_server_type_known]
        return min(versions, default=OLDEST_WIRE_VERSION)

    def _hello(self) -> Document:
        with translated():
            return self.database.client.admin.command("hello", codec_options=EXACT)

    def transaction_seconds(self) -> float | None:
        """Read how long a transaction may last; None if the server does not say."""
        name = "transactionLifetimeLimitSeconds"
        try:
            found = self.database.client.admin.command({"getParameter": 1, name: 1}).get(name)
        except errors.OperationFailure:  # Only administrators may ask, and mongos does not know it.
            return None
        return None if found is None else float(found)

    # --- handles

    def collection(self, name: str) -> Collection[Document]:
        """Make a handle of one of our own collections: read from the primary, written to a majority.

        The types and time zones of the application's own handle do not affect it.
        """
        with translated():
            return self.database.get_collection(
                name,
                codec_options=self.codec_options,
                read_preference=ReadPreference.PRIMARY,
                write_concern=MAJORITY,
            )

    def handle(self, *, transactional: bool) -> Database[Document]:
        """Make the handle that a migration receives: it reads from the primary, and writes to a majority.

        In a transaction it has no write concern: the server accepts one on the commit only, and
        pymongo would send it with each write of a bound session.
        """
        concern = self.database.write_concern
        if transactional:
            concern = WriteConcern()
        elif concern.document.get("w", 1) == 1:
            # Otherwise a failover could undo the data of a step whose record it keeps.
            concern = WriteConcern(**{**concern.document, "w": "majority"})
        return self.database.with_options(
            read_preference=ReadPreference.PRIMARY, write_concern=concern
        )

    @property
    def client_options(self) -> Document:
        """The arguments that the application's client was made with."""
        # Private: nothing public says a client's credentials and TLS files.
        return self.database.client._init_kwargs  # noqa: SLF001

    @contextlib.contextmanager
    def spare(self) -> Iterator[Server]:
        """Give a server whose commands never wait for a connection that a migration uses.

        Its client is the application's, or a separate one if that has only one connection.
        """
        client = self.database.client
        if client.options.pool_options.max_pool_size != 1:
            yield self
            return
        with type(client)(**{**self.client_options, "connect": False}) as own:
            yield Server(own[self.database.name])

    @contextlib.contextmanager
    def session(self, *, transactional: bool = True) -> Iterator[ClientSession | None]:
        """Open a session, or give None if the server lacks sessions, or transactions if they are wanted.

        No other operation ever gets its id. So the session of a stored id can be killed.
        """
        is_lacking = (
            self.transactions_lacking is not None if transactional else not self.has_sessions()
        )
        if is_lacking:
            yield None
            return
        with self.database.client.start_session(causal_consistency=False) as session:
            try:
                yield session
            finally:
                # The driver gives the ids of other ended sessions to its next operations.
                session._server_session.mark_dirty()  # noqa: SLF001

    def kill_session(self, session_id: bytes, *, is_ours: bool = False) -> None:
        """End a statement or a transaction that still runs in a session, even if its client is gone.

        A refusal is only logged. Then only its transaction is ended, and no statement that is still executed. In a
        session of ours the next transaction ends it, which must be the driver's.
        """
        # In an empty context: the commands must not join a session that is bound to this one.
        detached = contextvars.Context().run
        try:
            detached(self.database.client.admin.command, "killSessions", [{"id": session_id}])
        except errors.PyMongoError as exc:
            # Once: a server that lacks the command, or a user without the right, refuses each time.
            _log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "The session of a run that ended could not be killed. A statement that still runs in it "
                "goes on until the server ends it: %s",
                detail_of(exc),
            )
            self._has_warned = True
            if isinstance(exc, errors.OperationFailure) and not is_ours:
                detached(self._supersede_transaction, session_id)

    def _supersede_transaction(self, session_id: bytes) -> None:
        """End the transaction of a session by the start of the next one, which needs no right and is in every API version.

        Without it, the transaction would lock its documents until the server ends it, 60 s after its start.
        """
        try:
            with self.session() as session:
                if session is None:
                    return
                cast("Document", session.session_id)["id"] = Binary(session_id, UUID_SUBTYPE)
                # Later than all that it has had. Private: nothing public continues the session of another process.
                session._server_session._transaction_id = time.time_ns()  # noqa: SLF001
                session.start_transaction(read_preference=ReadPreference.PRIMARY)
                self.database[_NO_COLLECTION].find_one(
                    session=session, max_time_ms=_SUPERSEDE_MILLISECONDS
                )
        except (errors.PyMongoError, MigrateError) as exc:
            _log.debug("Its transaction could not be ended either: %s", message_of(exc))

    @contextlib.contextmanager
    def killing_on_stop(self, session: ClientSession | None) -> Iterator[None]:
        """Kill the session if a stop interrupts the block.

        The server would otherwise continue an update, a deletion or an index build without its client.
        """
        try:
            yield
        except (KeyboardInterrupt, Stopped):
            if session is not None:
                # A second signal ends the wait for a server that hangs.
                with contextlib.suppress(KeyboardInterrupt):
                    self.kill_session(session.session_id["id"])
            raise

    # --- reads and writes

    def read_with_time(
        self, collection: Collection[Document], query: Document
    ) -> tuple[Document, datetime] | None:
        """Read one document and the server's time at that moment; None if it does not exist."""
        found = {"$project": {"_id": 0, "document": "$$ROOT", "now": "$$NOW"}}
        with translated():
            seen = next(collection.aggregate([{"$match": query}, {"$limit": 1}, found]), None)
        return (seen["document"], seen["now"]) if seen else None

    def estimated_count(self, name: str) -> int:
        """Read how many documents a collection has, from its metadata: exact unless the server crashed."""
        collection = self.database[name]
        with translated():
            try:
                # The command `count` is refused to clients with a strict API version before MongoDB 6.0.
                found = list(collection.aggregate([{"$collStats": {"count": {}}}]))
            except (errors.OperationFailure, NotImplementedError):
                # Amazon DocumentDB and mongomock lack the stage, and a view has no count.
                return collection.estimated_document_count()
        return sum(shard["count"] for shard in found)

    def collection_options(self, name: str) -> Document:
        """Read the options that a collection was created with; empty if it does not exist."""
        with translated():
            return dict(self.database[name].options())

    def read_in_order(
        self,
        collection: Collection[Document],
        query: Document,
        *,
        projection: Mapping[str, int] | None,
        batch_size: int,
    ) -> Replies:
        """Open a cursor in the order of `_id`, which yields the replies as they are."""
        # Hinted: another index would have to sort, and a sort is limited to 100 MB.
        cursor: RawBatchCursor[Any] = collection.find_raw_batches(
            query, projection, batch_size=batch_size, sort=[("_id", 1)], hint=[("_id", 1)]
        )
        return cursor

    def bulk_update(
        self,
        collection: Collection[Document],
        updates: Sequence[tuple[Document, Update]],
        *,
        many: bool,
        session: ClientSession | None = None,
    ) -> tuple[int, int]:
        """Make updates in one command and in this order; count matched and modified documents.

        Without `many` each changes one document, so that the driver can retry the command.
        """
        kind = UpdateMany if many else UpdateOne
        done = collection.bulk_write([kind(*update) for update in updates], session=session)
        return done.matched_count, done.modified_count


class MongomockServer(Server):
    """mongomock in the tests of an application: without clock, sessions, commands and options of collections.

    It is never imported here.
    """

    sends_commands = False
    allows_workers = False
    transactions_lacking = "mongomock has no sessions"
    codec_options = CodecOptions[Document](tz_aware=True)

    @property
    def location(self) -> MigratedDatabase:
        """The database, which is on no host."""
        return MigratedDatabase(self.database.name, kind=DeploymentKind.MONGOMOCK)

    def now(self) -> datetime:
        """Read the time of this process."""
        return datetime.now(timezone.utc)

    def handle(self, *, transactional: bool) -> Database[Document]:  # noqa: ARG002
        """Give the application's own handle."""
        return self.database

    def ensure_supported(self) -> None:
        """Accept each version."""

    @contextlib.contextmanager
    def spare(self) -> Iterator[Server]:
        """Give this server, which has no connections."""
        yield self

    @contextlib.contextmanager
    def session(self, *, transactional: bool = True) -> Iterator[None]:  # noqa: ARG002
        """Give none."""
        yield None

    def read_with_time(
        self, collection: Collection[Document], query: Document
    ) -> tuple[Document, datetime] | None:
        """Read one document and the time; None if it does not exist."""
        with translated():
            found = collection.find_one(query)
        return (found, self.now()) if found else None

    def collection_options(self, name: str) -> Document:  # noqa: ARG002
        """Give none: mongomock keeps no options."""
        return {}

    def read_in_order(
        self,
        collection: Collection[Document],
        query: Document,
        *,
        projection: Mapping[str, int] | None,
        batch_size: int,
    ) -> Generator[list[Document], None, None]:
        """Yield documents in the order of `_id`, in batches."""
        found = collection.find(query, projection).sort("_id", 1)
        while batch := list(islice(found, batch_size)):
            yield batch

    def bulk_update(
        self,
        collection: Collection[Document],
        updates: Sequence[tuple[Document, Update]],
        *,
        many: bool,
        session: ClientSession | None = None,  # noqa: ARG002
    ) -> tuple[int, int]:
        """Make updates one by one; count matched and modified documents."""
        update = collection.update_many if many else collection.update_one
        done = [update(*each) for each in updates]
        return sum(d.matched_count for d in done), sum(d.modified_count for d in done)


def _host(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def server_of(database: Database[Document]) -> Server:
    """Make the server of a database."""
    # By the type alone: on a client of mongomock every attribute exists.
    is_pymongo = isinstance(database.client, MongoClient)
    return Server(database) if is_pymongo else MongomockServer(database)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise an error of the driver as one of ours, with the driver's as its cause."""
    try:
        yield
    except errors.PyMongoError as exc:
        raise _ours(exc) from exc


def is_passing(exc: errors.PyMongoError) -> bool:
    """Whether a later try can succeed."""
    return isinstance(exc, errors.ConnectionFailure) or code_of(exc) in _PASSING_CODES


def is_access_refused(exc: errors.PyMongoError) -> bool:
    """Whether the credentials are wrong or lack a right."""
    code = code_of(exc)
    of_atlas = code == _ATLAS_ERROR and re.search(_ATLAS_ACCESS, detail_of(exc))
    return code in _ACCESS_CODES or bool(of_atlas)


def _ours(exc: errors.PyMongoError) -> MigrateError:
    detail = detail_of(exc)
    if is_access_refused(exc):
        return AccessDeniedError(f"The server refused access: {detail}.")
    if code_of(exc) == _NOT_CONFIRMED:
        return ConnectionFailedError(
            f"No majority of the replica set has confirmed a write within {_MAJORITY_SECONDS} s.",
            "Check that its members that hold data are up and replicate: rs.status().",
        )
    if is_passing(exc):
        return ConnectionFailedError(f"The database does not answer: {detail}.", remedy_of(detail))
    if isinstance(exc, errors.ConfigurationError | errors.InvalidName | errors.InvalidOperation):
        return ConfigurationError(
            f"The database cannot be used as configured: {detail}.",
            "Check MONGO_URI, MIGRATE_MONGO_URI, MIGRATE_DATABASE and the database that is passed to MongoMigrate.",
        )
    return DatabaseError(f"The server refused a command: {detail}.")


def driver_error(exc: BaseException) -> errors.PyMongoError | None:
    """Find the driver's error: this one or its cause."""
    cause = exc if isinstance(exc, errors.PyMongoError) else exc.__cause__
    return cause if isinstance(cause, errors.PyMongoError) else None


def code_of(exc: BaseException | None) -> int | None:
    """Find the server's code for an error, or for its cause; None if there is none, or the error is the driver's own."""
    if exc is None:
        return None
    return failure_of(exc).get("code") or getattr(driver_error(exc), "code", None)


def failure_of(exc: BaseException) -> DocumentView:
    """Find what the server replied for an error, or for its cause: for a bulk write its first error."""
    found: DocumentView = getattr(driver_error(exc), "details", None) or {}
    failed = (*found.get("writeErrors", ()), *found.get("writeConcernErrors", ()))
    return next(iter(failed), found)


def detail_of(exc: errors.PyMongoError, mask: Mask = DEFAULT_MASK) -> str:
    """Say what failed, without a full stop: in the words of the server, or else of the driver."""
    # The driver appends its whole view of the cluster, and its timeouts, to the one fact of use.
    text = message_of(exc, mask)
    for tail in (", Timeout: ", " (configured timeouts"):
        text = text.partition(tail)[0]
    return text.rstrip(".")
