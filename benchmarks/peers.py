"""The competitors: how each is installed, laid out and run, as its own documentation says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import environments
from .environments import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pymongo.database import Database


@dataclass(frozen=True, slots=True)
class Site:
    """Where a competitor works: a folder with `count` migrations, and a database on a port."""

    folder: Path
    port: int
    database: str
    count: int
    options: str = ""

    @property
    def uri(self) -> str:
        """The connection string, with the database in it."""
        return f"mongodb://127.0.0.1:{self.port}/{self.database}{self.options}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One competitor.

    `marks` are the strings that tell a migration and its record from others, `sees_pending` matches
    what its status says of one that is not applied, `keeps` says in the tables how safe it is.
    """

    name: str
    package: str
    settings: Callable[[Site], Mapping[str, str]]
    migration: Callable[[int], tuple[str, str]]
    marks: Callable[[int], tuple[str, ...]]
    status: Callable[[Site], tuple[str, ...]]
    up: Callable[[Site], tuple[str, ...]]
    down: Callable[[Site], tuple[str, ...]]
    records: str
    is_applied: Mapping[str, Any]
    sees_pending: str
    keeps: str
    init: tuple[str, ...] = ()
    environ: Callable[[Site], Mapping[str, str]] = lambda _: {}
    also_needs: tuple[str, ...] = ()
    by_npm: bool = False
    head_only: bool = False
    takes_options: bool = True

    def install(self) -> Installed:
        """Install it, unless it is. Raises UnavailableError."""
        packages = (self.package, *self.also_needs)
        if self.package == environments.OURS:
            program = environments.own_environment()
        elif self.by_npm:
            program = environments.node_environment(self.package, *packages)
        else:
            program = environments.python_environment(self.package, *packages)
        return Installed(self, program, environments.versions(program)[self.package])

    def applied(self, db: Database[dict[str, Any]], count: int) -> bool:
        """Whether exactly the first `count` migrations are recorded as applied."""
        if not self.head_only:
            return db[self.records].count_documents(dict(self.is_applied)) == count
        head = (db[self.records].find_one() or {}).get("current_version")
        return head == (self.marks(count)[0] if count else None)


@dataclass(frozen=True, slots=True)
class Installed:
    """A competitor that is there, its commands in the folder `program`."""

    peer: Peer
    program: Path
    version: str

    def command(self, line: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command line with the path of its program."""
        return (str(self.program / line[0]), *line[1:])


@dataclass(frozen=True, slots=True)
class Missing:
    """A competitor that could not be installed."""

    name: str
    reason: str


def installed(peers: tuple[Peer, ...]) -> tuple[tuple[Installed, ...], tuple[Missing, ...]]:
    """Install them all; return those that are there, and the others with the reason."""
    there, missing = [], []
    for peer in peers:
        try:
            there.append(peer.install())
        except UnavailableError as exc:
            missing.append(Missing(peer.name, str(exc)))
    return tuple(there), tuple(missing)


def stamp(number: int) -> str:
    """Return the time stamp that a migration's name begins with, a minute after the one before."""
    return (datetime(2026, 1, 1) + timedelta(minutes=number)).strftime("%Y%m%d%H%M%S")  # noqa: DTZ001


# --- ours

_APP = """\
import os

from flask import Flask
from flask_migrate_mongo import MongoMigrate
from flask_pymongo import PyMongo

app = Flask(__name__)
app.config["MONGO_URI"] = os.environ["MONGO_URI"]
MongoMigrate(app, PyMongo(app))
"""

_LEAN_APP = """\
from flask import Flask
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
MongoMigrate(app)
"""

_FLASK = ("flask", "--app", "app")


def _ours(name: str, app: str, **settings: str) -> Peer:
    return Peer(
        name=name,
        package=environments.OURS,
        settings=lambda _: {"app.py": app},
        environ=lambda site: {
            "MONGO_URI": site.uri,
            "XDG_CACHE_HOME": str(site.folder / "cache"),
            **settings,
        },
        migration=lambda n: (
            f"migrations/{stamp(n)}_step.py",
            "def up(db):\n    pass\n\n\ndef down(db):\n    pass\n",
        ),
        marks=lambda n: (stamp(n),),
        status=lambda _: (*_FLASK, "db-migrate", "status"),
        up=lambda _: (*_FLASK, "db-migrate", "up"),
        down=lambda site: (*_FLASK, "db-migrate", "down", "--steps", str(site.count)),
        records="migrations",
        is_applied={"status": "completed"},
        sees_pending=r"\b[1-9]\d* (pending|failed)\b",
        keeps="lease with heartbeat; running and done, with a trail; data and record in one transaction if asked",
    )


OURS = _ours("Flask-Migrate-Mongo", _APP)
LEAN = _ours("Flask-Migrate-Mongo, MONGO_URI alone", _LEAN_APP)
COLD = _ours("Flask-Migrate-Mongo, nothing remembered", _APP, MIGRATE_CACHE="false")
OWN = (OURS, LEAN, COLD)


# --- the others

_UP_DOWN = "def up{0}:\n    pass\n\n\ndef down{0}:\n    pass\n"
_UPGRADE_DOWNGRADE = "def upgrade{0}:\n    pass\n\n\ndef downgrade{0}:\n    pass\n"


def revision(number: int) -> str:
    """Return the identifier of a revision of mongomig's."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:12]


def mongomig_file(number: int, body: str) -> tuple[str, str]:
    """Return the path and the text of a revision of mongomig's."""
    parent = repr(revision(number - 1)) if number > 1 else None
    when = datetime.strptime(stamp(number), "%Y%m%d%H%M%S")  # noqa: DTZ007
    return (
        f"migrations/versions/{when:%Y%m%d_%H%M}_{revision(number)}_step.py",
        (
            f'"""step"""\n\nrevision = "{revision(number)}"\ndown_revision = {parent}\n'
            "branch_labels = None\ndepends_on = None\nreversible = True\nsnapshot_hash = None\n"
            f"mongomig_format = 1\n\n\n{body}"
        ),
    )


def _mongomig_settings(site: Site) -> Mapping[str, str]:
    return {
        "mongomig.yaml": f"database:\n  uri: {site.uri}\n  name: {site.database}\n"
        "migrations:\n  directory: migrations\n",
        "migrations/env.py": "from mongomig import MongoMetadata\n\n"
        'target_metadata = MongoMetadata.default(storage="python", by_alias=True)\n',
        "migrations/schema_snapshot.json": '{"collections": {}, "mongomig_format": 1, "storage": null}\n',
    }


MONGOMIG = Peer(
    name="mongomig",
    package="mongomig",
    settings=_mongomig_settings,
    migration=lambda n: mongomig_file(n, _UPGRADE_DOWNGRADE.format("(ctx)")),
    marks=lambda n: (revision(n), revision(n - 1)),
    status=lambda _: ("mongomig", "current"),
    up=lambda _: ("mongomig", "upgrade", "--yes"),
    down=lambda _: ("mongomig", "downgrade", "base", "--yes"),
    records="__mongomig_migrations",
    is_applied={"status": "applied"},
    sees_pending=r"Pending:\s+\d",
    keeps="lock with heartbeat; running and done",
)

MONGRATE = Peer(
    name="mongrate",
    package="mongrate",
    settings=lambda site: {
        "mongrate_config.yaml": f'db_url: "{site.uri}"\ndb_name: "{site.database}"\nmigrations_dir: "migrations"\n'
    },
    migration=lambda n: (f"migrations/{stamp(n)}_step.py", _UPGRADE_DOWNGRADE.format("(db)")),
    marks=lambda n: (stamp(n),),
    status=lambda _: ("mongrate", "history"),
    up=lambda _: ("mongrate", "upgrade", "all"),
    down=lambda _: ("mongrate", "downgrade", "all"),
    records="_migrations",
    is_applied={},
    sees_pending=r"Pending Migrations:\s+- ",
    keeps="no lock; done",
)

MONGRATOR = Peer(
    name="mongrator",
    package="mongrator",
    settings=lambda site: {
        "mongrator.toml": f'uri = "{site.uri}"\ndatabase = "{site.database}"\nmigrations_dir = "migrations"\n'
    },
    migration=lambda n: (
        f"migrations/{stamp(n)[:8]}_{stamp(n)[8:]}_step.py",
        _UP_DOWN.format("(db)"),
    ),
    marks=lambda n: (f"{stamp(n)[:8]}_{stamp(n)[8:]}",),
    status=lambda _: ("mongrator", "status"),
    up=lambda _: ("mongrator", "up"),
    down=lambda site: ("mongrator", "down", "--steps", str(site.count)),
    records="mongrator_migrations",
    is_applied={"direction": "up"},
    sees_pending=r"\b(pending|MODIFIED|ORPHANED)\b",
    keeps="lock for ten minutes, not renewed; done",
)

MONGODB_MIGRATIONS = Peer(
    name="mongodb-migrations",
    package="mongodb-migrations",
    settings=lambda site: {
        "config.ini": f"[mongo]\nurl = {site.uri}\nmigrations = migrations\nmetastore = database_migrations\n"
        "dry_run = false\n"
    },
    migration=lambda n: (
        f"migrations/{stamp(n)}_step.py",
        (
            "from mongodb_migrations.base import BaseMigration\n\n\nclass Migration(BaseMigration):\n"
            "    def upgrade(self):\n        pass\n\n    def downgrade(self):\n        pass\n"
        ),
    ),
    marks=lambda n: (stamp(n),),
    # It has no command that shows what is applied; this looks at files and records, too.
    status=lambda _: ("mongodb-migrate", "--dry-run"),
    up=lambda _: ("mongodb-migrate",),
    down=lambda _: ("mongodb-migrate", "--downgrade"),
    records="database_migrations",
    is_applied={},
    sees_pending=r"Trying to upgrade",
    keeps="no lock; done",
)

PYMONGO_MIGRATE = Peer(
    name="pymongo-migrate",
    package="pymongo-migrate",
    settings=lambda _: {},
    migration=lambda n: (
        f"migrations/{stamp(n)}_step.py",
        f'name = "{stamp(n)}_step"\ndependencies = {[f"{stamp(n - 1)}_step"] if n > 1 else []}\n\n\n'
        + _UPGRADE_DOWNGRADE.format("(db)"),
    ),
    marks=lambda n: (stamp(n),),
    status=lambda site: ("pymongo-migrate", "show", "-u", site.uri, "-m", "migrations"),
    up=lambda site: ("pymongo-migrate", "upgrade", "-u", site.uri, "-m", "migrations"),
    down=lambda site: ("pymongo-migrate", "downgrade", "-u", site.uri, "-m", "migrations"),
    records="pymongo_migrate",
    is_applied={"applied": {"$ne": None}},
    sees_pending=r"Not applied",
    keeps="no lock; done",
)

MONGO_MIGRATOR = Peer(
    name="mongo-migrator",
    package="mongo-migrator",
    settings=lambda site: {
        "mongo-migrator.config": f"[database]\nhost = 127.0.0.1\nport = {site.port}\nname = {site.database}\n\n"
        "[migrations]\ndirectory = migrations\ncollection = version_history\n"
    },
    migration=lambda n: (
        f"migrations/{stamp(n)}_step.py",
        f'"""\ntitle: step\nversion: {stamp(n)}\nlast_version: {stamp(n - 1) if n > 1 else None}\n"""\n'
        + _UPGRADE_DOWNGRADE.format("(db)"),
    ),
    marks=lambda n: (stamp(n),),
    status=lambda _: ("mongo-migrator", "history"),
    up=lambda _: ("mongo-migrator", "upgrade"),
    down=lambda _: ("mongo-migrator", "downgrade", "--all"),
    init=("mongo-migrator", "init"),
    records="version_history",
    is_applied={},
    sees_pending=r"\(PENDING\)",
    keeps="no lock; the last version alone, written at the end",
    head_only=True,
    takes_options=False,
)

MIGRATE_MONGO = Peer(
    name="migrate-mongo",
    package="migrate-mongo",
    also_needs=("mongodb",),
    by_npm=True,
    settings=lambda site: {
        "migrate-mongo-config.js": "module.exports = {\n"
        f'  mongodb: {{ url: "{site.uri}", databaseName: "{site.database}", options: {{}} }},\n'
        '  migrationsDir: "migrations",\n  changelogCollectionName: "changelog",\n'
        '  lockCollectionName: "changelog_lock",\n  lockTtl: 0,\n'
        '  migrationFileExtension: ".js",\n  useFileHash: false,\n  moduleSystem: "commonjs",\n};\n'
    },
    migration=lambda n: (
        f"migrations/{stamp(n)}-step.js",
        "module.exports = {\n  async up(db, client) {},\n  async down(db, client) {},\n};\n",
    ),
    marks=lambda n: (stamp(n),),
    status=lambda _: ("migrate-mongo", "status"),
    up=lambda _: ("migrate-mongo", "up"),
    down=lambda _: ("migrate-mongo", "down", "-b"),
    records="changelog",
    is_applied={},
    sees_pending=r"\bPENDING\b",
    keeps="lock checked, then inserted; done",
)

IN_PYTHON = (MONGOMIG, MONGRATE, MONGRATOR, MONGODB_MIGRATIONS, PYMONGO_MIGRATE, MONGO_MIGRATOR)
OTHERS = (*IN_PYTHON, MIGRATE_MONGO)
ALL = (*OWN, *OTHERS)
