"""Commands and options in the words of each interface."""

from __future__ import annotations

import pytest

from flask_migrate_mongo.model.wording import cli, render, rest


@pytest.mark.parametrize(
    ("remedy", "in_cli", "in_rest"),
    [
        (
            "[down allow_drift=True]",
            "`flask db-migrate down --allow-drift`",
            "`POST down?allowDrift=true`",
        ),
        ("[steps=4]", "`--steps 4`", "`?steps=4`"),
        (
            "[limit=50 skip=0]",
            "`--limit 50 --skip 0`",
            "`?limit=50&skip=0`",
        ),
        ("[wait=SECONDS]", "`--wait SECONDS`", "`?wait=SECONDS`"),
        ("[status]", "`flask db-migrate status`", "`GET status`"),
        (
            "[force-unlock confirm=True]",
            "`flask db-migrate force-unlock --confirm`",
            "`POST lock/release?confirm=true`",
        ),
        (
            "[resolve 7 applied=True|False reason=TEXT]",
            "`flask db-migrate resolve 7 --applied|--not-applied --reason TEXT`",
            "`flask db-migrate resolve 7 --applied|--not-applied --reason TEXT`",
        ),
        (
            '[create "add user index"]',
            '`flask db-migrate create "add user index"`',
            '`flask db-migrate create "add user index"`',
        ),
    ],
)
def test_each_interface_words_a_command_in_its_own_terms(
    remedy: str, in_cli: str, in_rest: str
) -> None:
    assert [render(remedy, words) for words in (cli, rest)] == [in_cli, in_rest]


def test_all_else_in_a_remedy_stays_as_it_is() -> None:
    remedy = 'Set A = "b", or use [1, 2] or {x}. Then run [up], or [down].'
    assert render(remedy, cli) == (
        'Set A = "b", or use [1, 2] or {x}. Then run `flask db-migrate up`, or `flask db-migrate down`.'
    )
