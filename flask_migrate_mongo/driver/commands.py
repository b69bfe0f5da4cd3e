"""Commands as they are sent, the collections that they name, and listeners that see and can refuse them.

pymongo's own listeners are set when a client is made, and cannot refuse a command. So the methods that
call them are replaced as long as one of ours listens.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from pymongo.monitoring import _EventListeners

from .patches import Patches, Replacement, assigned, require
from .server import DocumentView

_T = TypeVar("_T")

BY_FULL_NAME = frozenset({"bulkWrite", "renameCollection"})
"""Sent to `admin`, whichever databases they name."""

_NAMING = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll"}
"""The stages that read another collection, and the field that names it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it is sent to the server."""

    database: str
    document: DocumentView

    @property
    def name(self) -> str:
        """The operation."""
        return next(iter(self.document))

    @property
    def collection(self) -> str | None:
        """The collection that it names; None if it names none."""
        key = "collection" if self.name == "getMore" else self.name
        found = self.document.get(key)
        return found if isinstance(found, str) else None

    @property
    def namespace(self) -> str:
        """The database and the collection that it names."""
        return f"{self.database}.{self.collection}"

    @property
    def session_id(self) -> object:
        """The id of the session that it belongs to."""
        return (self.document.get("lsid") or {}).get("id")

    @property
    def pipeline(self) -> object:
        """The stages of an aggregation."""
        return self.document.get("pipeline")


def namespaces(command: Command) -> set[str]:
    """List the collections, each with its database, that a command reads or writes."""
    if command.name == "bulkWrite":
        return {str(info["ns"]) for info in command.document.get("nsInfo", ())}
    if command.name == "renameCollection":
        return {str(command.document["renameCollection"]), str(command.document.get("to"))}
    own = {command.namespace} if command.collection else set()
    read = read_by(command.pipeline, command.database)
    return own.union(read, written_by(command.pipeline, command.database))


def written_by(pipeline: object, database: str) -> Iterator[str]:
    """Yield the collections that a pipeline writes, which only its outermost stages can do."""
    for stage in pipeline if isinstance(pipeline, list | tuple) else ():
        if "$out" in stage:
            yield _full_name(stage["$out"], database)
        if "$merge" in stage:
            merge = stage["$merge"]
            yield _full_name(merge["into"] if isinstance(merge, Mapping) else merge, database)


def read_by(part: object, database: str) -> Iterator[str]:
    """Yield the other collections that the stages of a pipeline read, at any depth."""
    if isinstance(part, list | tuple):
        for each in part:
            yield from read_by(each, database)
    elif isinstance(part, Mapping):
        for name, value in part.items():
            if key := _NAMING.get(name):
                target = value.get(key) if isinstance(value, Mapping) else value
                if target is not None:
                    yield _full_name(target, database)
            yield from read_by(value, database)


def _full_name(target: object, database: str) -> str:
    if isinstance(target, Mapping):
        return f"{target.get('db', database)}.{target.get('coll')}"
    return f"{database}.{target}"


# --- listeners


class CommandListener(Protocol):
    """Sees commands and their replies."""

    def sending(self, command: Command) -> None:
        """See a command before it is sent; an error raised here goes to the caller instead."""

    def answered(self, command: Command, reply: DocumentView) -> None:
        """See a reply that is no error, though single writes may have failed."""


_own_listener: ContextVar[CommandListener | None] = ContextVar("own_listener", default=None)
_muted: ContextVar[bool] = ContextVar("muted", default=False)
_process_listeners: list[CommandListener] = []


@contextlib.contextmanager
def listening(listener: CommandListener) -> Iterator[None]:
    """Show the listener the commands of the current context."""
    with PATCHES, assigned(_own_listener, listener):
        yield


@contextlib.contextmanager
def listening_everywhere(listener: CommandListener) -> Iterator[None]:
    """Show the listener the commands of the whole process, of all its threads and clients."""
    with PATCHES:
        _process_listeners.append(listener)
        try:
            yield
        finally:
            _process_listeners.remove(listener)


@contextlib.contextmanager
def without_listeners() -> Iterator[None]:
    """Show the commands of the block to no listener: they are ours, not the migration's."""
    with assigned(_muted, value=True):
        yield


def outside_transaction(action: Callable[[], _T]) -> _T:
    """Call the action outside the bound transaction, and show its commands to no listener."""

    def call() -> _T:
        with without_listeners():
            return action()

    return Context().run(call)


def _listeners() -> list[CommandListener]:
    if _muted.get():
        return []
    own = _own_listener.get()
    return [*_process_listeners, *([own] if own else [])]


# --- replacements of pymongo's methods

_sent: dict[tuple[int, int], Command] = {}
"""The commands that wait for a reply, by their thread and the id of the request."""


def _enabled(original: property) -> property:
    return property(lambda own: bool(_listeners()) or original.__get__(own))


def _start(original: Callable[..., None]) -> Callable[..., None]:
    def start(
        own: object,
        command: DocumentView,
        database: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        if listeners := _listeners():
            sent = Command(database, command)
            for listener in listeners:
                listener.sending(sent)
            _sent[threading.get_ident(), request_id] = sent
        original(own, command, database, request_id, *rest, **named)

    return start


def _end(original: Callable[..., None], *, succeeded: bool) -> Callable[..., None]:
    def end(
        own: object,
        duration: object,
        reply: DocumentView,
        name: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        sent = _sent.pop((threading.get_ident(), request_id), None)
        original(own, duration, reply, name, request_id, *rest, **named)
        if sent and succeeded:
            for listener in _listeners():
                listener.answered(sent, reply)

    return end


PATCHES = Patches(
    Replacement(_EventListeners, "enabled_for_commands", _enabled),
    Replacement(_EventListeners, "publish_command_start", _start),
    Replacement(_EventListeners, "publish_command_success", partial(_end, succeeded=True)),
    Replacement(_EventListeners, "publish_command_failure", partial(_end, succeeded=False)),
)


def check_listener_support() -> None:
    """Raise UnsupportedDriverError if this pymongo lacks a name that listening needs."""
    require(PATCHES.names, "commands cannot be checked before they are sent")
