"""How good the estimates of a rehearsal are: the example's migrations on all the airports.

    python benchmarks/estimate.py [ROUNDS]

Each round loads the airports into a fresh database, rehearses on a sample of 1,000, runs the
migrations for real, and prints for each what was estimated, what was measured, and the ratio.
It takes MONGO_TEST_URI, or else starts a server of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flask import Flask  # noqa: E402
from pymongo import MongoClient  # noqa: E402

from example_app import data  # noqa: E402
from flask_migrate_mongo import MongoMigrate  # noqa: E402
from flask_migrate_mongo import state as app_state  # noqa: E402
from flask_migrate_mongo.rehearsal import RehearsalOptions, RehearsalReport  # noqa: E402
from flask_migrate_mongo.wiring import running  # noqa: E402
from tests.server.launcher import TestServer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

    from flask_migrate_mongo.model.reports import RunReport

TOLERATED = 2.0


@contextlib.contextmanager
def server_uri() -> Iterator[str]:
    """Give the connection string of a server."""
    if uri := os.environ.get("MONGO_TEST_URI"):
        yield uri
        return
    with TestServer() as server:
        yield server.uri


def one_round(db: Database[dict[str, Any]]) -> tuple[RehearsalReport, RunReport]:
    """Rehearse on a sample, then run for real."""
    data.load(db)
    app = Flask("demo", root_path=str(ROOT / "example_app"))
    MongoMigrate(app, db)
    with app.app_context():
        rehearsed = running.rehearsal(app_state.of(app)).run(RehearsalOptions())
        return rehearsed, running.runner(app_state.of(app)).up()


def compared(rehearsed: RehearsalReport, measured: RunReport) -> Iterator[tuple[str, float, float]]:
    """Yield what was estimated and what was measured, of each migration and of all."""
    took = {o.step.version: (o.took_ms or 0) / 1000 for o in measured.outcomes}
    guessed = {p.file.version: p.estimate for p in rehearsed.migrations}
    for version, seconds in took.items():
        guess = guessed[version]
        yield str(version), guess.seconds if guess else 0.0, seconds
    yield "all", sum(g.seconds for g in guessed.values() if g), sum(took.values())


def main(rounds: int) -> int:
    """Print the figures, and return how many estimates were off by more than is tolerated."""
    off = 0
    with server_uri() as uri, MongoClient[dict[str, Any]](uri) as client:
        for number in range(1, rounds + 1):
            name = f"t_estimate_{number}"
            print(f"round {number}    estimated  measured  ratio")
            for what, guess, seconds in compared(*one_round(client[name])):
                ratio = guess / seconds
                good = 1 / TOLERATED <= ratio <= TOLERATED
                off += not good
                print(
                    f"{what:12}{guess:8.2f} s{seconds:8.2f} s{ratio:7.2f}{'' if good else '  off'}"
                )
            client.drop_database(name)
    print(f"{off} off by more than a factor of {TOLERATED:g}")
    return off


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
