"""The choice of migrations to rehearse, the name of the scratch database, and the result."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from flask_migrate_mongo.interfaces.cli.rehearsing import exit_code
from flask_migrate_mongo.model.errors import InvalidRequestError
from flask_migrate_mongo.model.values import ErrorInfo
from flask_migrate_mongo.rehearsal import Attempt, MigrationRehearsal, RehearsalReport
from flask_migrate_mongo.rehearsal.comparison import Difference, Differences
from flask_migrate_mongo.rehearsal.rehearsal import choose
from flask_migrate_mongo.rehearsal.scratch import NAME_LIMIT, longest_expiry, name_for, prefix_for

from .given import a_file, a_record, recorded

FILES = [a_file(1), a_file(2), a_file(3)]
DONE, FAILED = Attempt(5), Attempt(5, ErrorInfo("ValueError", "no"))
LEFT = Differences((Difference("a", "collection", "not there", "there"),), 1)


def versions(found: tuple[object, ...]) -> list[int]:
    return [file.version for file in found]  # type: ignore[attr-defined]


def test_everything_pending_is_chosen_unless_versions_are_given() -> None:
    history = recorded(a_record(2))
    assert versions(choose(FILES, history, ())) == [1, 3]
    assert versions(choose(FILES, history, ("3",))) == [3]
    assert versions(choose(FILES, recorded(), ("3", "1"))) == [1, 3]


@pytest.mark.parametrize(
    ("version", "why"), [("2", "2 is applied here"), ("9", "number or the name '9'")]
)
def test_a_version_that_cannot_be_rehearsed_is_refused_with_the_reason(
    version: str, why: str
) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        choose(FILES, recorded(a_record(2)), ("1", version))


@pytest.mark.parametrize("name", ["shop", "d" * 63, "é" * 31, "d" + "é" * 31])
def test_a_scratch_database_is_named_after_the_real_one_within_the_limit(name: str) -> None:
    found = name_for(name, "0123456789abcdef")
    assert found.startswith(prefix_for(name))
    assert found.endswith("_rehearsal_01234567")
    assert found[:4] == name[:4]
    assert len(found.encode()) <= NAME_LIMIT


@pytest.mark.parametrize(("year", "oldest"), [(2026, 1970), (2040, 1971)])
def test_the_longest_expiry_does_not_reach_back_before_1970(year: int, oldest: int) -> None:
    now = datetime(year, 1, 1, tzinfo=timezone.utc)
    seconds = longest_expiry(now)
    assert datetime.fromtimestamp(now.timestamp() - seconds, timezone.utc).year == oldest
    assert seconds < 2**31


@pytest.mark.parametrize(
    ("migration", "failed", "undoes"),
    [
        (MigrationRehearsal(a_file(1), DONE, DONE, DONE), False, True),
        (MigrationRehearsal(a_file(1), DONE, DONE, DONE, differences=LEFT), True, False),
        (MigrationRehearsal(a_file(1), FAILED), True, None),
        (MigrationRehearsal(a_file(1), DONE, FAILED), True, False),
        (MigrationRehearsal(a_file(1), DONE, DONE, FAILED), True, True),
        (MigrationRehearsal(a_file(1, reversible=False), DONE), False, None),
        (MigrationRehearsal(a_file(1)), False, None),
    ],
)
def test_an_attempt_that_raises_or_a_difference_that_remains_is_a_failure(
    migration: MigrationRehearsal, *, failed: bool, undoes: bool | None
) -> None:
    assert (migration.failed, migration.undoes) == (failed, undoes)


@pytest.mark.parametrize(
    ("migrations", "fail_on", "code"),
    [
        ((), ("irreversible",), 0),
        ((MigrationRehearsal(a_file(1), DONE, DONE, DONE),), ("irreversible",), 0),
        ((MigrationRehearsal(a_file(1, reversible=False), DONE),), (), 0),
        ((MigrationRehearsal(a_file(1, reversible=False), DONE),), ("irreversible",), 4),
        ((MigrationRehearsal(a_file(1, reversible=False), FAILED),), ("irreversible",), 1),
        ((MigrationRehearsal(a_file(1), DONE, DONE, DONE, differences=LEFT),), (), 1),
    ],
)
def test_the_exit_code_is_that_of_a_failure_before_that_of_a_check(
    migrations: tuple[MigrationRehearsal, ...], fail_on: tuple[str, ...], code: int
) -> None:
    assert exit_code(RehearsalReport(migrations=migrations), fail_on) == code
