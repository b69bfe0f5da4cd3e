"""Makes what looks at an application's migrations and runs."""

from __future__ import annotations

from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.planning.plans import Inspector, Policy
from flask_migrate_mongo.settings import Settings
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease
from flask_migrate_mongo.store.runs import RunStore


def inspector(state: AppState) -> Inspector:
    """Make an inspector of the application's database."""
    settings = state.settings
    server = connected_server(state)
    return Inspector(
        Folder(settings.directory),
        server,
        MigrationHistory(server, settings.collection),
        Lease(server, settings.lock_collection, ttl=settings.lock_ttl),
        policy(settings),
    )


def runs(state: AppState) -> RunStore:
    """Make the store of asynchronous runs, on the client of this process."""
    return RunStore(connected_server(state), state.settings.run_collection)


def policy(settings: Settings) -> Policy:
    """Make the policy that the settings ask for."""
    return Policy(
        refuse_out_of_order=settings.out_of_order == "refuse",
        stop_on_interrupted=settings.interrupted == "stop",
        prefer_transactions=settings.transactions == "preferred",
    )
