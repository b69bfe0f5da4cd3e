"""What a run is given: its options, its observer, and the context of its migrations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec

from flask import Flask

from flask_migrate_mongo.model.reports import (
    DRY_RUN_SECONDS,
    SAMPLES,
    Backfilled,
    Outcome,
)
from flask_migrate_mongo.model.values import Plan, Progress, Step

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession


_P = ParamSpec("_P")

_log = logging.getLogger("flask_migrate_mongo.options")


@dataclass(frozen=True, slots=True)
class Context:
    """What `up()` and `down()` get as `ctx`.

    `ensure_lease()` asks the server, and raises LeaseLostError if this run no longer holds the lock: long
    loops of non-transactional migrations call it before each batch of writes. `backfill()` is such a loop
    that resumes where it was interrupted. `session` is None in a non-transactional migration. With
    `rehearsal`, all writes are removed afterwards: skip what cannot be rolled back, such as a mail.
    """

    app: Flask
    log: logging.Logger
    ensure_lease: Callable[[], None]
    backfill: Callable[..., Backfilled]
    session: ClientSession | None = None
    rehearsal: bool = False


class Observer:
    """Observes a run while it happens; an interface overrides what it wants to show."""

    def planned(self, plan: Plan) -> None:
        """Observe the plan that was made under the lease, before its first step starts."""

    def started(self, step: Step) -> None:
        """Observe a step whose function is about to be called."""

    def progressed(self, step: Step, progress: Progress) -> None:
        """Observe a committed batch of the step's backfill."""

    def ended(self, outcome: Outcome) -> None:
        """Observe a step that ended, whether its outcome was recorded or not."""


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


def notify(receive: Callable[_P, None], *what: _P.args, **named: _P.kwargs) -> None:
    """Notify an observer; what it raises is logged."""
    # An interface that cannot show it, for instance because a pipe is closed, must not end the run.
    try:
        receive(*what, **named)
    except (Exception, SystemExit):  # noqa: BLE001  (whatever an observer raises)
        _log.debug("The observer failed", exc_info=True)
