"""Who is measured: how each tool is installed, laid out and run, as its own documentation says.

mongomig is as safe as ours: it records `running` and `applied`, under a lock with a heartbeat. mongrate
is not: it takes no lock and records only what is done. It shows what the safety costs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from . import environments
from .environments import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pymongo.database import Database

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a tool works: a folder with `count` migrations, and a database on a port."""

    folder: Path
    port: int
    database: str
    count: int
    options: str = ""

    @property
    def uri(self) -> str:
        """The connection string, with the database in it."""
        return f"mongodb://127.0.0.1:{self.port}/{self.database}{self.options}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One tool.

    `marks` are the strings in a record that belong to its migration alone, `sees_pending` matches what
    the status says about a pending migration, `keeps` is the safety of the tool in words.
    """

    name: str
    package: str
    settings: Callable[[Site], Mapping[str, str]]
    migration: Callable[[int], tuple[str, str]]
    marks: Callable[[int], tuple[str, ...]]
    status: Sequence[str]
    up: Sequence[str]
    down: Callable[[Site], Sequence[str]]
    records: str
    is_applied: Mapping[str, object]
    sees_pending: str
    keeps: str

    def install(self) -> Installed:
        """Install it unless it is installed. Raises UnavailableError."""
        if self.package == environments.OURS:
            program = environments.own_environment()
        else:
            program = environments.python_environment(self.package, self.package)
        return Installed(self, program, environments.versions(program))

    def has_applied(self, db: Database[Document], count: int) -> bool:
        """Whether exactly `count` migrations are recorded as applied."""
        return db[self.records].count_documents(dict(self.is_applied)) == count


@dataclass(frozen=True, slots=True)
class Installed:
    """A tool that is installed: its commands are in the folder `program`."""

    peer: Peer
    program: Path
    versions: Mapping[str, str]

    def command(self, line: Sequence[str]) -> tuple[str, ...]:
        """Put the path of the program in front of a command line."""
        return (str(self.program / line[0]), *line[1:])


@dataclass(frozen=True, slots=True)
class Missing:
    """A tool that could not be installed."""

    name: str
    reason: str


def install(peers: Sequence[Peer]) -> tuple[tuple[Installed, ...], tuple[Missing, ...]]:
    """Install all of them; those that cannot be installed come with the reason."""
    installed, missing = [], []
    for peer in peers:
        try:
            installed.append(peer.install())
        except UnavailableError as exc:
            missing.append(Missing(peer.name, str(exc)))
    return tuple(installed), tuple(missing)


def _time(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=number)


def stamp(number: int) -> str:
    """Make the time stamp of a migration, a minute after the one before."""
    return f"{_time(number):%Y%m%d%H%M%S}"


def environ(site: Site) -> Mapping[str, str]:
    """Make the environment of every tool; only our application reads it."""
    return {"MONGO_URI": site.uri, "XDG_CACHE_HOME": str(site.folder / "cache")}


APP = """\
import os

from flask import Flask
from flask_migrate_mongo import MongoMigrate
from flask_pymongo import PyMongo

app = Flask(__name__)
app.config["MONGO_URI"] = os.environ["MONGO_URI"]
MongoMigrate(app, PyMongo(app))
"""

_MIGRATE = ("flask", "--app", "app", "db-migrate")

OURS = Peer(
    name="Flask-Migrate-Mongo",
    package=environments.OURS,
    settings=lambda _: {"app.py": APP},
    migration=lambda n: (
        f"migrations/{stamp(n)}_step.py",
        f'name = "step {n}"\n\n\ndef up(db):\n    pass\n\n\ndef down(db):\n    pass\n',
    ),
    marks=lambda n: (stamp(n),),
    status=(*_MIGRATE, "status"),
    up=(*_MIGRATE, "up"),
    down=lambda site: (*_MIGRATE, "down", "--steps", str(site.count)),
    records="migrations",
    is_applied={"status": "completed"},
    sees_pending=r"\b[1-9]\d* (pending|failed)\b",
    keeps="lease with heartbeat; records running and completed; event log",
)

_STEPS = "def upgrade({0}):\n    pass\n\n\ndef downgrade({0}):\n    pass\n"


def revision(number: int) -> str:
    """Make the identifier of a mongomig revision."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:12]


def mongomig_file(number: int, body: str) -> tuple[str, str]:
    """Make the path and the text of a mongomig revision."""
    parent = repr(revision(number - 1)) if number > 1 else None
    return (
        f"migrations/versions/{_time(number):%Y%m%d_%H%M}_{revision(number)}_step.py",
        (
            f'"""step"""\n\nrevision = "{revision(number)}"\ndown_revision = {parent}\n'
            "branch_labels = None\ndepends_on = None\nreversible = True\nsnapshot_hash = None\n"
            f"mongomig_format = 1\n\n\n{body}"
        ),
    )


MONGOMIG = Peer(
    name="mongomig",
    package="mongomig",
    settings=lambda site: {
        "mongomig.yaml": f"database:\n  uri: {site.uri}\n  name: {site.database}\n"
        "migrations:\n  directory: migrations\n",
        "migrations/env.py": "from mongomig import MongoMetadata\n\n"
        'target_metadata = MongoMetadata.default(storage="python", by_alias=True)\n',
        "migrations/schema_snapshot.json": '{"collections": {}, "mongomig_format": 1, "storage": null}\n',
    },
    migration=lambda n: mongomig_file(n, _STEPS.format("ctx")),
    marks=lambda n: (revision(n), revision(n - 1)),
    status=("mongomig", "current"),
    up=("mongomig", "upgrade", "--yes"),
    down=lambda _: ("mongomig", "downgrade", "base", "--yes"),
    records="__mongomig_migrations",
    is_applied={"status": "applied"},
    sees_pending=r"Pending:\s+\d",
    keeps="lock with heartbeat; records running and applied",
)

MONGRATE = Peer(
    name="mongrate",
    package="mongrate",
    settings=lambda site: {
        "mongrate_config.yaml": f'db_url: "{site.uri}"\ndb_name: "{site.database}"\nmigrations_dir: "migrations"\n'
    },
    migration=lambda n: (f"migrations/{stamp(n)}_step.py", _STEPS.format("db")),
    marks=lambda n: (stamp(n),),
    status=("mongrate", "history"),
    up=("mongrate", "upgrade", "all"),
    down=lambda _: ("mongrate", "downgrade", "all"),
    records="_migrations",
    is_applied={},
    sees_pending=r"Pending Migrations:\s+- ",
    keeps="no lock; records only what is done",
)

OTHERS = (MONGOMIG, MONGRATE)
