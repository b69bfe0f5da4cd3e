"""mongomock in place of a server, in the tests of applications. It is never imported here."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import pymongo

from .server import Document, Server, translated

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from .server import Update


def server_of(database: Database[Document]) -> Server:
    """Make the server of a database."""
    # By the type alone: on a client of mongomock every attribute exists.
    is_pymongo = isinstance(database.client, pymongo.MongoClient)
    return Server(database) if is_pymongo else MongomockServer(database)


class MongomockServer(Server):
    """mongomock, which has neither a clock nor sessions, commands or options of collections."""

    sends_commands = False
    allows_workers = False

    def now(self) -> datetime:
        """Read the time of this process."""
        return datetime.now(timezone.utc)

    @cached_property
    def transactions_lacking(self) -> str | None:
        """Why there are no transactions."""
        return "mongomock has no sessions"

    def handle(self, *, transactional: bool) -> Database[Document]:  # noqa: ARG002
        """Give the application's own handle."""
        return self.database

    @contextlib.contextmanager
    def spare(self) -> Iterator[Server]:
        """Give this server, which has no connections."""
        yield self

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
