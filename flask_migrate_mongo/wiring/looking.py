"""Makes what looks at an application's migrations and runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pymongo

from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.model.reports import EventsReport, HistoryReport, LockReport
from flask_migrate_mongo.model.values import Status
from flask_migrate_mongo.planning.plans import Inspector, Policy
from flask_migrate_mongo.settings import Settings
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease
from flask_migrate_mongo.store.runs import RunStore

LOOK_SECONDS = 5
"""How long all that a request reads may take."""


@contextlib.contextmanager
def looking(state: AppState) -> Iterator[Inspector]:
    """Make an inspector for a request: if the database hangs, what is read in the block fails after LOOK_SECONDS."""
    with pymongo.timeout(LOOK_SECONDS):
        yield inspector(state)


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


def history(
    found: Inspector, *, limit: int = 50, skip: int = 0, status: Status | None = None
) -> HistoryReport:
    """Read a page of what is recorded, the last change first."""
    records = found.records(limit=limit, skip=skip, status=status)
    return HistoryReport(records, database=found.server.location)


def events(found: Inspector, version: str | int | None = None) -> EventsReport:
    """Read everything that happened, or what happened to one migration, the oldest first."""
    return EventsReport(found.events(version), database=found.server.location)


def lock(found: Inspector) -> LockReport:
    """Read who holds the lock."""
    return LockReport(found.lock(), database=found.server.location)


def runs(state: AppState) -> RunStore:
    """Make the store of asynchronous runs, on the client of this process."""
    found = inspector(state)
    return RunStore(found.server, state.settings.run_collection, found.lease)


def own_collections(server: Server, settings: Settings) -> frozenset[str]:
    """Name the collections that this package keeps in the application's database."""
    history = MigrationHistory(server, settings.collection)
    return history.collections | {settings.lock_collection, settings.run_collection}


def policy(settings: Settings) -> Policy:
    """Make the policy that the settings ask for."""
    return Policy(
        refuse_out_of_order=settings.out_of_order == "refuse",
        stop_on_interrupted=settings.interrupted == "stop",
        prefer_transactions=settings.transactions == "preferred",
    )
