"""Time `flask db-migrate lint` of 1,000 migrations, as a whole process: `python benchmarks/lint.py`.

Exits with 1 when it takes longer than it may.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = 1_000
ROUNDS = 5
LIMIT_SECONDS = 3.0
ROOT = Path(__file__).parents[1]

APP = """
from flask import Flask
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
MongoMigrate(app)
"""

HEAD = '''"""Change {collection}, step {number}, so that readers find the new field."""

from pymongo import UpdateOne

name = "Change {collection}"
'''

KINDS = (
    """transactional = True


def up(db):
    metres = {{"$round": [{{"$multiply": ["$elevation", 0.3048]}}, 1]}}
    db.{collection}.update_many({{"metres": {{"$exists": False}}}}, [{{"$set": {{"metres": metres}}}}])


def down(db):
    db.{collection}.update_many({{"metres": {{"$exists": True}}}}, {{"$unset": {{"metres": ""}}}})
""",
    """idempotent = True

INDEX = "name_{number}"


def up(db):
    db.{collection}.create_index([("name", 1), ("city", -1)], name=INDEX)


def down(db):
    if INDEX in db.{collection}.index_information():
        db.{collection}.drop_index(INDEX)
""",
    """idempotent = True

BATCH = 1_000
TO_DO = {{"label": {{"$exists": False}}}}


def label(document):
    parts = [document.get("name"), document.get("city"), document.get("country")]
    return ", ".join(part for part in parts if part)


def up(db, ctx):
    documents = db["{collection}"]
    while waiting := list(documents.find(TO_DO, ["name", "city", "country"]).limit(BATCH)):
        ctx.ensure_lease()
        changes = [UpdateOne({{"_id": d["_id"]}}, {{"$set": {{"label": label(d)}}}}) for d in waiting]
        documents.bulk_write(changes)
        ctx.log.info("%d labels", len(waiting))


def down(db):
    db.{collection}.update_many({{"label": {{"$exists": True}}}}, {{"$unset": {{"label": ""}}}})
""",
    """idempotent = True


def up(db):
    db.{collection}.aggregate(
        [
            {{"$match": {{"closed": {{"$ne": True}}}}}},
            {{"$group": {{"_id": "$country", "count": {{"$sum": 1}}, "cities": {{"$addToSet": "$city"}}}}}},
            {{"$sort": {{"count": -1}}}},
            {{"$out": "{collection}_by_country"}},
        ]
    )


def down(db):
    db.{collection}_by_country.drop()
""",
)  # fmt: skip


def main() -> int:
    """Print the median of the rounds, in seconds and in files a second; return 1 above the limit."""
    with tempfile.TemporaryDirectory() as folder:
        command = project(Path(folder))
        seconds = statistics.median(timed(command, folder) for _ in range(ROUNDS))
    print(f"lint: {FILES} files in {seconds:.2f} s, {FILES / seconds:.0f} files/s")
    return int(seconds > LIMIT_SECONDS)


def project(root: Path) -> list[str]:
    """Write an application with its migrations; the command that lints them is returned."""
    (root / "app.py").write_text(APP, encoding="utf-8")
    (root / "migrations").mkdir()
    for number in range(FILES):
        collection = f"airports_{number % 20}"
        source = (HEAD + KINDS[number % len(KINDS)]).format(collection=collection, number=number)
        version = f"202601{number % 30 + 1:02}{number:03}"
        path = root / "migrations" / f"{version}_change_{collection}.py"
        path.write_text(source, encoding="utf-8")
    app = str(root / "app.py")
    return [sys.executable, "-m", "flask", "--app", app, "db-migrate", "lint", "--fail-on", "never"]


def timed(command: list[str], folder: str) -> float:
    """Time the command."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
