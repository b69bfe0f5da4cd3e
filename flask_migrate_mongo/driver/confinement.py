"""Keeps a migration's code inside its transaction, and notices what has ended that transaction.

pymongo's `ClientSession.bind()` puts every operation of the current context into the session. What
it leaves open is closed here, for the length of a step and for code of that step alone: write
concerns that it still sends, sessions of the migration's own, and threads, whose context is
another. Nothing public of pymongo does this; a name that is gone is refused before anything runs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.client_session import ClientSession
from pymongo.common import BaseObject
from pymongo.errors import PyMongoError

from flask_migrate_mongo.model.errors import EscapesTransactionError

from .patches import Patches, Replacement, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

_PROMISED = (
    "It would not be part of the transaction, and would stay when that is rolled back. Leave it "
    "out, or delete `transactional = True` if this migration needs no transaction."
)
_OURS_TO_CALL = (
    "start_transaction",
    "commit_transaction",
    "abort_transaction",
    "end_session",
)


class Confinement:
    """A session whose transaction a migration's code runs in."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self.failure: PyMongoError | None = None
        self.escape: EscapesTransactionError | None = None

    def note(self, failure: PyMongoError) -> None:
        """Remember the first failure: whatever it was, the transaction did not survive it."""
        self.failure = self.failure or failure


_inside: ContextVar[Confinement | None] = ContextVar("inside", default=None)
_astray: ContextVar[Confinement | None] = ContextVar("astray", default=None)
_submitting: ContextVar[bool] = ContextVar("submitting", default=False)


@contextlib.contextmanager
def confined(session: ClientSession) -> Iterator[Confinement]:
    """Bind the session to the current context and keep what runs in the block inside it."""
    confinement = Confinement(session)
    with PATCHES, _reserved(confinement), session.bind(end_session=False):
        token = _inside.set(confinement)
        try:
            yield confinement
        finally:
            _inside.reset(token)


@contextlib.contextmanager
def _reserved(confinement: Confinement) -> Iterator[None]:
    """Leave the beginning and the end of the session's transaction to us."""
    own = vars(confinement.session)
    own.update(dict.fromkeys(_OURS_TO_CALL, functools.partial(_not_yours, confinement)))
    try:
        yield
    finally:
        for name in _OURS_TO_CALL:
            del own[name]


def _not_yours(confinement: Confinement, *_: object, **__: object) -> None:
    error = EscapesTransactionError(
        "The migration tried to begin or end the transaction itself. It is begun before up() and "
        "committed together with the record after it: leave both out."
    )
    confinement.escape = confinement.escape or error
    raise error


# --- what is put in the place of pymongo's, and of threading's


def _check(client: object) -> None:
    if stray := _astray.get():
        raise _escaped(stray, "A thread that the migration started used the database.")
    confinement = _inside.get()
    if confinement is not None and client is not confinement.session.client:
        raise _escaped(confinement, "The migration used another client than the application's.")


def _check_found(session: ClientSession | None) -> None:
    """Refuse an operation that would run in another session, given to it or bound over ours."""
    confinement = _inside.get()
    if confinement is not None and session is not confinement.session:
        raise _escaped(confinement, "The migration used a session of its own.")


def _escaped(confinement: Confinement, what: str) -> EscapesTransactionError:
    # Kept as well as raised: a thread's errors reach nobody, and a migration may catch its own.
    error = EscapesTransactionError(f"{what} {_PROMISED}")
    confinement.escape = confinement.escape or error
    return error


def _ensure_session(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def ensure(client: object, session: ClientSession | None = None) -> Any:  # noqa: ANN401
        _check(client)
        found = original(client, session)
        _check_found(found)
        return found

    return ensure


def _tmp_session(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    @contextlib.contextmanager
    def tmp(client: object, session: ClientSession | None, *rest: object) -> Iterator[Any]:
        _check(client)
        try:
            with original(client, session, *rest) as found:
                _check_found(found)
                yield found
        except PyMongoError as exc:
            if confinement := _inside.get():
                confinement.note(exc)
            raise

    return tmp


def _concern_for(original: Callable[..., Any]) -> Callable[..., Any]:
    """Find the concern as for an explicit session, which is to say: the transaction's own."""

    @functools.wraps(original)
    def concern(owner: object, session: ClientSession | None) -> Any:  # noqa: ANN401
        confinement = _inside.get()
        return original(owner, session or (confinement.session if confinement else None))

    return concern


def _start_thread(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def start(thread: threading.Thread) -> None:
        # The driver's own threads do no work of the migration's, and a pool's are marked by task.
        confinement = _inside.get() or _astray.get()
        if confinement is None or _submitting.get() or thread.name.startswith("pymongo_"):
            original(thread)
            return
        PATCHES.__enter__()
        run = functools.partial(_run_astray, confinement, thread.run, finally_=PATCHES.release)
        vars(thread)["run"] = run
        try:
            original(thread)
        except BaseException:
            PATCHES.release()
            raise

    return start


def _submit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(
        pool: ThreadPoolExecutor,
        task: Callable[..., Any],
        /,
        *args: object,
        **kwargs: object,
    ) -> Future[Any]:
        confinement = _inside.get() or _astray.get()
        if confinement is None:
            return original(pool, task, *args, **kwargs)  # type: ignore[no-any-return]
        token = _submitting.set(True)
        try:
            future: Future[Any] = original(pool, _run_astray, confinement, task, *args, **kwargs)
        finally:
            _submitting.reset(token)
        PATCHES.__enter__()
        future.add_done_callback(lambda _: PATCHES.release())
        return future

    return submit


def _run_astray(
    confinement: Confinement,
    run: Callable[..., Any],
    *args: Any,  # noqa: ANN401
    finally_: Callable[[], None] = lambda: None,
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    token = _astray.set(confinement)
    try:
        return run(*args, **kwargs)
    finally:
        _astray.reset(token)
        finally_()


PATCHES = Patches(
    Replacement(pymongo.MongoClient, "_ensure_session", _ensure_session),
    Replacement(pymongo.MongoClient, "_tmp_session", _tmp_session),
    Replacement(pymongo.AsyncMongoClient, "_ensure_session", _ensure_session),
    Replacement(BaseObject, "_write_concern_for", _concern_for),
    Replacement(BaseObject, "_read_preference_for", _concern_for),
    Replacement(threading.Thread, "start", _start_thread),
    Replacement(ThreadPoolExecutor, "submit", _submit),
)


def check_driver() -> None:
    """Raise UnsupportedDriverError when this pymongo lacks a name that confinement needs."""
    bound = [(ClientSession, name) for name in ("bind", *_OURS_TO_CALL)]
    require(
        [*PATCHES.names, *bound],
        "transactional migrations cannot be kept inside their transaction",
    )
