"""Commands that the driver is about to send, answered by an `OperationFilter`.

`Connection.command` sends all commands but finds and bulk writes. It is replaced while a step runs, so that every handle
of the application is covered.
"""

from __future__ import annotations

import contextlib
import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.synchronous.pool import Connection

from flask_migrate_mongo.driver.commands import Command, without_listeners
from flask_migrate_mongo.driver.patches import Patches, Replacement

from . import showing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask_migrate_mongo.driver.server import Document

    from .operations import OperationFilter

    Send = Callable[..., Document]


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command, and how the driver is about to send it."""

    command: Command
    send: Send
    arguments: tuple[object, ...]
    options: Document

    def forward(self, *, inside: bool = True) -> Document:
        """Send the command as the migration gave it, in the transaction or outside of it."""
        options = self.options if inside else {**self.options, "session": None}
        return self.send(self.command.database, self.command.document, *self.arguments, **options)

    def ask(self, database: str, command: Document, *, inside: bool = False) -> Document:
        """Send a command of ours on the same connection."""
        session = self.options["session"] if inside else None
        how = {"session": session, "client": self.options["client"], "codec_options": showing.READ}
        with without_listeners():
            return self.send(database, command, **how)

    def results(self, command: Document, *, inside: bool = False) -> list[Document]:
        """Read the first batch of documents that a command of ours finds."""
        found = self.ask(self.command.database, {**command, "cursor": {}}, inside=inside)
        return list(found["cursor"]["firstBatch"])


_filter: ContextVar[OperationFilter | None] = ContextVar("filter", default=None)


@contextlib.contextmanager
def answered_by(operations: OperationFilter) -> Iterator[None]:
    """Let the filter answer the commands of its session that are sent in the current context."""
    with PATCHES:
        token = _filter.set(operations)
        try:
            yield
        finally:
            _filter.reset(token)


def _command(original: Send) -> Send:
    @functools.wraps(original)
    def command(
        connection: Connection,
        database: str,
        document: Document,
        *arguments: object,
        **options: object,
    ) -> Document:
        send, operations = functools.partial(original, connection), _filter.get()
        # Commands without the session are the driver's own: those of a new connection, for example.
        if operations is None or options.get("session") is not operations.session:
            return send(database, document, *arguments, **options)
        return operations.answer(
            CommandRequest(Command(database, document), send, arguments, options)
        )

    return command


PATCHES = Patches(Replacement(Connection, "command", _command))
