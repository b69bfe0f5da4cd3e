"""What belongs to one application: its settings, its database, and the runner made of them."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .model.errors import ConfigurationError, NoDatabaseError, SettingError, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask import Flask
    from pymongo import MongoClient
    from pymongo.database import Database

    from .driver.server import Server
    from .engine.executor import Executor
    from .engine.options import Options
    from .engine.runner import Runner
    from .files.cache import Cache
    from .files.source import Folder, Scaffold
    from .interfaces.rest.access import Authorize
    from .lint import Linter, LintReport
    from .model.reports import RunReport
    from .model.values import Direction
    from .planning.preview import Preview
    from .process.signals import StopSwitch
    from .rehearsal import Rehearsal
    from .settings import Settings
    from .store.runs import Describe, RunStore

    Act = Callable[[Runner, Options], RunReport]

KEY = "mongo_migrate"
"""Where the assembly is found in `app.extensions`."""

SELECTION_TIMEOUT_MS = 5_000
"""How long a client of ours looks for a server, unless the connection string says otherwise."""


class _Own(NamedTuple):
    """A client of ours, the process that it was made in, and what closes it there."""

    pid: int
    client: MongoClient[Any]
    close: Callable[[], object]


@dataclass(eq=False)
class Assembly:
    """The state of one application.

    `mongo` and `authorize` are what it handed over, or None; `startup_failure` is why what was pending could not be
    applied before it served.
    """

    app: Flask
    settings: Settings
    mongo: object = None
    startup_failure: str | None = None
    authorize: Authorize | None = None
    _own: _Own | None = None
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def runner(self) -> Runner:
        """Return a runner for this application, on the client of this process."""
        # Late: an application that never migrates in this process need not pay for these.
        from .driver.server import Server  # noqa: PLC0415
        from .files.source import Folder  # noqa: PLC0415
        from .process.signals import StopSwitch  # noqa: PLC0415

        folder = Folder(self.settings.directory, _cache(self.settings.cache))
        return self._runner_on(Server(self.database()), folder, StopSwitch())

    def rehearsal(self) -> Rehearsal:
        """Return what runs migrations in a scratch database, before they run for real."""
        from .model.masking import Mask  # noqa: PLC0415
        from .rehearsal import Rehearsal  # noqa: PLC0415

        settings, runner = self.settings, self.runner()

        def make_runner(server: Server, folder: Folder) -> Runner:
            return self._runner_on(server, folder, runner.switch, rehearsal=True)

        return Rehearsal(
            runner,
            make_runner,
            runner.history.collections | {settings.lock_collection, settings.run_collection},
            name=settings.rehearsal_database,
            mask=Mask.of(settings.redact),
        )

    def _runner_on(
        self, server: Server, folder: Folder, switch: StopSwitch, *, rehearsal: bool = False
    ) -> Runner:
        from .engine.runner import Runner  # noqa: PLC0415
        from .model.masking import Mask  # noqa: PLC0415
        from .planning.plans import Policy  # noqa: PLC0415
        from .store.history import MigrationHistory  # noqa: PLC0415
        from .store.lease import Lease  # noqa: PLC0415

        settings = self.settings
        return Runner(
            folder=folder,
            server=server,
            history=MigrationHistory(server, settings.collection),
            lease=Lease(
                server, settings.lock_collection, ttl=settings.lock_ttl, sleep=switch.sleep
            ),
            executor=partial(self._executor, server, switch, rehearsal=rehearsal),
            switch=switch,
            policy=Policy(
                refuse_out_of_order=settings.out_of_order == "refuse",
                stop_on_interrupted=settings.interrupted == "stop",
                prefer_transactions=settings.transactions == "preferred",
            ),
            wait=settings.lock_wait,
            mask=Mask.of(settings.redact),
            app_version=settings.app_version,
        )

    def _executor(self, server: Server, switch: StopSwitch, *, rehearsal: bool) -> Executor:
        from .backfill import Defaults  # noqa: PLC0415
        from .engine.executor import Executor  # noqa: PLC0415

        settings = self.settings
        backfills = Defaults(
            batch_size=settings.backfill_batch_size,
            workers=settings.backfill_workers,
            max_per_second=settings.backfill_max_per_second,
            on_error=settings.backfill_on_error,
        )
        return Executor(self.app, server, switch, backfills=backfills, rehearsal=rehearsal)

    def runs(self) -> RunStore:
        """Return the store of the runs that nobody waits for, on the client of this process."""
        from .driver.server import Server  # noqa: PLC0415
        from .store.runs import RunStore  # noqa: PLC0415

        return RunStore(Server(self.database()), self.settings.run_collection)

    def start(self, direction: Direction, act: Act, describe: Describe) -> str:
        """Start a run that outlives this process, and return its name.

        `act` is called in that process, with a runner of its own and the options that make the
        run tell how it goes; `describe` makes documents of what it tells.
        """
        from .process.detached import CAN_FORK, detach  # noqa: PLC0415

        run_id = uuid.uuid4().hex
        self.runs().create(run_id, direction, detached=CAN_FORK)
        detach(partial(self._carry_out, run_id, act, describe))
        return run_id

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop: after the batch in hand, or else before its next step."""
        from .model.errors import NoRunError  # noqa: PLC0415
        from .model.values import Request  # noqa: PLC0415

        self.runs().cancel(run_id)
        with contextlib.suppress(NoRunError):
            self.runner().ask(Request.CANCEL, run_id=run_id)

    def _carry_out(self, run_id: str, act: Act, describe: Describe) -> None:
        from .engine.options import Options  # noqa: PLC0415
        from .store.runs import Narrator, carry_out  # noqa: PLC0415

        with self.app.app_context():
            runner, store = self.runner(), self.runs()
            narrator = Narrator(store, run_id, runner.switch, describe)
            options = Options(run_id=run_id, observer=narrator)
            carry_out(store, run_id, partial(act, runner, options), describe)

    def scaffold(self) -> Scaffold:
        """Return what makes new files; it needs no database."""
        from .files.source import Folder, Scaffold  # noqa: PLC0415

        settings = self.settings
        return Scaffold(Folder(settings.directory), settings.version_format, settings.template)

    def preview(self) -> Preview:
        """Look at what `up` would run. Raises what would refuse it."""
        from .planning.preview import preview  # noqa: PLC0415

        return preview(self.runner(), self._linter())

    def lint(
        self, files: Sequence[str], *, select: Sequence[str], ignore: Sequence[str]
    ) -> LintReport:
        """Look for what migrations do that will do harm; it needs no database.

        Raises InvalidRequestError, and SettingError for a rule to ignore that there is not.
        """
        from .files.source import Folder  # noqa: PLC0415

        paths = Folder(self.settings.directory).choose(files)
        return self._linter(select, ignore).lint(paths)

    def _linter(self, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> Linter:
        from .lint import BY_CODE, Linter, Ownership, chosen  # noqa: PLC0415

        usual = self.settings.lint_ignore or ()
        if not BY_CODE.keys() >= set(usual):
            accepts = f"codes of these rules: {', '.join(BY_CODE)}"
            raise SettingError("MIGRATE_LINT_IGNORE", usual, accepts)
        rules = chosen(select, (*ignore, *(() if select else usual)))
        is_own = Ownership.of(self.app.import_name, Path(self.app.root_path))
        return Linter(is_own, rules)

    def database(self) -> Database[Any]:
        """Return the database to migrate. Raises NoDatabaseError or ConfigurationError.

        A Database that was handed over is taken as it is; MIGRATE_DATABASE chooses another one of
        a PyMongo, of a client, and of MONGO_URI.
        """
        if self.mongo is None:
            return self._own_database()
        given, called = _unwrapped(self.mongo), False
        # pymongo's own objects are callable too, though only to explain that they are not.
        if not _kinds(given) and callable(given):
            given, called = _unwrapped(given()), True
        if "Database" in _kinds(given):
            return given  # type: ignore[no-any-return]
        client, database = _parts(given)
        if client is None and database is None:
            raise ConfigurationError(_useless(given, called=called))
        if database is None or (client is not None and self.settings.database):
            return self._named(client)
        return database  # type: ignore[no-any-return]

    def _named(self, client: Any) -> Database[Any]:  # noqa: ANN401  (pymongo's or mongomock's)
        """Return the client's database that MIGRATE_DATABASE or else its connection string names."""
        from pymongo.errors import ConfigurationError as NoDefault  # noqa: PLC0415

        from .driver.server import translated  # noqa: PLC0415

        if self.settings.database:
            with translated():
                return client[self.settings.database]  # type: ignore[no-any-return]
        try:
            return client.get_default_database()  # type: ignore[no-any-return]
        except NoDefault as exc:
            raise NoDatabaseError(_NO_NAME) from exc

    def _own_database(self) -> Database[Any]:
        if self.settings.mongo_uri is None:
            msg = (
                "There is no database to migrate. Set MONGO_URI in app.config or in the "
                "environment (mongodb://localhost:27017/shop), or hand one over: "
                "MongoMigrate(app, mongo)."
            )
            raise NoDatabaseError(msg)
        return self._named(self._own_client(self.settings.mongo_uri))

    def _own_client(self, uri: str) -> MongoClient[Any]:
        """Return this process's client; one that was made before a fork is not used after it."""
        with self._mutex:
            if self._own is None or self._own.pid != os.getpid():
                client = _connect(uri)
                # For runs from code, too: no command ends there, after which it would be closed.
                closer = weakref.finalize(self, _close_in, os.getpid(), client)
                self._own = _Own(os.getpid(), client, closer)
            return self._own.client

    def close(self) -> None:
        """Close the client of this process, if it is one of ours; a later use opens a new one."""
        with self._mutex:
            own, self._own = self._own, None
        if own is not None:
            own.close()


def _cache(setting: bool | Path) -> Cache:  # noqa: FBT001  (a setting's value)
    from .files.cache import Cache  # noqa: PLC0415

    if isinstance(setting, bool):
        return Cache.of_user() if setting else Cache()
    return Cache(setting)


_NO_NAME = (
    "The connection string names no database. Add it (mongodb://localhost:27017/shop), or set "
    "MIGRATE_DATABASE, or hand over a database: MongoMigrate(app, client.shop)."
)


def _connect(uri: str) -> MongoClient[Any]:
    """Return a client that connects when it is first used. Raises ConfigurationError."""
    from pymongo import MongoClient  # noqa: PLC0415
    from pymongo.errors import PyMongoError  # noqa: PLC0415

    try:
        return MongoClient(uri, **_timeout(uri))
    except (PyMongoError, ValueError, OSError) as exc:
        # Never the string itself: it holds the password, and what cannot be parsed cannot be masked.
        msg = (
            f"MONGO_URI cannot be used: {redact(str(exc)).rstrip('.')}. Write it as "
            "mongodb://user:password@localhost:27017/shop, with special characters of user and "
            "password percent-encoded."
        )
        raise ConfigurationError(msg) from exc


def _close_in(pid: int, client: MongoClient[Any]) -> None:
    if os.getpid() == pid:
        client.close()


def _timeout(uri: str) -> dict[str, Any]:
    given = "serverselectiontimeoutms" in uri.lower()
    return {} if given else {"serverSelectionTimeoutMS": SELECTION_TIMEOUT_MS}


def _unwrapped(given: object) -> Any:  # noqa: ANN401
    """Return what a LocalProxy stands for: our heartbeat runs where the proxy stands for nothing."""
    from werkzeug.local import LocalProxy  # noqa: PLC0415

    return given._get_current_object() if type(given) is LocalProxy else given  # noqa: SLF001


def _parts(given: object) -> tuple[Any, Any]:
    """Return the client and the database of a PyMongo or of a client, None for what is lacking."""
    if kinds := _kinds(given):
        return given if "MongoClient" in kinds else None, None
    client, database = getattr(given, "cx", None), getattr(given, "db", None)
    return (
        client if "MongoClient" in _kinds(client) else None,
        database if "Database" in _kinds(database) else None,
    )


def _kinds(given: object) -> set[str]:
    """Return which of pymongo's classes it is, by name; mongomock's have the same names.

    Any attribute exists on these objects, which make a database or a collection of it: only types
    tell. `__class__` is what the proxies of tracing tools answer with.
    """
    return {
        kind.__name__
        for kind in given.__class__.__mro__
        if kind.__module__.partition(".")[0] in {"pymongo", "mongomock"}
    }


def _useless(given: object, *, called: bool) -> str:
    source = (
        "The callable that MongoMigrate was given returned" if called else "MongoMigrate was given"
    )
    return (
        f"{source} {_described(given)}, which holds no database. Hand over a PyMongo after its "
        "init_app(), a pymongo Database or MongoClient, a callable that returns one, or nothing "
        "and set MONGO_URI."
    )


def _described(given: object) -> str:
    return "None" if given is None else f"an object of type {type(given).__name__}"


def current() -> Assembly:
    """Return the current application's assembly. Raises ConfigurationError without init_app."""
    from flask import current_app  # noqa: PLC0415

    return of(current_app)


def of(app: Flask) -> Assembly:
    """Return an application's assembly. Raises ConfigurationError without init_app."""
    found = app.extensions.get(KEY)
    if found is None:
        msg = (
            f"Flask-Migrate-Mongo is not set up for the application {app.name!r}. Call "
            "MongoMigrate(app), or migrate.init_app(app) in your create_app()."
        )
        raise ConfigurationError(msg)
    return found  # type: ignore[no-any-return]
