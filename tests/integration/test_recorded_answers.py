"""The server of these tests answers as a real mongod 5.0 did, but for a list that only shrinks.

What is listed in `tests/recorded/differences.py` must differ: a case that no longer does fails, so
that its line is deleted. A server named by MONGO_TEST_URI has no list.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.recorded.differences import DIFFERENCES
from tests.server.launcher import TestServer
from tests.server.replay import Case, Replay, recorded_cases, recorded_index_table

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("unwatched")

CASES = recorded_cases()
INDEXES = recorded_index_table()
REASONS = {title: reason for reason, titles in DIFFERENCES.items() for title in titles}


@pytest.fixture(scope="module")
def replica() -> Iterator[Replay]:
    """The server of MONGO_TEST_URI, or one of our own that answers all it can as mongod does."""
    with contextlib.ExitStack() as stack:
        uri = os.environ.get("MONGO_TEST_URI")
        uri = uri or stack.enter_context(TestServer()).uri
        yield stack.enter_context(contextlib.closing(Replay(uri)))


@pytest.fixture(scope="module")
def standalone(standalone_uri: str) -> Iterator[Replay]:
    with contextlib.closing(Replay(standalone_uri)) as replay:
        yield replay


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_command_is_answered_as_mongod_answered_it(
    case: Case, request: pytest.FixtureRequest
) -> None:
    topology = "standalone" if case.topology == "standalone" else "replica"
    replay: Replay = request.getfixturevalue(topology)
    answers = replay.play(case)
    if case.title in _listed(topology):
        assert answers != case.answers, f"{case.title!r} no longer differs: delete its line"
    else:
        assert answers == case.answers


@pytest.mark.parametrize("first", INDEXES.specifications)
def test_an_index_after_another_is_answered_as_mongod_answered_it(
    first: str, replica: Replay
) -> None:
    database = f"t_{uuid.uuid4().hex[:10]}"
    answers = {}
    for number, (second, specification) in enumerate(INDEXES.specifications.items()):
        pair = (INDEXES.specifications[first], specification)
        answers[second] = replica.index_after(database, f"c{number}", pair)
    replica.client().drop_database(database)
    assert answers == {second: INDEXES.answer(first, second) for second in answers}


def test_each_index_comes_back_as_it_came_back_from_mongod(replica: Replay) -> None:
    database = f"t_{uuid.uuid4().hex[:10]}"
    came_back = {
        name: replica.index_that_comes_back(database, f"c{number}", specification)
        for number, (name, specification) in enumerate(INDEXES.specifications.items())
    }
    replica.client().drop_database(database)
    assert came_back == INDEXES.come_back


def test_only_recorded_cases_are_listed_and_each_once() -> None:
    listed = [title for titles in DIFFERENCES.values() for title in titles]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {case.title for case in CASES}


def test_no_two_cases_have_one_title() -> None:
    assert len({case.title for case in CASES}) == len(CASES)


def _listed(topology: str) -> dict[str, str]:
    """What may differ here: a server named by MONGO_TEST_URI is a real one."""
    real = topology == "replica" and "MONGO_TEST_URI" in os.environ
    return {} if real else REASONS
