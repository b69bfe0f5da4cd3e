"""Makes what runs migrations, for real or in a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.backfill import BackfillOptions
from flask_migrate_mongo.database import database_of
from flask_migrate_mongo.driver.server import server_of
from flask_migrate_mongo.engine.executor import Executor
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.process import StopSwitch
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease

from .looking import folder, policy

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.files import Folder
    from flask_migrate_mongo.state import AppState


def runner(state: AppState) -> Runner:
    """Make a runner of the application's database, on the client of this process."""
    return runner_on(state, server_of(database_of(state)), folder(state), StopSwitch())


def runner_on(
    state: AppState, server: Server, source: Folder, switch: StopSwitch, *, rehearsal: bool = False
) -> Runner:
    """Make a runner on a server, a folder and a switch that may not be the application's own."""
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
        executor=Executor(state.app, server, switch, backfills=backfills, rehearsal=rehearsal),
        wait=settings.lock_wait,
        app_version=settings.app_version,
    )


def acting(state: AppState, *, dry_run: bool) -> Runner | DryRunner:
    """Make a runner, or what has its methods and leaves the database as it was."""
    if not dry_run:
        return runner(state)
    from flask_migrate_mongo.dry_run import DryRunner  # noqa: PLC0415  (a run needs none of it)

    return DryRunner(runner(state), Mask.of(state.settings.redact))
