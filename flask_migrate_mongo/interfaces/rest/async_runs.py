"""Runs that nobody waits for: started in a process of their own, observed through the store."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.model.errors import MigrateError, NoRunError
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.process import detached
from flask_migrate_mongo.process.clock import elapsed
from flask_migrate_mongo.process.signals import Stopped
from flask_migrate_mongo.store.runs import RunState
from flask_migrate_mongo.wiring.looking import runs
from flask_migrate_mongo.wiring.running import acting, runner

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import Direction, Plan, Progress, Step
    from flask_migrate_mongo.process.signals import StopSwitch
    from flask_migrate_mongo.state import AppState
    from flask_migrate_mongo.store.runs import RunStore

Act = Callable[["Runner | DryRunner", Options], "RunReport"]

TOUCH_SECONDS = 1
"""Seconds between two writes of how far a run is."""


def start(
    state: AppState, direction: Direction, act: Act, describe: Describe, *, dry_run: bool = False
) -> str:
    """Start a run that outlives this process, and return its id.

    `act` is called in that process, with a runner of its own and the options that make the
    run report its progress; `describe` makes documents of what it reports.
    """
    run_id = uuid.uuid4().hex
    runs(state).create(run_id, direction, detached=detached.CAN_FORK)
    detached.detach(lambda: _work(state, run_id, act, describe, dry_run=dry_run))
    return run_id


def cancel(state: AppState, run_id: str) -> None:
    """Request a run to stop: after the current batch of a backfill, or else before its next step."""
    runs(state).cancel(run_id)
    with contextlib.suppress(NoRunError):
        runner(state).request(Request.CANCEL, run_id=run_id)


def _work(state: AppState, run_id: str, act: Act, describe: Describe, *, dry_run: bool) -> None:
    with state.app.app_context():
        acts, store = acting(state, dry_run=dry_run), runs(state)
        narrator = Narrator(store, run_id, acts.switch, describe)
        options = Options(run_id=run_id, observer=narrator)
        carry_out(store, run_id, lambda: act(acts, options), describe)


class Narrator(Observer):
    """Tells the store what a run is doing, and the run that it was asked to stop."""

    def __init__(
        self,
        store: RunStore,
        run_id: str,
        switch: StopSwitch,
        describe: Describe,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._switch = switch
        self._describe = describe
        self._touched = 0.0

    def planned(self, plan: Plan) -> None:  # noqa: ARG002
        """Say that the lock is held and the plan made."""
        self._store.note(self._run_id, "planned", state=RunState.RUNNING.value)
        self._look()

    def started(self, step: Step) -> None:
        """Say which migration runs."""
        current = {"version": str(step.version), "name": step.file.name}
        self._store.note(self._run_id, "started", current=current)

    def progressed(self, step: Step, progress: Progress) -> None:
        """Say how far its backfill is, not more often than anyone reads it."""
        if elapsed() - self._touched < TOUCH_SECONDS:
            return
        self._touched = elapsed()
        current = {"version": str(step.version), "name": step.file.name}
        self._store.touch(self._run_id, {**current, "progress": self._describe.progress(progress)})

    def ended(self, outcome: Outcome) -> None:
        """Say what became of it."""
        self._store.note(self._run_id, "ended", current=None, step=self._describe.outcome(outcome))
        self._look()

    def _look(self) -> None:
        if self._store.is_cancelled(self._run_id):
            self._switch.throw("a request to cancel it")


@dataclass(frozen=True, slots=True)
class Describe:
    """How values become documents: the doors' own functions, handed down."""

    outcome: Callable[[Outcome], Document]
    report: Callable[[RunReport], Document]
    problem: Callable[[MigrateError], Document]
    progress: Callable[[Progress], Document]


def carry_out(
    store: RunStore, run_id: str, act: Callable[[], RunReport], describe: Describe
) -> None:
    """Carry a run out, and write down how it ended, whatever that is."""
    try:
        report = act()
    except MigrateError as exc:
        store.note(run_id, "refused", state=RunState.REFUSED.value, error=describe.problem(exc))
        return
    except BaseException as exc:
        error = MigrateError(f"The run ended with {type(exc).__name__}.")
        store.note(run_id, "failed", state=RunState.FAILED.value, error=describe.problem(error))
        raise
    state = _ended(report, cancelled=store.is_cancelled(run_id))
    store.note(run_id, state.value, state=state.value, current=None, report=describe.report(report))


def _ended(report: RunReport, *, cancelled: bool) -> RunState:
    # A backfill that is cancelled stops inside its migration, which counts as failed for that.
    own = [f for f in report.failures if f.error is None or f.error.type != Stopped.__name__]
    if own:
        return RunState.FAILED
    if report.error is not None:
        return RunState.CANCELLED if cancelled else RunState.FAILED
    return RunState.SUCCEEDED
