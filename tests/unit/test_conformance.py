"""The watch that all tests run under refuses what mongod refuses, and lets the rest pass."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure

from tests.server.conformance import Watch

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = {"lsid": {"id": b"a"}, "txnNumber": 1, "autocommit": False, "startTransaction": True}
LATER = {"lsid": {"id": b"a"}, "txnNumber": 1, "autocommit": False}
SNAPSHOT = {"readConcern": {"level": "snapshot"}}
FOREVER = 2_147_483_647


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "log")


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        ([{"find": "c", **BEGIN, **SNAPSHOT}, {"create": "d", **LATER}], 72),
        ([{"find": "c", **BEGIN}, {"find": "c", **LATER, "readConcern": {}}], 72),
        ([{"insert": "c", **BEGIN, "writeConcern": {"w": "majority"}}], 72),
        (
            [
                {
                    "update": "c",
                    "updates": [{"q": {"$expr": 1}, "upsert": True}],
                    "lsid": {"id": b"a"},
                }
            ],
            224,
        ),
        (
            [
                {
                    "update": "c",
                    "updates": [{"q": {}, "multi": True}],
                    "lsid": {"id": b"a"},
                    "txnNumber": 1,
                }
            ],
            72,
        ),
        ([{"createIndexes": "c", "indexes": [{"expireAfterSeconds": FOREVER}]}], 67),
        ([{"collMod": "c", "index": {"expireAfterSeconds": FOREVER}}], 67),
    ],
)
def test_what_mongod_refuses_is_refused_with_its_code(
    watch: Watch, commands: list[dict[str, Any]], code: int
) -> None:
    *before, last = commands
    for each in before:
        watch.begin(each)
    with pytest.raises(OperationFailure) as raised:
        watch.begin(last)
    assert raised.value.code == code


@pytest.mark.parametrize(
    "commands",
    [
        [
            {"find": "c", **BEGIN},
            {"create": "d", **LATER},
            {"commitTransaction": 1, **LATER, "writeConcern": {}},
        ],
        [{"update": "c", "updates": [{"q": {}, "multi": True}], "lsid": {"id": b"a"}}],
        [{"createIndexes": "c", "indexes": [{"expireAfterSeconds": int(time.time()) - 60}]}],
        [{"find": "c", "lsid": {"id": b"a"}}, {"killSessions": [{"id": b"a"}]}],
    ],
)
def test_what_mongod_accepts_passes(watch: Watch, commands: list[dict[str, Any]]) -> None:
    for each in commands:
        watch.begin(each)


def test_a_session_that_another_thread_of_this_process_uses_is_not_killed(watch: Watch) -> None:
    other = threading.Thread(target=watch.begin, args=[{"find": "c", "lsid": {"id": b"a"}}])
    other.start()
    other.join()
    with pytest.raises(OperationFailure, match="another thread of this very process"):
        watch.begin({"killSessions": [{"id": b"a"}]})
    watch.begin({"killSessions": [{"id": b"of another process"}]})
