"""A web server has just started, and many ask it at once for asynchronous runs: as after a deployment."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.interfaces.test_rest_http import ENVIRON
from tests.interfaces.test_run_servers import run_of, up
from tests.project import APP
from tests.serving import Serving, free_port, gunicorn, serving
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.project import Project

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]

THREADS = 16
PATIENT = f"""{APP}
from flask_migrate_mongo.interfaces.rest import async_runs

async_runs.START_SECONDS = 50
"""
"""Gives the new processes time: sixteen of them may start at once, and a thread takes over from one that is late."""

VERSIONS = range(20261101001, 20261101006)


def ended(web: Serving, run_id: str) -> str:
    """Wait for the end of a run, and return its state."""
    until(lambda: run_of(web, run_id)["state"] not in {"queued", "waiting", "running"})
    state: str = run_of(web, run_id)["state"]
    return state


@pytest.mark.parametrize("query", ["", "?wait=60"], ids=["at once", "waiting"])
def test_every_request_for_a_run_is_answered_and_every_accepted_run_ends(
    project: Project,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
    query: str,
) -> None:
    project.write_inserts(*VERSIONS)
    (project.root / "app.py").write_text(PATIENT, encoding="utf-8")
    statuses: Counter[int] = Counter()
    states: Counter[str] = Counter()
    for _ in range(rounds(2, 20)):
        project.db.client.drop_database(project.db)
        port = free_port()
        command = gunicorn(port, "--threads", str(THREADS))
        with (
            serving(project, command, port, ENVIRON) as web,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            web.wait_until_it_listens()
            answers = [*threads.map(lambda _, web=web: up(web, query), range(THREADS))]
            accepted = [document for status, document in answers if status == 202]
            statuses.update(status for status, _ in answers)
            assert accepted
            states.update(ended(web, document["runId"]) for document in accepted)
        assert all(document["detached"] for document in accepted)
        assert sorted(d["version"] for d in project.db.done.find()) == list(VERSIONS)
        assert project.statuses() == dict.fromkeys(VERSIONS, "completed")
    assert set(statuses) <= {202, 409, 429}, statuses
    assert set(states) == {"succeeded"}, states
    tally(rounds=rounds(2, 20), **{str(s): n for s, n in statuses.items()}, **states)
