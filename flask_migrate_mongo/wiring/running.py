"""Makes what runs migrations: for real, in a dry run, or in a scratch database."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.backfill import BackfillOptions
from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import Document, Server
from flask_migrate_mongo.engine.options import DEFAULTS, Options
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.model.reports import RunReport
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.process import StopSwitch
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease

from .looking import policy

if TYPE_CHECKING:
    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.rehearsal import Rehearsal


def runner(state: AppState) -> Runner:
    """Make a runner of the application's database, on the client of this process."""
    server, source = connected_server(state), Folder(state.settings.directory)
    return _runner_on(state, server, source, StopSwitch())


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
    )


def acting(state: AppState, *, dry_run: bool) -> Runner | DryRunner:
    """Make a runner, or what has its methods and leaves the database as it was."""
    if not dry_run:
        return runner(state)
    # Imported here, as is the rehearsal, since a run needs neither.
    from flask_migrate_mongo.dry_run import DryRunner  # noqa: PLC0415

    return DryRunner(runner(state), Mask.of(state.settings.redact))


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


def rehearsal(state: AppState) -> Rehearsal:
    """Make the rehearsal of the application's migrations."""
    from flask_migrate_mongo.rehearsal import Rehearsal  # noqa: PLC0415

    settings, real = state.settings, runner(state)

    def make_runner(server: Server, source: Folder) -> Runner:
        return _runner_on(state, server, source, real.switch, rehearsal=True)

    return Rehearsal(
        real,
        make_runner,
        real.history.collections | {settings.lock_collection, settings.run_collection},
        name=settings.rehearsal_database,
        mask=Mask.of(settings.redact),
    )
