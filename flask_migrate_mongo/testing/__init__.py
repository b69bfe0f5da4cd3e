"""Tests of an application's migrations, for its own test suite: what the pytest plugin gives.

Exports `Migrations`, the type of the fixture `migrations`, and tests that fit every project. The fixtures are in the
module `pytest_flask_migrate_mongo`. May use pytest and every layer below; nothing else imports it.
"""

from .migrations import Migrations
from .ready_made import (
    test_down_reverses_up,
    test_every_migration_can_be_imported,
    test_lint_finds_nothing,
    test_nothing_is_left_to_do_after_up,
    test_the_migrations_have_one_order,
)

__all__ = [
    "Migrations",
    "test_down_reverses_up",
    "test_every_migration_can_be_imported",
    "test_lint_finds_nothing",
    "test_nothing_is_left_to_do_after_up",
    "test_the_migrations_have_one_order",
]
