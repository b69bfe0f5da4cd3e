"""What a run is given: its options, its observer, and the context of its migrations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec

from flask import Flask

from flask_migrate_mongo.model.errors import DefinitionError, capture
from flask_migrate_mongo.model.reports import (
    DRY_RUN_SECONDS,
    SAMPLES,
    Backfilled,
    Outcome,
    RunProgress,
    RunReport,
)
from flask_migrate_mongo.model.values import LockState, Plan, Progress, Step

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.definitions import Definitions, Keys
    from flask_migrate_mongo.driver.server import DocumentView


_P = ParamSpec("_P")

_log = logging.getLogger("flask_migrate_mongo.options")


@dataclass(frozen=True, slots=True)
class Context:
    """What `up()` and `down()` get as `ctx`.

    `ensure_lease()` asks the server, and raises LeaseLostError if this run no longer holds the lock: long
    loops of non-transactional migrations call it before each batch of writes. `backfill()` is such a loop
    that resumes where it was interrupted. `session` is None in a non-transactional migration. With
    `rehearsal`, all writes are removed afterwards: skip what cannot be rolled back, such as a mail.

    The methods define indexes and validators. Each can be repeated: after an interruption it does what is left
    to do. They raise DefinitionError, and in a transactional migration they are refused.
    """

    app: Flask
    log: logging.Logger
    ensure_lease: Callable[[], None]
    backfill: Callable[..., Backfilled]
    session: ClientSession | None = None
    rehearsal: bool = False
    definitions: Definitions | None = None

    def create_index(
        self,
        collection: str,
        keys: Keys,
        *,
        commit_quorum: int | str | None = None,
        **options: object,
    ) -> str:
        """Build an index, wait until it is built, and return its name.

        `options` are pymongo's: `name`, `unique`, `partialFilterExpression`, ... If this run is stopped or crashes, the
        server continues, and the next `up` waits for the same build. An index that exists under another name is
        left as it is, and its name is returned.
        """
        return self._defining.create_index(collection, keys, commit_quorum, options)

    def drop_index(self, collection: str, index: str | Keys) -> None:
        """Drop an index, by its name or its keys, if it is there."""
        self._defining.drop_index(collection, index)

    def make_unique(self, collection: str, name: str) -> None:
        """Convert an index to a unique one without building it again, on MongoDB 6.0 and later.

        If documents have the same key, the error names them, and the server accepts no new ones from then on.
        """
        self._defining.make_unique(collection, name)

    def validate(
        self,
        collection: str,
        validator: DocumentView,
        *,
        level: str = "strict",
        action: str = "error",
        replace: bool = False,
    ) -> None:
        """Set the validator of a collection, a query such as `{"$jsonSchema": …}`.

        With "strict" and "error" all documents have to match it first: the error names those that do not. Another
        validator is replaced only with `replace`, because the server keeps none of its rules.
        """
        self._defining.validate(collection, validator, level=level, action=action, replace=replace)

    def create_search_index(
        self,
        collection: str,
        definition: DocumentView,
        *,
        name: str = "default",
        kind: str = "search",
        wait: float = 300,
        replace: bool = False,
    ) -> None:
        """Create a search index, or with `kind="vectorSearch"` a vector index, and wait until queries can use it.

        Waits at most `wait` seconds; the build continues then. An index of that name gets another definition only with
        `replace`.
        """
        self._defining.create_search_index(
            collection, definition, name=name, kind=kind, wait=wait, replace=replace
        )

    def drop_search_index(
        self, collection: str, name: str = "default", *, wait: float = 300
    ) -> None:
        """Drop a search index if it is there, and wait at most `wait` seconds until it is gone."""
        self._defining.drop_search_index(collection, name, wait=wait)

    @property
    def _defining(self) -> Definitions:
        if self.definitions is None:
            msg = (
                "MongoDB builds no index and changes no validator in a transaction, and `verify()` only looks. Define "
                "it in `up()` or `down()` of a migration without `transactional = True`."
            )
            raise DefinitionError(msg)
        return self.definitions


class Observer:
    """Observes a run while it happens; an interface overrides what it wants to show."""

    def waiting(self, lock: LockState, seconds: float) -> None:
        """Observe who holds the lock that the run waits for, at most so many seconds; again when another one holds it."""

    def planned(self, plan: Plan) -> None:
        """Observe the plan that was made under the lease, before its first step starts."""

    def started(self, step: Step) -> None:
        """Observe a step whose function is about to be called."""

    def progressed(self, step: Step, progress: Progress) -> None:
        """Observe a committed batch of the step's backfill."""

    def ended(self, outcome: Outcome) -> None:
        """Observe a step that ended, whether its outcome was recorded or not."""

    def finished(self, report: RunReport) -> None:
        """Observe the end of a run, after its lock was released."""

    def unlocked(self, lock: LockState) -> None:
        """Observe that the lock of another process was released by force."""


class ProgressCallback(Observer):
    """Calls a function whenever the run proceeds; what it raises is logged."""

    def __init__(self, receive: Callable[[RunProgress], object]) -> None:
        self._receive = receive
        self._done = self._total = 0

    def planned(self, plan: Plan) -> None:
        """Note how many steps there are."""
        self._total = len(plan.steps)

    def started(self, step: Step) -> None:
        """Report that the step runs."""
        self._report(RunProgress(step, self._done, self._total))

    def progressed(self, step: Step, progress: Progress) -> None:
        """Report how far the step's backfill is."""
        self._report(RunProgress(step, self._done, self._total, backfill=progress))

    def ended(self, outcome: Outcome) -> None:
        """Report the outcome."""
        self._done += 1
        self._report(RunProgress(outcome.step, self._done, self._total, outcome=outcome))

    def _report(self, progress: RunProgress) -> None:
        try:
            self._receive(progress)
        except Exception:  # noqa: BLE001  (whatever the function raises)
            _log.exception("The function that receives the progress failed. The run continues.")


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is done; `wait` is in seconds, None means the setting.

    `run_id` is given if the run was announced under that id before it began. A dry run lasts at most
    `dry_run_limit` seconds, and shows so many `samples` of each step's documents.
    """

    wait: float | None = None
    run_id: str | None = None
    continue_on_error: bool = False
    dry_run_limit: float = DRY_RUN_SECONDS
    samples: int = SAMPLES
    observer: Observer = field(default_factory=Observer)


DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Observers(Observer):
    """Several observers of one run; what one of them raises does not keep anything from the others."""

    each: tuple[Observer, ...]

    def waiting(self, lock: LockState, seconds: float) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.waiting, lock, seconds)

    def planned(self, plan: Plan) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.planned, plan)

    def started(self, step: Step) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.started, step)

    def progressed(self, step: Step, progress: Progress) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.progressed, step, progress)

    def ended(self, outcome: Outcome) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.ended, outcome)

    def finished(self, report: RunReport) -> None:
        """Pass it on."""
        for observer in self.each:
            notify(observer.finished, report)


def unobserved(_run_id: str) -> Observer:
    """Make the observer of a run that nobody observes."""
    return Observer()


def notify(receive: Callable[_P, None], *what: _P.args, **named: _P.kwargs) -> None:
    """Notify an observer; what it raises is logged."""
    # An interface that cannot show it, for instance because a pipe is closed, must not end the run.
    try:
        receive(*what, **named)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (whatever an observer raises)
        _log.debug("The observer failed\n%s", capture(exc).traceback)
