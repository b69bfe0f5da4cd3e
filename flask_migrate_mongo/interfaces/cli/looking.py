"""Commands that look: no lock, no writes, no migration code."""

from __future__ import annotations

from typing import Any

import click

from flask_migrate_mongo.model.values import Status
from flask_migrate_mongo.planning import gate
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring import looking
from flask_migrate_mongo.wiring.looking import inspector

from .output import CHECK_FAILED, VERSION, as_json, command, refuse, show, state


class _StatusChoice(click.Choice[str]):
    """The states in the words that people read. The stored one is accepted, too."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  (click's)
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        if value == Status.COMPLETED.value:
            return Status.COMPLETED.word
        return super().convert(value, param, ctx)


@command
@as_json
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 4 if `check` would find a problem, but for those of lint and of the schema.",
)
@click.option("--all", "everything", is_flag=True, help="Show every migration in a table.")
def status(*, check: bool, everything: bool) -> None:
    """Show what is applied, pending and failed, and the lock.

    Executes no migration's code and takes no lock.
    """
    found = state()
    failed = check and gate.check(inspector(found), linear=found.settings.linear).problems
    report = inspector(found).status()
    text = states.full_status if everything else states.status
    show("status", text, report, exit_code=CHECK_FAILED if failed else 0)


@command
@click.argument("version", type=VERSION, required=False)
@click.option(
    "--limit", type=int, default=50, show_default=True, metavar="N", help="Show at most N."
)
@click.option(
    "--skip", type=int, default=0, show_default=True, metavar="N", help="Leave out the newest N."
)
@click.option(
    "--status", type=_StatusChoice([s.word for s in Status]), help="Only those in this state."
)
@click.option("--events", is_flag=True, help="Show everything that happened, the oldest first.")
@as_json
def history(
    version: str | None, *, limit: int, skip: int, status: str | None, events: bool
) -> None:
    """Show what is recorded, the newest first.

    With VERSION it shows everything that happened to that migration.
    """
    look = inspector(state())
    if events or version is not None:
        refuse("limit", "skip", "status", because="choose records, not events")
        show("events", states.events, looking.events(look, version))
    else:
        wanted = None if status is None else Status.named(status)
        page = looking.history(look, limit=limit, skip=skip, status=wanted)
        show("history", states.records, page)


@command
@as_json
def lock_status() -> None:
    """Show who holds the lock, since when and until when."""
    show("lock-status", states.lock, looking.lock(inspector(state())))
