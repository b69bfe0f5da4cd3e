"""Measure the memory that a backfill takes above its application: `memory.py [DOCUMENTS]`.

The figures are the peak of resident memory of a process that runs `status` and of one that backfills, once
with a Python function and once with a pipeline. Exits with 1 above the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pymongo import MongoClient  # noqa: E402  (after the path)

from tests.server.launcher import TestServer  # noqa: E402

LIMIT_MB = 100
DOCUMENTS = 1_000_000
CHUNK = 20_000

CHANGES = {
    "function": 'lambda doc: {"$set": {"size": len(doc["name"]) + doc["number"]}}',
    "pipeline": '[{"$set": {"size": {"$add": ["$number", 1]}}}]',
}

# Runs one command in its own process and prints its peak, in kB. Not the peak of getrusage, which
# includes the memory that the parent process had at the fork.
RUN = """
import sys
from flask import Flask
from flask_migrate_mongo import MongoMigrate
app = Flask("bench", root_path=sys.argv[1])
app.config["MONGO_URI"] = sys.argv[2]
MongoMigrate(app)
result = app.test_cli_runner().invoke(args=["db-migrate", sys.argv[3]])
assert result.exit_code == 0, result.output
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mb(folder: Path, uri: str, command: str) -> float:
    """Measure the peak of resident memory of a command, in MB."""
    line = [sys.executable, "-c", RUN, str(folder), uri, command]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return int(done.stdout.split()[-1]) / 1024


def fill(uri: str, documents: int) -> None:
    """Write so many documents of about 300 bytes."""
    with MongoClient[dict[str, Any]](uri, retryWrites=False) as client:
        people = client.get_default_database().people
        people.drop()
        for start in range(0, documents, CHUNK):
            numbers = range(start, min(documents, start + CHUNK))
            people.insert_many([{"_id": n, "number": n, "name": f"{n:0250}"} for n in numbers])


def measure(folder: Path, uri: str, documents: int, change: str) -> dict[str, Any]:
    """Run one backfill and measure it."""
    (folder / "migrations").mkdir(parents=True)
    source = f'def up(db, ctx):\n    ctx.backfill("people", {change})\n'
    (folder / "migrations" / "20261101001_backfill.py").write_text(source, encoding="utf-8")
    fill(uri, documents)
    bare = peak_mb(folder, uri, "status")
    began = time.perf_counter()
    backfilling = peak_mb(folder, uri, "up")
    took = time.perf_counter() - began
    with MongoClient[dict[str, Any]](uri) as client:
        left = client.get_default_database().people.count_documents({"size": None})
        client.drop_database(client.get_default_database().name)
    return {
        "documents": documents,
        "left": left,
        "seconds": round(took, 1),
        "bareMB": round(bare, 1),
        "backfillingMB": round(backfilling, 1),
        "aboveMB": round(backfilling - bare, 1),
    }


def main(documents: int) -> int:
    """Measure each form and print the figures; return 1 above the limit."""
    with TestServer() as server, tempfile.TemporaryDirectory() as scratch:
        uri = server.uri.replace("/?", "/bench?")
        figures = {
            name: measure(Path(scratch) / name, uri, documents, change)
            for name, change in CHANGES.items()
        }
    print(json.dumps(figures, indent=2))
    return int(any(f["aboveMB"] > LIMIT_MB or f["left"] for f in figures.values()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else DOCUMENTS))
