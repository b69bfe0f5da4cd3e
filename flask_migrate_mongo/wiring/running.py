"""Makes what runs migrations: for real, in a dry run, or in a scratch database."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

from flask_migrate_mongo.backfill import BackfillOptions
from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import Document, Server
from flask_migrate_mongo.engine.options import DEFAULTS, Options, unobserved
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.model.reports import ReleaseReport, RequestReport, RunReport
from flask_migrate_mongo.model.values import Direction, Request
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.process import StopSwitch
from flask_migrate_mongo.signals import SignalSender
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease

from .looking import own_collections, policy

if TYPE_CHECKING:
    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.rehearsal import Rehearsal


def runner(state: AppState, *, rehearsal: bool = False) -> Runner:
    """Make a runner of the application's database, on the client of this process."""
    server, source = connected_server(state), Folder(state.settings.directory)
    return _runner_on(state, server, source, StopSwitch(), rehearsal=rehearsal)


def _runner_on(
    state: AppState, server: Server, source: Folder, switch: StopSwitch, *, rehearsal: bool = False
) -> Runner:
    settings = state.settings
    backfills = BackfillOptions(
        batch_size=settings.backfill_batch_size,
        workers=settings.backfill_workers,
        max_per_second=settings.backfill_max_per_second,
        on_error=settings.backfill_on_error,
    )
    return Runner(
        source,
        server,
        MigrationHistory(server, settings.collection),
        Lease(server, settings.lock_collection, ttl=settings.lock_ttl, sleep=switch.sleep),
        policy(settings),
        app=state.app,
        switch=switch,
        backfills=backfills,
        rehearsal=rehearsal,
        wait=settings.lock_wait,
        app_version=settings.app_version,
        mask=settings.mask,
        observe=unobserved if rehearsal else partial(SignalSender, state.app),
    )


def acting(state: AppState, *, dry_run: bool) -> Runner | DryRunner:
    """Make a runner, or what has its methods and leaves the database as it was."""
    if not dry_run:
        return runner(state)
    # Imported here, as is the rehearsal, since a run needs neither.
    from flask_migrate_mongo.dry_run import DryRunner  # noqa: PLC0415

    return DryRunner(runner(state))


def call(
    acts: Runner | DryRunner,
    direction: Direction,
    parameters: Document,
    options: Options = DEFAULTS,
) -> RunReport:
    """Run with the parameters of a command or a request, by their names in Python."""
    how = {name: value for name, value in parameters.items() if name != "dry_run"}
    target = {field.name: how.pop(field.name) for field in fields(Target) if field.name in how}
    return acts.run(Target(direction, **target), replace(options, **how))


def force_unlock(state: AppState, *, confirmed: bool, fence: int | None = None) -> ReleaseReport:
    """Release the lock of another process, or that with this fence alone. Raises NotConfirmedError."""
    acts = runner(state)
    released = acts.force_unlock(confirmed=confirmed, fence=fence)
    return ReleaseReport(released, database=acts.server.location)


def request(state: AppState, asked: Request, *, run_id: str | None = None) -> RequestReport:
    """Request a running backfill to pause, resume or cancel; of any run, or of this one. Raises NoRunError."""
    acts = runner(state)
    return RequestReport(acts.request(asked, run_id=run_id), database=acts.server.location)


def rehearsal(state: AppState) -> Rehearsal:
    """Make the rehearsal of the application's migrations."""
    from flask_migrate_mongo.rehearsal import Rehearsal  # noqa: PLC0415

    settings, real = state.settings, runner(state)

    def make_runner(server: Server, source: Folder) -> Runner:
        return _runner_on(state, server, source, real.switch, rehearsal=True)

    return Rehearsal(
        real,
        make_runner,
        own_collections(real.server, settings),
        name=settings.rehearsal_database,
    )
