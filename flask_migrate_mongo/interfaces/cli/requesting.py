"""Commands that request something of a running backfill."""

from __future__ import annotations

from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.running import runner

from .output import as_json, command, show, state


@command()
@as_json
def pause(*, as_json: bool) -> None:
    """Pause the backfill that is running.

    After the batch in hand. Its run goes on to hold the lock, until `resume` or `cancel`.
    """
    _ask("pause", as_json=as_json)


@command()
@as_json
def resume(*, as_json: bool) -> None:
    """Let the backfill go on that was paused.

    One that was interrupted is gone on with by `up`, or `down`.
    """
    _ask("resume", as_json=as_json)


@command()
@as_json
def cancel(*, as_json: bool) -> None:
    """Stop the backfill that is running.

    After the batch in hand. What is done is kept; the next `up`, or `down`, goes on from there.
    """
    _ask("cancel", as_json=as_json)


def _ask(what: str, *, as_json: bool) -> None:

    record = runner(state()).request(Request(what))
    show(what, states.asked, record, as_json=as_json)
