"""The commands of migrations: seen, and refused if need be, before they are sent.

pymongo's own listeners are told when a client is made, and cannot refuse; so this takes the place
of the one method that tells them, for as long as somebody listens.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pymongo.monitoring import _EventListeners

from .commands import Command
from .patches import Patches, Replacement, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_T = TypeVar("_T")


class Tap(Protocol):
    """Who listens."""

    def sending(self, command: Command) -> None:
        """Hear of a command before it is sent; what is raised here reaches the caller instead."""

    def answered(self, command: Command, reply: Mapping[str, Any]) -> None:
        """Hear of a reply that was no error, though single writes may have failed."""


_listening: ContextVar[Tap | None] = ContextVar("listening", default=None)
_deaf: ContextVar[bool] = ContextVar("deaf", default=False)
_everywhere: list[Tap] = []


@contextlib.contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """Tell the tap of the commands that are sent in the current context."""
    with PATCHES:
        token = _listening.set(tap)
        try:
            yield
        finally:
            _listening.reset(token)


@contextlib.contextmanager
def tapped_everywhere(tap: Tap) -> Iterator[None]:
    """Tell the tap of the commands of the whole process, of all its threads and clients."""
    with PATCHES:
        _everywhere.append(tap)
        try:
            yield
        finally:
            _everywhere.remove(tap)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Keep the commands of the block from every tap: they are ours, not the migration's."""
    token = _deaf.set(True)
    try:
        yield
    finally:
        _deaf.reset(token)


def outside(action: Callable[[], _T]) -> _T:
    """Call the action outside of the bound transaction, unheard."""

    def alone() -> _T:
        with unheard():
            return action()

    return Context().run(alone)


def _taps() -> list[Tap]:
    if _deaf.get():
        return []
    own = _listening.get()
    return [*_everywhere, *([own] if own else [])]


# --- what is put in the place of pymongo's

_sent: dict[tuple[int, int], Command] = {}


def _key(request_id: int) -> tuple[int, int]:
    return threading.get_ident(), request_id


def _enabled(original: property) -> property:
    def enabled(listeners: Any) -> bool:  # noqa: ANN401  (pymongo's private class)
        return bool(_taps()) or original.fget(listeners)  # type: ignore[misc]

    return property(enabled)


def _start(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start(
        listeners: object,
        command: Mapping[str, Any],
        database: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        if taps := _taps():
            sent = Command(database, command)
            for tap in taps:
                tap.sending(sent)
            _sent[_key(request_id)] = sent
        original(listeners, command, database, request_id, *rest, **named)

    return start


def _success(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def success(
        listeners: object,
        duration: object,
        reply: Mapping[str, Any],
        name: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        original(listeners, duration, reply, name, request_id, *rest, **named)
        if sent := _sent.pop(_key(request_id), None):
            for tap in _taps():
                tap.answered(sent, reply)

    return success


def _failure(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def failure(
        listeners: object,
        duration: object,
        failed: object,
        name: str,
        request_id: int,
        *rest: object,
        **named: object,
    ) -> None:
        _sent.pop(_key(request_id), None)
        original(listeners, duration, failed, name, request_id, *rest, **named)

    return failure


PATCHES = Patches(
    Replacement(_EventListeners, "enabled_for_commands", _enabled),
    Replacement(_EventListeners, "publish_command_start", _start),
    Replacement(_EventListeners, "publish_command_success", _success),
    Replacement(_EventListeners, "publish_command_failure", _failure),
)


def check_driver() -> None:
    """Raise UnsupportedDriverError when this pymongo lacks a name that listening needs."""
    require(PATCHES.names, "migrations cannot be rehearsed")
