"""The command-line door: `flask db-migrate …`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource
from flask.cli import AppGroup

from . import assembly
from .errors import InvalidRequestError, MigrateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import RunReport
    from .runner import Options, Runner

_JSON = "flask_migrate_mongo.json"


class _Door(AppGroup):
    """The one place where an error becomes a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (click's own signature)
        try:
            return super().invoke(ctx)
        except MigrateError as exc:
            _fail(ctx, exc)
        except click.UsageError as exc:
            if not ctx.meta.get(_JSON):
                raise
            _fail(ctx, InvalidRequestError(exc.format_message()))


def _fail(ctx: click.Context, exc: MigrateError) -> NoReturn:
    from . import faults  # noqa: PLC0415

    if ctx.meta.get(_JSON):
        from . import documents  # noqa: PLC0415

        _print(documents.problem(exc))
    else:
        from . import render  # noqa: PLC0415

        render.error(exc)
    ctx.exit(faults.fault_of(exc).exit_code)


def _json_wanted(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001  (click calls it)
    ctx.meta[_JSON] = value
    return value


as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_json_wanted,
    help="Print one JSON document instead of text.",
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `up` and `down` have in common."""
    for option in (
        as_json,
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="Wait so long for somebody else's lock.  [default: MIGRATE_LOCK_WAIT]",
        ),
        click.option("--dry-run", is_flag=True, help="Show the plan and execute nothing."),
        click.option(
            "--allow-drift",
            is_flag=True,
            help="Go on with the file as it is now, though it has changed since.",
        ),
        click.option(
            "--continue-on-error",
            is_flag=True,
            help="Go on with the next migration when one fails; the exit code is 1 all the same.",
        ),
    ):
        command = option(command)
    return command


@click.group("db-migrate", cls=_Door)
def db_migrate() -> None:
    """Migrate the application's MongoDB database.

    \b
    Exit codes:
      0  done, or nothing to do
      1  a migration failed
      2  the command was typed wrong
      3  somebody else holds the lock
      4  `status --check` found something pending, failed or changed
      5  refused, since it could do harm
      6  the configuration is wrong, or the database does not answer
    """  # noqa: D301  (click's mark for lines that stay as they are)


@db_migrate.command()
@as_json
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 4 unless everything is applied as its file says.",
)
@click.pass_context
def status(ctx: click.Context, *, as_json: bool, check: bool) -> None:
    """Show what is applied, pending and failed, and the lock.

    Executes no migration's code and takes no lock.
    """
    from . import documents, faults, render  # noqa: PLC0415

    report = _runner().status()
    if as_json:
        _print(documents.status(report))
    else:
        render.status(report)
    ctx.exit(faults.check_code(report.survey) if check else faults.DONE)


@db_migrate.command()
@click.argument("name")
@click.option("--transactional", is_flag=True, help="Make one that runs in a transaction.")
@as_json
def create(name: str, *, transactional: bool, as_json: bool) -> None:
    """Make a new migration file called NAME and print its path.

    Its number follows both the newest file and today's date. Next, write its up() and down().

    Example: flask db-migrate create "add user index"
    """
    path = assembly.current().scaffold().create(name, transactional=transactional)
    if as_json:
        _print({"path": str(path)})
    else:
        click.echo(path)


@db_migrate.command()
@run_options
@click.pass_context
def up(
    ctx: click.Context,
    /,
    *,
    as_json: bool,
    allow_drift: bool,
    **options: Any,  # noqa: ANN401  (click's)
) -> None:
    """Apply every pending migration, the lowest number first.

    Stops at the first that fails: what was applied before it stays applied. A failed one is
    pending: mend it and run `up` again.
    """
    report = _runner().up(_options(**options), allow_drift=allow_drift)
    _finish(ctx, report, as_json=as_json)


@db_migrate.command()
@run_options
@click.option(
    "--steps",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="How many migrations to undo.",
)
@click.pass_context
def down(
    ctx: click.Context,
    /,
    *,
    as_json: bool,
    steps: int,
    allow_drift: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Undo the migration that was applied last, or the last N.

    In reverse order of application. Refused as a whole when one of them cannot be undone.
    """
    report = _runner().down(_options(**options), steps=steps, allow_drift=allow_drift)
    _finish(ctx, report, as_json=as_json)


@db_migrate.command()
@as_json
def pause(*, as_json: bool) -> None:
    """Pause the backfill that is running.

    After the batch in hand. Its run goes on to hold the lock, until `resume` or `cancel`.
    """
    _ask("pause", as_json=as_json)


@db_migrate.command()
@as_json
def resume(*, as_json: bool) -> None:
    """Let the backfill go on that was paused.

    One that was interrupted is gone on with by `up`, or `down`.
    """
    _ask("resume", as_json=as_json)


@db_migrate.command()
@as_json
def cancel(*, as_json: bool) -> None:
    """Stop the backfill that is running.

    After the batch in hand. What is done is kept; the next `up`, or `down`, goes on from there.
    """
    _ask("cancel", as_json=as_json)


def _ask(what: str, *, as_json: bool) -> None:
    from . import documents, render  # noqa: PLC0415
    from .model import Request  # noqa: PLC0415

    record = _runner().ask(Request(what))
    _show(documents.asked, render.asked, record, as_json=as_json)


_STATUSES = ("pending", "running", "completed", "failed", "rolled-back")


@db_migrate.command()
@click.argument("version", type=int, required=False)
@click.option(
    "--limit", type=int, default=50, show_default=True, metavar="N", help="Show at most N."
)
@click.option(
    "--skip", type=int, default=0, show_default=True, metavar="N", help="Leave out the newest N."
)
@click.option("--status", type=click.Choice(_STATUSES), help="Only those in this state.")
@click.option("--events", is_flag=True, help="Show everything that happened, the oldest first.")
@as_json
def history(
    version: int | None, *, limit: int, skip: int, status: str | None, events: bool, as_json: bool
) -> None:
    """Show what is recorded, the newest first.

    With VERSION it shows everything that happened to that migration.
    """
    from . import documents, render  # noqa: PLC0415
    from .model import Status  # noqa: PLC0415

    runner = _runner()
    if events or version is not None:
        _refuse("limit", "skip", "status", because="choose records, not events")
        trail = runner.events(version)
        _show(documents.events, render.events, trail, as_json=as_json)
    else:
        wanted = None if status is None else Status(status)
        page = runner.records(limit=limit, skip=skip, status=wanted)
        _show(documents.history, render.records, page, as_json=as_json)


@db_migrate.command("lock-status")
@as_json
def lock_status(*, as_json: bool) -> None:
    """Show who holds the lock, since when and until when."""
    from . import documents, render  # noqa: PLC0415

    _show(documents.lock_status, render.lock, _runner().lock(), as_json=as_json)


@db_migrate.command("force-unlock")
@click.option("--confirm", is_flag=True, help="Yes, the process that holds it is dead.")
@as_json
def force_unlock(*, confirm: bool, as_json: bool) -> None:
    """Release the lock, whoever holds it.

    Without --confirm it says who that is. A lock ends by itself when its process is dead.
    """
    from . import documents, render  # noqa: PLC0415

    released = _runner().force_unlock(confirmed=confirm)
    _show(documents.released, render.unlocked, released, as_json=as_json)


@db_migrate.command()
@click.argument("version", type=int)
@click.option("--applied/--not-applied", "applied", required=True, help="What is true of it.")
@click.option("--reason", required=True, help="How you know; it is kept in the trail.")
@as_json
def resolve(version: int, *, applied: bool, reason: str, as_json: bool) -> None:
    """Say whether VERSION is applied, after a look at the data.

    For a migration that was interrupted half-way, or whose record is known to be wrong.
    """
    from . import documents, render  # noqa: PLC0415

    record = _runner().resolve(version, applied=applied, reason=reason)
    _show(documents.history, render.records, (record,), as_json=as_json)


def _refuse(*names: str, because: str) -> None:
    ctx = click.get_current_context()
    given = [n for n in names if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if given:
        msg = f"--{given[0]} does not go with this: {', '.join(f'--{n}' for n in names)} {because}."
        raise click.UsageError(msg, ctx)


def _runner() -> Runner:
    state = assembly.current()
    click.get_current_context().call_on_close(state.close)
    return state.runner()


def _options(**options: Any) -> Options:  # noqa: ANN401
    from .render import Progress  # noqa: PLC0415
    from .runner import Options  # noqa: PLC0415

    progress = Progress()
    click.get_current_context().call_on_close(progress.close)
    return Options(observer=progress, **options)


def _finish(ctx: click.Context, report: RunReport, *, as_json: bool) -> None:
    from . import documents, faults, render  # noqa: PLC0415

    _show(documents.run, render.run, report, as_json=as_json)
    ctx.exit(faults.exit_code(report))


def _show(
    document: Callable[[Any], object], text: Callable[[Any], None], what: object, *, as_json: bool
) -> None:
    if as_json:
        _print(document(what))
    else:
        text(what)


def _print(document: object) -> None:
    # Escaped to ASCII, which every encoding of a stream can hold; by `str`, since a trail may hold
    # whatever another version of this package has put there.
    click.echo(json.dumps(document, indent=2, default=str))
