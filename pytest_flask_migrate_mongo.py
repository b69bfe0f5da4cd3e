"""The pytest plugin of Flask-Migrate-Mongo: fixtures for tests of an application's migrations, see docs/testing.md.

pytest imports this module in every run of the environment. So it is beside the package, whose import loads Flask, and
loads the package only for a test that uses a fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask_migrate_mongo.state import AppState
    from flask_migrate_mongo.testing import Migrations
    from flask_migrate_mongo.testing.session import TestSession


@pytest.fixture(scope="session")
def migration_session() -> Iterator[TestSession]:
    """Give what the other fixtures of the plugin share: the server that it starts."""
    from flask_migrate_mongo.testing.session import TestSession  # noqa: PLC0415  (see above)

    session = TestSession()
    yield session
    session.close()


@pytest.fixture
def migration_state(request: pytest.FixtureRequest, migration_session: TestSession) -> AppState:
    """Find the application: the fixture `app`, else MIGRATE_APP or FLASK_APP."""
    return migration_session.state(request)


@pytest.fixture
def migrations(migration_state: AppState, migration_session: TestSession) -> Iterator[Migrations]:
    """Run the application's migrations on a fresh database: `.up_to()`, `.up()`, `.down()`, `.status()` and `.db`."""
    with migration_session.migrations(migration_state) as found:
        yield found


@pytest.fixture
def migration_data(migrations: Migrations) -> None:
    """Override this to insert documents before the ready-made tests apply migrations."""
