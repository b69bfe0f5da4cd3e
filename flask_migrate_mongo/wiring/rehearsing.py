"""Makes what runs migrations in a scratch database, before they run for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.rehearsal import Rehearsal

from .running import runner, runner_on

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.files.folder import Folder
    from flask_migrate_mongo.state import AppState


def rehearsal(state: AppState) -> Rehearsal:
    """Make the rehearsal of the application's migrations."""
    settings, real = state.settings, runner(state)

    def make_runner(server: Server, source: Folder) -> Runner:
        return runner_on(state, server, source, real.switch, rehearsal=True)

    return Rehearsal(
        real,
        make_runner,
        real.history.collections | {settings.lock_collection, settings.run_collection},
        name=settings.rehearsal_database,
        mask=Mask.of(settings.redact),
    )
