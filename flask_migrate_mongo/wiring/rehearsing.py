"""Makes what runs migrations in a scratch database, before they run for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.rehearsal import Rehearsal

from .running import runner, runner_on

if TYPE_CHECKING:
    from flask_migrate_mongo.state import AppState


def rehearsal(state: AppState) -> Rehearsal:
    """Make the rehearsal of the application's migrations."""
    settings = state.settings
    ours = {settings.collection, settings.lock_collection, settings.run_collection}
    return Rehearsal(
        runner(state),
        lambda server, source, switch: runner_on(state, server, source, switch),
        frozenset(ours),
        name=settings.rehearsal_database,
        mask=Mask.of(settings.redact),
    )
