"""Real servers in place of the tests' own: the mongod that MONGO_TEST_MONGOD names, on ports and in folders of its own.

MONGO_TEST_MEMBERS is how many members a replica set has, 1 or 3. Written to MongoDB's documentation, and tested with a
stand-in that records its arguments.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SET = "rs0"
ELECTION_SECONDS = 60


def executable() -> str | None:
    """Read the path of the mongod to start; None for the tests' own server."""
    return os.environ.get("MONGO_TEST_MONGOD")


def members(flags: Sequence[str]) -> int:
    """Read how many servers a replica set has; a standalone is one."""
    return 1 if "--standalone" in flags else int(os.environ.get("MONGO_TEST_MEMBERS", "1"))


def command_line(
    mongod: str, folder: Path, port: int, flags: Sequence[str], *, lifetime: float
) -> list[str]:
    """Build the command line of one member, and make its files. The flags are those of `TestServer`."""
    data = folder / str(port)
    data.mkdir(exist_ok=True)
    found = [
        *(mongod, "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", str(data)),
        *("--wiredTigerCacheSizeGB", "0.5", "--setParameter", "enableTestCommands=1"),
        *("--setParameter", f"transactionLifetimeLimitSeconds={max(1, round(lifetime))}"),
        # The members of a set know each other by it.
        *(["--auth", "--keyFile", str(_key_file(folder))] if "--auth" in flags else []),
        *([] if "--standalone" in flags else ["--replSet", SET]),
    ]
    # What a replica set acknowledged by a majority is in its journal; a standalone gets a short interval.
    return found + (["--journalCommitInterval", "1"] if "--sync-on-commit" in flags else [])


def configuration(ports: Sequence[int]) -> dict[str, Any]:
    """Build the configuration of a replica set.

    Its last member alone can be primary: a proxy of a test connects to the last address of a URI.
    """
    last = len(ports) - 1
    return {
        "_id": SET,
        "members": [
            {"_id": n, "host": f"127.0.0.1:{port}", "priority": int(n == last)}
            for n, port in enumerate(ports)
        ],
    }


def wait_for_primary(ports: Sequence[int]) -> None:
    """Initiate a replica set that is new, and return when writes are accepted."""
    end = time.monotonic() + ELECTION_SECONDS
    uri = f"mongodb://127.0.0.1:{ports[-1]}/?directConnection=true"
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=1_000) as client:
        while True:
            try:
                hello = client.admin.command("hello")
                if hello["isWritablePrimary"]:
                    return
                if hello.get("isreplicaset"):  # It has no configuration yet.
                    client.admin.command("replSetInitiate", configuration(ports))
            except PyMongoError:  # While members start and elect, they refuse.
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                msg = f"no primary on the ports {ports} in {ELECTION_SECONDS} s"
                raise RuntimeError(msg)
            time.sleep(0.1)


def _key_file(folder: Path) -> Path:
    key = folder / "key"
    if not key.exists():
        key.touch(mode=0o600)  # mongod refuses one that others can read.
        key.write_text("keyOfTheTests", encoding="ascii")
    return key
