"""Looks at files, history and lock: no lock is taken, nothing is written, no migration's code runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import UnknownVersionError
from flask_migrate_mongo.model.values import StatusReport

from . import plans

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.files.folder import Discovery, Folder
    from flask_migrate_mongo.model.values import (
        Event,
        History,
        LockState,
        Plan,
        Record,
        Status,
    )
    from flask_migrate_mongo.store.history import MigrationHistory
    from flask_migrate_mongo.store.lease import Lease


@dataclass(frozen=True, slots=True)
class ProjectState:
    """The files and the history of a project, as they were read."""

    found: Discovery
    history: History


@dataclass(frozen=True, slots=True)
class Inspector:
    """Answers what is applied, what is pending and who holds the lock, for one folder and one database."""

    folder: Folder
    server: Server
    history: MigrationHistory
    lease: Lease
    policy: plans.Policy

    def status(self) -> StatusReport:
        """Report what is applied, pending, failed and running, and who holds the lock."""
        return self._report(self.look())

    def plan(self, target: plans.Target = plans.EVERYTHING_PENDING) -> tuple[Plan, StatusReport]:
        """Plan a target, and report the status. Raises what would refuse the plan."""
        state = self.look(target)
        return self.plan_of(target, state), self._report(state)

    def look(
        self,
        target: plans.Target | None = None,
        history: History | None = None,
    ) -> ProjectState:
        """Read the history, unless it is given, and then the files.

        An applied file that has not changed is not parsed, unless the target would roll it back.
        """
        history = self.history.load() if history is None else history
        to_roll_back = target.steps if isinstance(target, plans.DownTarget) else 0
        kept = history.applied[: max(0, len(history.applied) - to_roll_back)]
        return ProjectState(self.folder.discover({r.version: r for r in kept}), history)

    def plan_of(self, target: plans.Target, state: ProjectState) -> Plan:
        """Plan a target from what was read. Raises what refuses the plan."""
        plan = target.plan(state.found.files, state.history, self.policy)
        return plans.check_transactions(plan, self.policy, lambda: self.server.transactions_lacking)

    def records(
        self, *, limit: int = 50, skip: int = 0, status: Status | None = None
    ) -> tuple[Record, ...]:
        """Read one page of the history, the last change first. Raises InvalidRequestError."""
        return plans.page(self.history.load().records, limit=limit, skip=skip, status=status)

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the event log of one version, or of everything and the lock, the oldest first.

        Raises UnknownVersionError.
        """
        events = self.history.events(version)
        if version is None:
            return tuple(sorted((*events, *self.lease.events()), key=lambda event: event.at))
        if not events:
            raise UnknownVersionError(str(version))
        return events

    def lock(self) -> LockState | None:
        """Read who holds the lock."""
        return self.lease.inspect()

    def _report(self, state: ProjectState) -> StatusReport:
        survey = plans.survey(state.found.files, state.history)
        return StatusReport(survey, self.lease.inspect(), state.found.ignored)
