"""Values to begin with: migrations, records and locks as short to write as to read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from flask_migrate_mongo.files.parsing import describe, read_content
from flask_migrate_mongo.model.documents import DeploymentKind, MigratedDatabase
from flask_migrate_mongo.model.reports import (
    Effects,
    NotExecuted,
    Outcome,
    RunReport,
    Sample,
    StepState,
    Trial,
    Verdict,
    Violation,
)
from flask_migrate_mongo.model.values import (
    Direction,
    ErrorInfo,
    History,
    LockState,
    MigrationFile,
    Record,
    Status,
    Step,
)

NOW = datetime(2026, 11, 22, 10, 30, 5, 123456, tzinfo=timezone.utc)
LOCATION = MigratedDatabase("shop", ("db1:27017", "db2:27017"), DeploymentKind.REPLICA_SET, "rs0")


def a_file(version: int, **changes: Any) -> MigrationFile:
    """Return a plain, reversible migration, or one that differs as said."""
    values: dict[str, Any] = {
        "folder": Path("/shop/migrations"),
        "file_name": f"{version}_change.py",
        "name": f"change {version}",
        "description": "",
        "transactional": False,
        "idempotent": False,
        "reversible": True,
        "checksum": f"sum of {version}",
        "slug": f"change_{version}",
    }
    values |= changes
    return MigrationFile(version=version, **{"digest": f"code of {values['checksum']}", **values})


def read(path: Path) -> MigrationFile:
    """Describe a file on disk."""
    return describe(path, read_content(path))


def a_record(version: int, status: Status = Status.COMPLETED, **changes: Any) -> Record:
    """Return the record of an unchanged migration, by default one that was applied."""
    values: dict[str, Any] = {
        "name": f"change {version}",
        "reversible": True,
        "checksum": f"sum of {version}",
    }
    values |= changes
    digest = f"code of {values['checksum']}" if values["checksum"] else None
    return Record(
        version=version, status=status, **{"digest": digest, "slug": f"change_{version}", **values}
    )


def a_step(version: int, direction: Direction = Direction.UP, **changes: Any) -> Step:
    """Return a step of a plain, reversible migration, or of one that differs as said."""
    return Step(a_file(version, **changes), direction)


def a_dry_run(name: str = "change 1", **changes: Any) -> RunReport:
    """Return what a dry run found out about a migration of this name, which would fail."""
    trial = Trial(
        Verdict.FAILS,
        None,
        {name: Effects(1, 2_000, 3, 4, 5)},
        not_executed=(
            NotExecuted("createIndexes", name, 3, name, (Violation({"a": 1}, 2),)),
            NotExecuted("drop", name, None, ""),
        ),
        samples=(Sample(name, 7, {name: 1}, {name: name}), Sample(name, 8, None, {"_id": 8})),
    )
    error = ErrorInfo("ValueError", name, f"Traceback\n{name}")
    failing = Outcome(a_step(1, name=name), StepState.NOT_RUN, 250, error, trial)
    left = Trial(Verdict.NOT_EXECUTED, f"{name} would fail before it")
    last = Outcome(a_step(2), StepState.NOT_RUN, trial=left)
    values = {"executed": True, "dry_run": True, **changes}
    return RunReport(Direction.UP, (failing, last), **values)


def recorded(*records: Record) -> History:
    """Return a history of these records."""
    return History(records)


def a_lock(*, expires_in: float = 1800, **changes: Any) -> LockState:
    """Return the lock of another process, live unless it expires in less than no time."""
    values: dict[str, Any] = {
        "holder": "anna@web-1:4711",
        "host": "web-1",
        "pid": 4711,
        "run_id": "f00d",
        "reason": "up",
        "fence": 7,
        "locked_at": NOW - timedelta(seconds=90),
        "heartbeat_at": NOW - timedelta(seconds=30),
        "expires_at": NOW + timedelta(seconds=expires_in),
        "seen_at": NOW,
    }
    return LockState(**{**values, **changes})
