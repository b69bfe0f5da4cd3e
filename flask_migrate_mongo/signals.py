"""Signals that every run sends, whichever interface started it.

The sender is the application, as for Flask's own signals. A receiver is called in the application's context, in the
process of the run, which waits for it. What a receiver raises is logged, and changes nothing else. Dry runs and
rehearsals send none, nor does a run that has nothing to do, or is refused.
"""

from __future__ import annotations

import logging

from blinker import Namespace, Signal
from flask import Flask

from .engine.options import Observer
from .model.reports import Outcome, RunReport
from .model.values import LockState, Plan, Step

__all__ = [
    "lock_forced",
    "migration_failed",
    "migration_finished",
    "migration_started",
    "run_finished",
    "run_started",
]

_signals = Namespace()

run_started = _signals.signal("run-started")
"""A run holds the lock, and its first step is about to start: `run_id`, `plan`."""

migration_started = _signals.signal("migration-started")
"""A migration is recorded as running, and about to be called: `run_id`, `step`."""

migration_finished = _signals.signal("migration-finished")
"""A migration is applied, rolled back, or recorded as applied: `run_id`, `outcome`."""

migration_failed = _signals.signal("migration-failed")
"""A migration raised an error, was stopped, or its outcome is not known: `run_id`, `outcome`."""

run_finished = _signals.signal("run-finished")
"""A run has ended and released the lock, whether it succeeded or not: `run_id`, `report`."""

lock_forced = _signals.signal("lock-forced")
"""The lock of another process was released by force: `lock`, as it was."""

_log = logging.getLogger(__name__)


class SignalSender(Observer):
    """Sends the signals of an application's run."""

    def __init__(self, app: Flask, run_id: str) -> None:
        self._app = app
        self._run_id = run_id

    def planned(self, plan: Plan) -> None:
        """Send `run_started`."""
        self._send(run_started, run_id=self._run_id, plan=plan)

    def started(self, step: Step) -> None:
        """Send `migration_started`."""
        self._send(migration_started, run_id=self._run_id, step=step)

    def ended(self, outcome: Outcome) -> None:
        """Send `migration_finished` or `migration_failed`, or nothing for a step that did not start."""
        if outcome.succeeded:
            self._send(migration_finished, run_id=self._run_id, outcome=outcome)
        elif outcome.took_ms is not None or outcome.error is not None:
            self._send(migration_failed, run_id=self._run_id, outcome=outcome)

    def finished(self, report: RunReport) -> None:
        """Send `run_finished`."""
        self._send(run_finished, run_id=self._run_id, report=report)

    def unlocked(self, lock: LockState) -> None:
        """Send `lock_forced`."""
        self._send(lock_forced, lock=lock)

    def _send(self, signal: Signal, **arguments: object) -> None:
        # Not `signal.send()`, in which a receiver that raises keeps the signal from those after it.
        for receiver in () if signal.is_muted else tuple(signal.receivers_for(self._app)):
            try:
                with self._app.app_context():
                    self._app.ensure_sync(receiver)(self._app, **arguments)
            except (Exception, SystemExit):  # noqa: BLE001  (whatever a receiver raises)
                _log.exception("The receiver %r of %s failed. The run continues.", receiver, signal)
