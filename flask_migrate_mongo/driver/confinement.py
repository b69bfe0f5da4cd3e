"""Keeps a migration's code inside its transaction, and detects failures that end that transaction.

pymongo's `ClientSession.bind()` puts every operation of the current context into the session. Three
ways out remain, and are closed here while a step runs, for the code of that step alone: write concerns
that pymongo still sends, sessions that the migration opens, and threads, which have a context of their
own. pymongo has no public name for this, so `check_confinement_support` runs before any step.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import pymongo
from pymongo.client_session import ClientSession
from pymongo.common import BaseObject
from pymongo.errors import PyMongoError

from flask_migrate_mongo.model.errors import (
    EscapesTransactionError,
    TransactionAbortedError,
    message_of,
)

from .patches import Patches, Replacement, assigned, require
from .server import code_of

_T = TypeVar("_T")
_MaybeSession = ClientSession | None

NO_SUCH_TRANSACTION = 251

_RESERVED = ("start_transaction", "commit_transaction", "abort_transaction", "end_session")


@dataclass(slots=True)
class Confinement:
    """A session with the transaction that a migration's code runs in, in one thread, and how that code ended.

    `raised` is what it raised. `failure` is the first failed operation, after which nothing is committed;
    `escape` is the first attempt to leave the transaction. Both are kept, since the migration may catch the errors.
    """

    session: ClientSession
    thread: int = field(default_factory=threading.get_ident)
    raised: BaseException | None = None
    failure: PyMongoError | None = None
    escape: EscapesTransactionError | None = None

    @property
    def is_late(self) -> bool:
        """Whether what was raised only says that the transaction had ended before."""
        ended = code_of(self.raised) == NO_SUCH_TRANSACTION
        return ended and self.failure is not None and code_of(self.failure) != NO_SUCH_TRANSACTION

    @property
    def error(self) -> BaseException | None:
        """The error that the migration fails with.

        TransactionAbortedError if it continued after an error, because most errors end the transaction.
        """
        if self.raised is not None and not self.is_late:
            return self.raised
        if self.escape is not None or self.failure is None:
            return self.escape
        error = TransactionAbortedError(
            f"The migration continued after an error that it caught: {message_of(self.failure)}. On the "
            "server most errors end the transaction, so nothing of this step is kept.",
            "Check beforehand instead of catching (count, find_one, upsert), or delete `transactional = True`.",
        )
        error.__cause__ = self.failure
        return error

    def refuse(self, message: str, remedy: str = "") -> EscapesTransactionError:
        """Make the error for an attempt to leave the transaction, and keep the first one."""
        error = EscapesTransactionError(message, remedy)
        self.escape = self.escape or error
        return error


_confinement: ContextVar[Confinement | None] = ContextVar("confinement", default=None)
"""The confinement of the code in this context, or of the code that started this thread or submitted its task."""


@contextlib.contextmanager
def confined(session: ClientSession) -> Iterator[Confinement]:
    """Bind the session to the current context, and keep the code of the block inside it."""
    confinement = Confinement(session)
    with PATCHES, session.bind(end_session=False), assigned(_confinement, confinement):
        yield confinement


# --- replacements of methods of pymongo and threading


def _check_client(client: object) -> None:
    confinement = _confinement.get()
    if confinement is None:
        return
    if threading.get_ident() != confinement.thread:
        raise confinement.refuse("A thread that the migration started used the database.")
    if client is not confinement.session.client:
        raise confinement.refuse(
            "The migration used another client than that of its `db`. With MIGRATE_MONGO_URI, the "
            "application's own client is another one."
        )


def _check_session(session: _MaybeSession) -> None:
    """Refuse an operation in another session, passed to it or bound over ours."""
    confinement = _confinement.get()
    if confinement is not None and session is not confinement.session:
        raise confinement.refuse("The migration used a session of its own.")


def _ensure_session(original: Callable[..., _MaybeSession]) -> Callable[..., _MaybeSession]:
    def ensure(client: object, session: _MaybeSession = None) -> _MaybeSession:
        _check_client(client)
        found = original(client, session)
        _check_session(found)
        return found

    return ensure


def _tmp_session(
    original: Callable[..., contextlib.AbstractContextManager[_MaybeSession]],
) -> Callable[..., contextlib.AbstractContextManager[_MaybeSession]]:
    @contextlib.contextmanager
    def tmp(client: object, session: _MaybeSession, *rest: object) -> Iterator[_MaybeSession]:
        _check_client(client)
        try:
            with original(client, session, *rest) as found:
                _check_session(found)
                yield found
        except PyMongoError as exc:
            if confinement := _confinement.get():
                confinement.failure = confinement.failure or exc
            raise

    return tmp


def _concern_for(original: Callable[..., _T]) -> Callable[..., _T]:
    """Find the concern as for an explicit session: the transaction's own."""

    def concern(owner: object, session: _MaybeSession) -> _T:
        confinement = _confinement.get()
        return original(owner, session or (confinement.session if confinement else None))

    return concern


def _reserved(original: Callable[..., _T]) -> Callable[..., _T]:
    """Refuse a method that begins or ends the transaction of the session."""

    def call(session: ClientSession, *arguments: object, **options: object) -> _T:
        confinement = _confinement.get()
        if confinement is not None and session is confinement.session:
            raise confinement.refuse(
                "The migration tried to begin or end the transaction itself.",
                "The transaction begins before up() or down() and is committed after it, together with the "
                "record. Remove this call.",
            )
        return original(session, *arguments, **options)

    return call


def _start_thread(original: Callable[[threading.Thread], None]) -> Callable[..., None]:
    def start(thread: threading.Thread) -> None:
        confinement = _confinement.get()
        # The driver's own threads do no work of the migration.
        if confinement is not None and not thread.name.startswith("pymongo_"):
            vars(thread)["run"] = functools.partial(_run_marked, confinement, thread.run)
        original(thread)

    return start


def _submit(original: Callable[..., Future[_T]]) -> Callable[..., Future[_T]]:
    def submit(
        pool: ThreadPoolExecutor, task: Callable[..., _T], /, *args: object, **kwargs: object
    ) -> Future[_T]:
        confinement = _confinement.get()
        if confinement is None:
            return original(pool, task, *args, **kwargs)
        marked = functools.partial(_run_marked, confinement, task)
        # In an empty context: a thread that the pool starts for the task also serves others.
        return Context().run(original, pool, marked, *args, **kwargs)

    return submit


def _run_marked(
    confinement: Confinement, run: Callable[..., _T], /, *args: object, **kwargs: object
) -> _T:
    """Run code in another thread, marked as the confined code's, whose block may have ended."""
    with PATCHES, assigned(_confinement, confinement):
        return run(*args, **kwargs)


_plain_session: ContextVar[ClientSession | None] = ContextVar("plain_session", default=None)
"""The session that is bound to this context, and does not confine its code."""


@contextlib.contextmanager
def bound(session: ClientSession | None) -> Iterator[None]:
    """Run the operations of the block in a session without a transaction, so that it can be killed.

    Operations of another client, in another session or in another thread are not affected.
    """
    if session is None or not all(hasattr(*name) for name in PLAIN_PATCHES.names):
        yield
        return
    with PLAIN_PATCHES, assigned(_plain_session, session), session.bind(end_session=False):
        yield


def _get_bound_session(original: Callable[..., _MaybeSession]) -> Callable[..., _MaybeSession]:
    def find(client: object) -> _MaybeSession:
        plain = _plain_session.get()
        # The driver refuses another client inside `bind()`.
        return None if plain is not None and client is not plain.client else original(client)

    return find


PLAIN_PATCHES = Patches(Replacement(pymongo.MongoClient, "_get_bound_session", _get_bound_session))

PATCHES = Patches(
    Replacement(pymongo.MongoClient, "_ensure_session", _ensure_session),
    Replacement(pymongo.MongoClient, "_tmp_session", _tmp_session),
    Replacement(pymongo.AsyncMongoClient, "_ensure_session", _ensure_session),
    Replacement(BaseObject, "_write_concern_for", _concern_for),
    Replacement(BaseObject, "_read_preference_for", _concern_for),
    *(Replacement(ClientSession, name, _reserved) for name in _RESERVED),
    Replacement(threading.Thread, "start", _start_thread),
    Replacement(ThreadPoolExecutor, "submit", _submit),
)


def check_confinement_support() -> None:
    """Raise UnsupportedDriverError if this pymongo lacks a name that confinement needs."""
    require(
        [*PATCHES.names, (ClientSession, "bind")],
        "transactional migrations cannot be confined to their transaction",
    )
