"""How a run is done, and who observes it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from flask_migrate_mongo.model.reports import DRY_RUN_SECONDS, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.reports import Outcome
    from flask_migrate_mongo.model.values import Plan, Progress, Step

_T = TypeVar("_T")

_log = logging.getLogger("flask_migrate_mongo.options")


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


def notify(receive: Callable[[_T], None], what: _T) -> None:
    """Notify an observer; what it raises is logged."""
    # An interface that cannot show it, for instance because a pipe is closed, must not end the run.
    try:
        receive(what)
    except (Exception, SystemExit):  # noqa: BLE001  (whatever an observer raises)
        _log.debug("The observer failed", exc_info=True)
