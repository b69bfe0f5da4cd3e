"""Commands that request something of a running backfill."""

from __future__ import annotations

from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.running import runner

from .output import as_json, command, show, state


@command()
@as_json
def pause(*, as_json: bool) -> None:
    """Pause the running backfill after its current batch.

    Its run keeps the lock until `resume` or `cancel`.
    """
    _ask("pause", as_json=as_json)


@command()
@as_json
def resume(*, as_json: bool) -> None:
    """Resume a paused backfill.

    To continue an interrupted one, run `up` or `down` again.
    """
    _ask("resume", as_json=as_json)


@command()
@as_json
def cancel(*, as_json: bool) -> None:
    """Stop the running backfill after its current batch.

    Its changes are kept. The next `up` or `down` continues from there.
    """
    _ask("cancel", as_json=as_json)


def _ask(what: str, *, as_json: bool) -> None:

    record = runner(state()).request(Request(what))
    show(what, states.asked, record, as_json=as_json)
