"""Listeners that see each command of a migration before it is sent, and can refuse it.

pymongo's own listeners are set when a client is made, and cannot refuse a command. So the methods that
call them are replaced as long as one of ours listens.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from pymongo.monitoring import _EventListeners

from .commands import Command
from .patches import Patches, Replacement, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .server import DocumentView

_T = TypeVar("_T")


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
    with PATCHES:
        token = _own_listener.set(listener)
        try:
            yield
        finally:
            _own_listener.reset(token)


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
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


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


def _key(request_id: int) -> tuple[int, int]:
    return threading.get_ident(), request_id


def _enabled(original: property) -> property:
    return property(lambda own: bool(_listeners()) or original.__get__(own))


def _start(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
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
            _sent[_key(request_id)] = sent
        original(own, command, database, request_id, *rest, **named)

    return start


def _success(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def success(
        own: object,
        duration: object,
        reply: DocumentView,
        name: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        original(own, duration, reply, name, request_id, *rest, **named)
        if sent := _sent.pop(_key(request_id), None):
            for listener in _listeners():
                listener.answered(sent, reply)

    return success


def _failure(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def failure(
        own: object,
        duration: object,
        failed: object,
        name: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        _sent.pop(_key(request_id), None)
        original(own, duration, failed, name, request_id, *rest, **named)

    return failure


PATCHES = Patches(
    Replacement(_EventListeners, "enabled_for_commands", _enabled),
    Replacement(_EventListeners, "publish_command_start", _start),
    Replacement(_EventListeners, "publish_command_success", _success),
    Replacement(_EventListeners, "publish_command_failure", _failure),
)


def check_listener_support() -> None:
    """Raise UnsupportedDriverError if this pymongo lacks a name that listening needs."""
    require(PATCHES.names, "commands cannot be checked before they are sent")
