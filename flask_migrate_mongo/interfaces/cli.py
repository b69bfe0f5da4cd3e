"""The command-line door: `flask db-migrate …`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource
from flask.cli import AppGroup

from flask_migrate_mongo import state as assembly
from flask_migrate_mongo.model.errors import InvalidRequestError, MigrateError
from flask_migrate_mongo.model.limits import DRY_RUN_SECONDS, LONGEST_DRY_RUN, MOST_SAMPLES, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask_migrate_mongo.engine.options import Options
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.lint import LintReport
    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.rehearsal import Rehearsal
    from flask_migrate_mongo.reports import Progress

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
        from flask_migrate_mongo import reports as render  # noqa: PLC0415

        render.error(exc)
    ctx.exit(faults.fault_of(exc).exit_code)


def _json_wanted(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001  (click calls it)
    ctx.meta[_JSON] = value
    return value


def _json_format(ctx: click.Context, _: click.Parameter, value: str) -> str:
    ctx.meta[_JSON] = value == "json"
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
        click.option(
            "--samples",
            type=click.IntRange(0, MOST_SAMPLES),
            default=SAMPLES,
            show_default=True,
            metavar="N",
            help="With --dry-run: show so many documents of each migration, before and after.",
        ),
        click.option(
            "--dry-run-limit",
            type=click.FloatRange(min=0.1, max=LONGEST_DRY_RUN),
            default=DRY_RUN_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="With --dry-run: give up after so long.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Execute all of it in a transaction that is taken back, and show what it would do.",
        ),
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
      1  a migration failed, or is not fit to be run
      2  the command was typed wrong
      3  somebody else holds the lock
      4  a check found something: `status --check`, `lint`, `rehearse --fail-on`
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
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents, faults  # noqa: PLC0415

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
def plan(*, as_json: bool) -> None:
    """Show what `up` would run, and what there is to know before.

    Executes no migration's code, takes no lock and writes nothing.
    """
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

    _show(documents.plan, render.plan, _assembly().preview(), as_json=as_json)


def _sample_size(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not value.isdecimal() or int(value) < 1:
        msg = f"{value!r} is neither a whole number from 1 on nor `all`."
        raise click.BadParameter(msg)
    return int(value)


@db_migrate.command()
@click.argument("versions", type=int, nargs=-1, metavar="[VERSION]...")
@click.option(
    "--sample",
    default="1000",
    show_default=True,
    metavar="N",
    callback=_sample_size,
    help="Rehearse on so many documents of each collection, or on `all`.",
)
@click.option(
    "--collections",
    metavar="NAMES",
    help="Copy these, separated by commas.  [default: those that are touched]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["irreversible"]),
    multiple=True,
    help="Exit with 4 when a migration has no down().",
)
@as_json
@click.pass_context
def rehearse(
    ctx: click.Context,
    /,
    *,
    versions: tuple[int, ...],
    sample: int | None,
    collections: str | None,
    fail_on: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run up, down and up again on samples, in a scratch database.

    Says whether down() undoes up(), whether up() works twice, and how long it takes on all documents.
    Without VERSION, everything pending.
    """
    from flask_migrate_mongo import reports as render  # noqa: PLC0415
    from flask_migrate_mongo.rehearsal import RehearsalOptions  # noqa: PLC0415

    from . import documents, faults  # noqa: PLC0415

    named = None if collections is None else tuple(filter(None, collections.split(",")))
    progress = _progress()
    options = RehearsalOptions(versions, sample, named, progress, progress.phase)
    report = _rehearsal().run(options)
    _show(documents.rehearsal, render.rehearsal, report, as_json=as_json)
    ctx.exit(faults.rehearsal_code(report, fail_on))


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
    from flask_migrate_mongo import reports as render  # noqa: PLC0415
    from flask_migrate_mongo.model.values import Request  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

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
    from flask_migrate_mongo import reports as render  # noqa: PLC0415
    from flask_migrate_mongo.model.values import Status  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

    runner = _runner()
    if events or version is not None:
        _refuse("limit", "skip", "status", because="choose records, not events")
        trail = runner.events(version)
        _show(documents.events, render.events, trail, as_json=as_json)
    else:
        wanted = None if status is None else Status(status)
        page = runner.records(limit=limit, skip=skip, status=wanted)
        _show(documents.history, render.records, page, as_json=as_json)


def _codes(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    codes = [code.strip().upper() for value in values for code in value.split(",")]
    if not all(codes):
        msg = "it is empty where a rule like MM001 should be."
        raise click.BadParameter(msg)
    return tuple(codes)


@db_migrate.command()
@click.argument("files", nargs=-1)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json", "github", "sarif")),
    default="text",
    show_default=True,
    is_eager=True,
    callback=_json_format,
    help="For people, for programs, for GitHub's annotations, for code scanning.",
)
@click.option(
    "--select",
    multiple=True,
    metavar="CODES",
    callback=_codes,
    help="Only these rules: MM001,MM004.",
)
@click.option(
    "--ignore", multiple=True, metavar="CODES", callback=_codes, help="All but these rules."
)
@click.option(
    "--fail-on",
    type=click.Choice(("error", "warning", "info", "never")),
    default="warning",
    show_default=True,
    help="Exit with 4 when something this bad, or worse, is found.",
)
@click.pass_context
def lint(
    ctx: click.Context,
    /,
    *,
    files: tuple[str, ...],
    layout: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str,
) -> None:
    """Look for what migrations do that will do harm, executing none.

    FILES are paths or versions; without them all migrations are looked at. It needs no database.
    """
    from flask_migrate_mongo import reports as render  # noqa: PLC0415
    from flask_migrate_mongo.reports import code_scanning  # noqa: PLC0415

    from . import documents, faults  # noqa: PLC0415

    show: dict[str, Callable[[LintReport], None]] = {
        "text": render.lint,
        "json": lambda report: _print(documents.lint(report)),
        "github": lambda report: render.lines(code_scanning.github(report)),
        "sarif": lambda report: _print(code_scanning.sarif(report)),
    }
    report = assembly.current().lint(files, select=select, ignore=ignore)
    show[layout](report)
    ctx.exit(faults.lint_code(report, fail_on))


@db_migrate.command("lock-status")
@as_json
def lock_status(*, as_json: bool) -> None:
    """Show who holds the lock, since when and until when."""
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

    _show(documents.lock_status, render.lock, _runner().lock(), as_json=as_json)


@db_migrate.command("force-unlock")
@click.option("--confirm", is_flag=True, help="Yes, the process that holds it is dead.")
@as_json
def force_unlock(*, confirm: bool, as_json: bool) -> None:
    """Release the lock, whoever holds it.

    Without --confirm it says who that is. A lock ends by itself when its process is dead.
    """
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

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
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents  # noqa: PLC0415

    record = _runner().resolve(version, applied=applied, reason=reason)
    _show(documents.history, render.records, (record,), as_json=as_json)


def _refuse(*names: str, because: str) -> None:
    ctx = click.get_current_context()
    given = [n for n in names if _was_typed(ctx, n)]
    if given:
        msg = f"--{given[0]} does not go with this: {', '.join(f'--{n}' for n in names)} {because}."
        raise click.UsageError(msg, ctx)


def _was_typed(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option.replace("-", "_")) is ParameterSource.COMMANDLINE


def _runner() -> Runner:
    return _assembly().runner()


def _rehearsal() -> Rehearsal:
    return _assembly().rehearsal()


def _assembly() -> assembly.Assembly:
    from flask_migrate_mongo.process.exit import leave_promptly  # noqa: PLC0415

    state = assembly.current()
    click.get_current_context().call_on_close(state.close)
    leave_promptly()
    return state


def _options(**options: Any) -> Options:  # noqa: ANN401
    if not options["dry_run"]:
        _refuse("samples", "dry-run-limit", because="need --dry-run")
    from flask_migrate_mongo.engine.options import Options  # noqa: PLC0415

    return Options(observer=_progress(), **options)


def _progress() -> Progress:
    from flask_migrate_mongo.reports import Progress  # noqa: PLC0415

    progress = Progress()
    click.get_current_context().call_on_close(progress.close)
    return progress


def _finish(ctx: click.Context, report: RunReport, *, as_json: bool) -> None:
    from flask_migrate_mongo import reports as render  # noqa: PLC0415

    from . import documents, faults  # noqa: PLC0415

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
