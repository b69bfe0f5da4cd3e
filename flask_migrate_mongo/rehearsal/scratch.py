"""The scratch database of a rehearsal: made, marked as ours, filled with samples, and dropped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.model.errors import DatabaseError, ScratchTakenError, SettingError, redact

from .comparison import RAW, identity, indexes, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from bson.raw_bson import RawBSONDocument
    from pymongo.collection import Collection
    from pymongo.database import Database

    from flask_migrate_mongo.model.values import Actor

MARKER = "_rehearsal"
"""The collection that says whose a scratch database is; it is there before anything else."""

LEFTOVER_AFTER = timedelta(hours=1)
NAME_LIMIT = 63
"""Bytes that MongoDB takes as the name of a database."""

NEVER = 2**31 - 1
"""Seconds after which the documents of a TTL index expire here: none may go between two looks."""

_SEPARATOR = "_rehearsal_"
_ID_LENGTH = 8
_MARKER_ID = "marker"
_BATCH_DOCUMENTS = 1_000
_BATCH_BYTES = 16_000_000

_log = logging.getLogger("flask_migrate_mongo.rehearsal")


@dataclass(frozen=True, slots=True)
class Copied:
    """A collection in the scratch database: how many documents it got, of how many there are."""

    name: str
    documents: int
    of: int


def name_for(database: str, run_id: str) -> str:
    """Return a name for a scratch database, which begins with the name of the real one."""
    return f"{prefix_for(database)}{run_id[:_ID_LENGTH]}"


def prefix_for(database: str) -> str:
    """Return what the names of a database's scratch databases begin with."""
    room = NAME_LIMIT - len(_SEPARATOR) - _ID_LENGTH
    # "ignore" drops the half of a character that was cut in two.
    return f"{database.encode()[:room].decode(errors='ignore')}{_SEPARATOR}"


def like(database: Database[Any], name: str) -> Database[Any]:
    """Return another database of the client, that reads and writes as this one does."""
    return database.client.get_database(
        name,
        codec_options=database.codec_options,
        read_preference=database.read_preference,
        write_concern=database.write_concern,
        read_concern=database.read_concern,
    )


class Scratch:
    """The scratch database of one rehearsal, and the real one whose samples it gets.

    `skip` names the collections of the real one that are never copied. `check` raises to stop what
    takes long.
    """

    def __init__(
        self, real: Server, name: str, actor: Actor, skip: frozenset[str], check: Callable[[], None]
    ) -> None:
        self.database = like(real.database, name)
        self._real = real
        self._actor = actor
        self._check = check
        with translated():
            self.available = {info["name"]: info for info in listed(real.database, skip)}

    def create(self) -> None:
        """Make the database by marking it. Raises ScratchTakenError when it is there already."""
        name = self.database.name
        if name == self._real.database.name:
            accepts = "another database than the application's"
            raise SettingError("MIGRATE_REHEARSAL_DATABASE", name, accepts)
        with translated():
            marker = _marker(self.database)
            taken = marker is not None or bool(self.database.list_collection_names())
        if taken:
            raise ScratchTakenError(name, marker)
        try:
            with translated():
                self.database[MARKER].insert_one(self._mark())
        except DatabaseError as exc:
            # Another rehearsal was faster.
            if isinstance(exc.__cause__, DuplicateKeyError):
                raise ScratchTakenError(name, _marker(self.database)) from exc
            raise

    def remark(self) -> None:
        """Put the mark back, should a migration have dropped it with everything else."""
        mark = self._mark()
        with translated():
            self.database[MARKER].update_one(
                {"_id": mark.pop("_id")}, {"$setOnInsert": mark}, upsert=True
            )

    def clear(self, sessions: Iterable[bytes]) -> None:
        """Take everything out, after ending these sessions."""
        with translated():
            self._empty(sessions)
        self.remark()

    def drop(self, sessions: Iterable[bytes]) -> str | None:
        """Drop the database, after ending these sessions, and return why it could not be dropped."""
        try:
            self._empty(sessions)
        except PyMongoError as exc:
            _log.warning("The scratch database was not dropped: %s", redact(str(exc)))
            return (
                f"The scratch database {self.database.name} could not be dropped: {redact(str(exc))} "
                "The next rehearsal removes it when it is an hour old."
            )
        return None

    def _empty(self, sessions: Iterable[bytes]) -> None:
        # A drop would wait for their transactions.
        for session in sessions:
            self._real.kill_session(session)
        self.database.client.drop_database(self.database)

    def copy(self, name: str, limit: int | None) -> Copied:
        """Copy a collection with its options and indexes, and a sample of its documents.

        Without a limit, all of them.
        """
        info = self.available[name]
        with translated():
            self._create(info)
            if info["type"] == "view":
                return Copied(name, 0, 0)
            count = self._real.database[name].estimated_document_count()
            copied = self._fill(name, limit if limit is None or limit < count else None)
            self._index(info)
        return Copied(name, copied, max(count, copied))

    def _create(self, info: Mapping[str, Any]) -> None:
        left_out = {"expireAfterSeconds", "autoIndexId", "uuid"}
        options = {k: v for k, v in info.get("options", {}).items() if k not in left_out}
        self.database.command({"create": info["name"], **options})

    def _fill(self, name: str, limit: int | None) -> int:
        target = _fast(self.database, name)
        copied = 0
        for batch in _batches(_sample(self._real.database, name, limit)):
            self._check()
            # What a validator would refuse is there all the same.
            target.insert_many(batch, ordered=False, bypass_document_validation=True)
            copied += len(batch)
        return copied

    def _index(self, info: Mapping[str, Any]) -> None:
        specs = [
            {**index, **({"expireAfterSeconds": NEVER} if "expireAfterSeconds" in index else {})}
            for name, index in indexes(self._real.database, info).items()
            if name != "_id_" and not index.get("clustered")
        ]
        self._check()
        if specs:
            self.database.command({"createIndexes": info["name"], "indexes": specs})

    def _mark(self) -> dict[str, Any]:
        return {
            "_id": _MARKER_ID,
            "of": self._real.database.name,
            "createdAt": self._real.now(),
            "runId": self._actor.run_id,
            "host": self._actor.host,
            "pid": self._actor.pid,
        }


def remove_leftovers(real: Server, also: str | None) -> tuple[str, ...]:
    """Drop what killed rehearsals of this database left over an hour ago, and return their names.

    Only what bears our mark, as of this very database; `also` is the name that a setting gives.
    """
    now, client = real.now(), real.database.client
    prefix = prefix_for(real.database.name)
    with translated():
        names = [n for n in client.list_database_names() if n.startswith(prefix) or n == also]
        old = [n for n in names if _is_leftover(like(real.database, n), real.database.name, now)]
        for name in old:
            client.drop_database(name)
    return tuple(old)


def _is_leftover(database: Database[Any], of: str, now: datetime) -> bool:
    marker = _marker(database)
    return marker is not None and marker["of"] == of and now - marker["createdAt"] > LEFTOVER_AFTER


def _marker(database: Database[Any]) -> Mapping[str, Any] | None:
    found = Server(database).collection(MARKER).find_one({"_id": _MARKER_ID})
    return found if found and {"of", "createdAt"} <= found.keys() else None


def _fast(database: Database[Any], name: str) -> Collection[RawBSONDocument]:
    return database.get_collection(name, codec_options=RAW, write_concern=WriteConcern(1))


def _sample(database: Database[Any], name: str, limit: int | None) -> Iterator[RawBSONDocument]:
    raw = database.get_collection(name, codec_options=RAW)
    if limit is None:
        yield from raw.find({})
        return
    seen: set[bytes] = set()
    for document in raw.aggregate([{"$sample": {"size": limit}}], allowDiskUse=True):
        # MongoDB may give a document twice.
        if (key := identity(document)) not in seen:
            seen.add(key)
            yield document


def _batches(documents: Iterable[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == _BATCH_DOCUMENTS or size + len(document.raw) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document.raw)
    if batch:
        yield batch
