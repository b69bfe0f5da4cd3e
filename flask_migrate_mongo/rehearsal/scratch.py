"""The scratch database of a rehearsal: created, marked as ours, filled with samples, and dropped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from bson.raw_bson import RawBSONDocument
from pymongo import timeout
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.driver.commands import read_by, without_listeners
from flask_migrate_mongo.driver.server import Document, Server, is_access_refused
from flask_migrate_mongo.model.errors import ScratchTakenError, SettingError, message_of
from flask_migrate_mongo.model.values import Actor

from .comparison import RAW, identity, indexes, listed
from .results import CopiedCollection

MARKER = "_rehearsal"
"""The collection that says which rehearsal a scratch database belongs to; it is created first."""

LEFTOVER_AFTER = timedelta(hours=1)
RENEW_SECONDS = 60
DROP_SECONDS = 10
"""How long a drop may take, also if it has to wait for a transaction."""

NAME_LIMIT = 63
"""The longest name of a database, in bytes."""

_SEPARATOR = "_rehearsal_"
_ID_LENGTH = 8
_MARKER_ID = "marker"
_BATCH_BYTES = 4_000_000
_DAY_SECONDS = 86_400
_MOST_SECONDS = 2**31 - 1
_INVALID_DOCUMENT = 121

_log = logging.getLogger(__name__)


def name_for(database: str, run_id: str) -> str:
    """Make a name for a scratch database, which begins with the name of the real one."""
    return f"{prefix_for(database)}{run_id[:_ID_LENGTH]}"


def prefix_for(database: str) -> str:
    """Make the prefix of the names of a database's scratch databases."""
    length = NAME_LIMIT - len(_SEPARATOR) - _ID_LENGTH
    # "ignore" drops a character that was cut in two.
    return f"{database.encode()[:length].decode(errors='ignore')}{_SEPARATOR}"


def longest_expiry(now: datetime) -> int:
    """Choose an `expireAfterSeconds` after which nothing expires during a rehearsal.

    The server refuses one that reaches back before 1970. A day is left, in case that its clock is behind.
    """
    return min(int(now.timestamp()) - _DAY_SECONDS, _MOST_SECONDS)


def sibling(like: Database[Document], name: str) -> Database[Document]:
    """Make a handle of another database of the client, with the same options."""
    return like.client.get_database(
        name, like.codec_options, like.read_preference, like.write_concern, like.read_concern
    )


class ScratchDatabase:
    """The scratch database of one rehearsal, and the `real` database that its samples come from.

    `available` are the collections that can be copied, `skip` names our own, which never are. `check` raises to stop
    what takes long.
    """

    def __init__(
        self, real: Server, name: str, actor: Actor, ours: frozenset[str], check: Callable[[], None]
    ) -> None:
        self.database = sibling(real.database, name)
        self.real = real
        self.skip = ours | {MARKER}
        self.check = check
        self._actor = actor
        self._renewed = time.monotonic()
        self._may_bypass = True
        found = listed(real.database, self.skip)
        encrypted = (n for n, info in found.items() if "encryptedFields" in info.get("options", {}))
        # With Queryable Encryption: the server refuses to insert copies of their documents.
        self.encrypted = frozenset(encrypted)
        own = self.encrypted.union(name for name in found if name.startswith("enxcol_."))
        self.available = {name: info for name, info in found.items() if name not in own}

    def create(self) -> None:
        """Create the database by marking it. Raises ScratchTakenError if it exists already."""
        name = self.database.name
        if name == self.real.database.name:
            accepts = "another database than the application's"
            raise SettingError("MIGRATE_REHEARSAL_DATABASE", name, accepts)
        # The server leaves this one behind if the last view was dropped, and not the database.
        if set(self.database.list_collection_names()) - {"system.views"}:
            raise ScratchTakenError(name, _marker(self.database))
        try:
            self.database[MARKER].insert_one(self._mark())
        except DuplicateKeyError as exc:  # Another rehearsal was faster.
            raise ScratchTakenError(name, _marker(self.database)) from exc

    def renew_mark(self, after: float = 0) -> None:
        """Mark the rehearsal as alive, unless that was done in the last `after` seconds.

        It also restores a mark that a migration dropped.
        """
        if time.monotonic() - self._renewed < after:
            return
        self._renewed = time.monotonic()
        mark = self._mark()
        now = {"aliveAt": mark.pop("aliveAt")}
        self.database[MARKER].update_one(
            {"_id": mark.pop("_id")}, {"$set": now, "$setOnInsert": mark}, upsert=True
        )

    def clear(self) -> None:
        """Remove all collections."""
        _drop(self.database)
        self.renew_mark()

    def drop(self) -> tuple[str, ...]:
        """Drop the database; a failure becomes a warning."""
        try:
            _drop(self.database)
        except PyMongoError as exc:
            warning = (
                f"The scratch database {self.database.name} could not be dropped: {message_of(exc)} "
                "The next rehearsal removes it when it is an hour old."
            )
            _log.warning("%s", warning)
            return (warning,)
        return ()

    def shown_by(self, name: str) -> Iterator[str]:
        """Yield the collections that a view shows, at any depth."""
        options: Document = self.available.get(name, {}).get("options", {})
        if "viewOn" in options:
            read = (full.partition(".")[2] for full in read_by(options.get("pipeline"), ""))
            for shown in (options["viewOn"], *read):
                yield shown
                yield from self.shown_by(shown)

    def copy(self, name: str, limit: int | None) -> CopiedCollection:
        """Copy a collection with its options, its indexes, and at most `limit` of its documents."""
        info = self.available[name]
        left_out = {"expireAfterSeconds", "autoIndexId", "uuid"}
        options = {k: v for k, v in info.get("options", {}).items() if k not in left_out}
        self.database.command({"create": name, **options})
        if info["type"] == "view":
            return CopiedCollection(name, 0, 0)
        count = self.real.estimated_count(name)
        source = self.real.database.with_options(codec_options=RAW)[name]
        copied = refused = size = 0
        for batch in _batches(source, limit if limit and limit < count else None):
            self.check()
            self.renew_mark(RENEW_SECONDS)
            inserted = self._insert(name, batch, validated="validator" in options)
            copied += inserted
            refused += len(batch) - inserted
            size += sum(len(document.raw) for document in batch)
        size = size * count // max(copied + refused, 1)
        ttl_indexes = self._copy_indexes(info)
        return CopiedCollection(name, copied, max(count, copied), size, ttl_indexes, refused)

    def _insert(self, name: str, batch: list[RawBSONDocument], *, validated: bool) -> int:
        """Insert documents and return how many; the validator refuses some if the user may not bypass it."""
        target = self.database.with_options(codec_options=RAW, write_concern=WriteConcern(1))
        # Documents that a validator would refuse exist all the same.
        bypass = (validated and self._may_bypass) or None
        try:
            target[name].insert_many(batch, ordered=False, bypass_document_validation=bypass)
        except BulkWriteError as exc:
            failed = exc.details["writeErrors"]
            if any(each["code"] != _INVALID_DOCUMENT for each in failed):
                raise
            return len(batch) - len(failed)
        except OperationFailure as exc:
            if not bypass or not is_access_refused(exc):
                raise
            self._may_bypass = False
            return self._insert(name, batch, validated=validated)
        return len(batch)

    def _copy_indexes(self, info: Document) -> tuple[str, ...]:
        """Copy the indexes, and return those whose documents would expire during the rehearsal."""
        found = indexes(self.real.database, info)
        copied = [i for i in found if i["name"] != "_id_" and not i.get("clustered")]
        if "collation" in info.get("options", {}):
            # `listIndexes` leaves out the simple collation; without it, an index inherits that of its collection.
            copied = [{"collation": {"locale": "simple"}, **index} for index in copied]
        expiring = [index for index in copied if "expireAfterSeconds" in index]
        for index in expiring:
            index["expireAfterSeconds"] = longest_expiry(self.real.now())
        self.check()
        if copied:
            self.database.command({"createIndexes": info["name"], "indexes": copied})
        return tuple(index["name"] for index in expiring)

    def _mark(self) -> Document:
        now = self.real.now()
        return {
            "_id": _MARKER_ID,
            "of": self.real.database.name,
            "createdAt": now,
            "aliveAt": now,
            "runId": self._actor.run_id,
            "host": self._actor.host,
            "pid": self._actor.pid,
        }


def remove_leftovers(real: Server, also: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Drop the databases of crashed rehearsals of this database that were alive over an hour ago.

    Returns their names, and a warning for each that could not be dropped. It drops only databases with our marker
    for this very database. `also` is a name that a setting gives.
    """
    alive = real.now() - LEFTOVER_AFTER
    removed, warnings = list[str](), list[str]()
    try:
        names = real.database.client.list_database_names()
    except OperationFailure as exc:
        if not is_access_refused(exc):
            raise
        names = [also] if also else []
        warnings.append(
            "This user may not list databases, so those of crashed rehearsals were not looked for. "
            f"Drop what is named {prefix_for(real.database.name)}... as a user who may do that."
        )
    for name in names:
        try:
            if _is_leftover(real, name, also, alive):
                _drop(real.database.client[name])
                removed.append(name)
        except PyMongoError as exc:
            warnings.append(
                f"The database {name} of a crashed rehearsal could not be dropped: {message_of(exc)} "
                "Drop it as a user who may do that."
            )
    return tuple(removed), tuple(warnings)


def leftovers(real: Server, also: str | None) -> tuple[str, ...]:
    """Find the databases that `remove_leftovers` would drop."""
    alive, names = real.now() - LEFTOVER_AFTER, real.database.client.list_database_names()
    return tuple(name for name in names if _is_leftover(real, name, also, alive))


def _is_leftover(real: Server, name: str, also: str | None, alive: datetime) -> bool:
    of = real.database.name
    if not (name.startswith(prefix_for(of)) or name == also):
        return False
    leftover = {"_id": _MARKER_ID, "of": of, "aliveAt": {"$lt": alive}}
    found = Server(real.database.client[name]).collection(MARKER).find_one(leftover)
    return found is not None


def _drop(database: Database[Document]) -> None:
    # Without a limit it would wait as long as a transaction of another process is open. The guard of a rehearsal
    # would copy all collections when they are listed.
    with timeout(DROP_SECONDS), without_listeners():
        try:
            database.client.drop_database(database)
        except OperationFailure as exc:
            if not is_access_refused(exc):
                raise
            # The last collection takes the database with it. Until then, the mark says whose it is.
            for name in (*listed(database, frozenset({MARKER})), MARKER):
                database.drop_collection(name)


def _marker(database: Database[Document]) -> Document | None:
    found = Server(database).collection(MARKER).find_one({"_id": _MARKER_ID})
    return found if found and {"of", "createdAt"} <= found.keys() else None


def _batches(
    collection: Collection[RawBSONDocument], limit: int | None
) -> Iterator[list[RawBSONDocument]]:
    """Read all documents, or a sample of them, in batches of a few megabytes."""
    sample = [{"$sample": {"size": limit}}]
    found = collection.aggregate(sample, allowDiskUse=True) if limit else collection.find({})
    batch: list[RawBSONDocument] = []
    seen, size = set[bytes](), 0
    for document in found:
        # MongoDB may return a document of a sample twice.
        if limit:
            if (key := identity(document)) in seen:
                continue
            seen.add(key)
        batch.append(document)
        size += len(document.raw)
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
