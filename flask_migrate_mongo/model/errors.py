"""The errors of the package, one class for each cause.

A class has a `code`, an `exit_code` and an `http_status`, which its class statement names or its base has, and a `title`
(of the problem document). An instance has a message, a remedy, and the facts that its readers need.
"""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .access import SHORTEST
from .documents import Report
from .masking import DEFAULT_MASK, Mask
from .values import ErrorInfo, LockState, MigrationFile, Record, Survey, Tool
from .wording import Wording, cli, render

TRACEBACK_LIMIT = 16_000
"""Bytes of a traceback that are kept, so that a record stays far below MongoDB's 16 MB."""

_VALUE_LIMIT = 200
_MOST_LISTED = 10
_DUPLICATE = " dup key:"
_CUT = b"\n ... cut ...\n"
_SCHEME = r"mongodb(?:\+srv)?://"
# Up to the last @: a password that should have been percent-encoded may hold any character.
_URI_CREDENTIALS = rf"(?i)({_SCHEME})(?:(?!{_SCHEME})\S)*@"
_URI_SECRETS = r"(?i)\b(tlsCertificateKeyFilePassword=|AWS_SESSION_TOKEN(?::|%3A))[^&\s,;\"']+"


class MigrateError(Exception):
    """The base of all errors of this package.

    `message` says what happened and what state things are in now. `remedy` says what to type next, in the neutral
    terms of `wording`.
    """

    code = "error"
    title = "An unexpected error."
    exit_code = 1
    http_status = 500
    message = ""
    remedy = ""
    report: Report | None = None
    """The report that raised it, for a command that has one."""

    def __init__(self, message: str = "", remedy: str = "") -> None:
        # Without super().__init__() `args` stay those of the constructor, so that every error can be pickled.
        self.message, self.remedy = message or self.message, remedy or self.remedy

    def __init_subclass__(cls, *, code: str = "", exit_code: int = 0, http_status: int = 0) -> None:
        super().__init_subclass__()
        cls.code = code or cls.code
        cls.exit_code = exit_code or cls.exit_code
        cls.http_status = http_status or cls.http_status

    @property
    def type_uri(self) -> str:
        """The `type` of the problem document (RFC 9457)."""
        return f"urn:flask-migrate-mongo:{self.code}"

    def explain(self, wording: Wording) -> str:
        """Render message and remedy, with commands and options in the terms of an interface."""
        return f"{self.message} {render(self.remedy, wording)}".rstrip()

    def __str__(self) -> str:
        return self.explain(cli)


# --- requests


class InvalidRequestError(MigrateError, code="invalid-request", exit_code=2, http_status=400):
    title = "A parameter is out of range, unknown or empty."


class TooManyStepsError(InvalidRequestError, code="too-many-steps", http_status=409):
    title = "Fewer migrations are applied than should be rolled back."

    def __init__(self, steps: int, applied: int) -> None:
        count = "1 migration is" if applied == 1 else f"{applied} migrations are"
        self.message = f"{steps} migrations should be rolled back, but only {count} applied. Nothing was rolled back."
        self.remedy = f"To roll back every applied migration: [steps={applied}]."


class SeveralTargetsError(InvalidRequestError, code="several-targets", http_status=409):
    title = "More than one target is given."
    message = "`to`, `steps` and `batch` exclude each other. Nothing was run."
    remedy = "Give one of them."


# --- settings and connections


class ConfigurationError(MigrateError, code="configuration", exit_code=6):
    title = "A setting, or an object from the application, cannot be used."


class NoContextError(ConfigurationError, code="no-context"):
    title = "A method was called without an application, outside of its context."
    message = "No application is active here."
    remedy = (
        "Pass it, for example `migrate.up(app)`, or call this inside `with app.app_context():`."
    )


class SettingError(ConfigurationError, code="bad-setting"):
    title = "A setting has a value that is not accepted."
    remedy = "Change it in app.config or in the environment."

    def __init__(self, name: str, value: object, accepts: str) -> None:
        self.message = f"{name} is {_shown(value)}, but it accepts {accepts}."


class NoSchemaError(ConfigurationError, code="no-schema", http_status=404):
    title = "There is no schema to compare."
    remedy = 'Set MIGRATE_SCHEMA = "shop.schema:collections" to a list of Collection, or to a function that returns it. To begin with the live database: [schema dump].'


class BadSchemaError(ConfigurationError, code="bad-schema"):
    title = "The declared schema cannot be imported or used."

    def __init__(self, path: str, problem: str) -> None:
        self.message = f"MIGRATE_SCHEMA is {path}: {problem.rstrip('.')}. Nothing was compared."
        self.remedy = "It has to be a list of Collection, or a function without parameters that returns it: docs/schema.md."


class NoDatabaseError(ConfigurationError, code="no-database"):
    title = "No setting names the database to migrate."


class NoFolderError(ConfigurationError, code="no-folder"):
    title = "The migrations folder does not exist."
    remedy = "Create it with the first migration: [create NAME]. Or set MIGRATE_DIRECTORY (relative to the application's root path) to the folder of your migrations."

    def __init__(self, folder: Path) -> None:
        self.message = f"The migrations folder {folder} does not exist."
        parts = folder.parent.parts
        roots = [n for n, part in enumerate(parts) if part in {"site-packages", "dist-packages"}]
        if roots and (package := ".".join(parts[roots[-1] + 1 :])):
            self.message += f" The installed package {package} was built without it."
            self.remedy = f'Add it to the build, then build and install the package again. With setuptools, in the section `tool.setuptools.package-data` of pyproject.toml: `"{package}" = ["{folder.name}/*.py"]`. Or set MIGRATE_DIRECTORY to the folder of your migrations.'


class ForeignFolderError(ConfigurationError, code="foreign-folder"):
    title = "The migrations folder belongs to Alembic."
    remedy = 'Choose another folder for these migrations: MIGRATE_DIRECTORY = "mongo_migrations".'

    def __init__(self, folder: Path) -> None:
        self.message = f"{folder} has an env.py and `versions` of Alembic (Flask-Migrate), so it holds the migrations of an SQL database."


class DatabaseError(MigrateError, code="database", exit_code=6, http_status=503):
    title = "The server refused a command for another reason."
    remedy = "Its log may say more. Fix the cause, then run the command again."


class ConnectionFailedError(DatabaseError, code="no-connection"):
    title = "The server cannot be reached, or the connection broke."
    remedy = "Check that the server is running and that MONGO_URI is right, or MIGRATE_MONGO_URI if it is set."


class AccessDeniedError(DatabaseError, code="access-denied"):
    title = "The server refused the credentials, or they lack a right."
    remedy = "Check user, password and authSource in MONGO_URI (or MIGRATE_MONGO_URI, if it is set), and that the user may read and write this database."


class OutputError(MigrateError, code="no-output", exit_code=6):
    title = "The result of a command could not be written."
    remedy = "Write it to another file or device. See what is applied: [status]."

    def __init__(self, cause: OSError) -> None:
        self.message = (
            f"The result could not be written: {cause.strerror}. What the command did is kept."
        )


class SchemaAccessError(AccessDeniedError, code="schema-access"):
    title = "The user lacks the right to read collections and indexes."
    remedy = "Grant it the role `read` on this database, or `readWrite`."

    def __init__(self, command: str, namespace: str) -> None:
        self.message = f"The server refused {command} of {namespace}, so it is not known which collections and indexes exist."


class ShardKeyAccessError(AccessDeniedError, code="shard-key-access"):
    title = "The user lacks the right to read shard keys."
    message = "The server refused find of config.collections, so it is not known which indexes support a shard key. Nothing was written."
    remedy = "Grant the user the role `clusterMonitor`, or `find` on config.collections."


class UnsupportedDriverError(MigrateError, code="unsupported-driver", exit_code=6):
    title = "The installed pymongo lacks a function that confines transactional steps."
    remedy = "Install a version of pymongo that docs/compatibility.md lists."


# --- files


class SourceError(MigrateError, code="bad-file", exit_code=5, http_status=409):
    title = "A file in the migrations folder cannot be used."

    def __init__(
        self, path: Path, problem: str, *, line: int | None = None, remedy: str = ""
    ) -> None:
        self.path, self.problem, self.line = path, problem, line
        self.file_name = path.name
        # A line break in it would begin a line of the output, which GitHub can take for a command.
        shown = str(path).replace("\n", "\\n").replace("\r", "\\r")
        where = f"{shown}:{line}" if line else shown
        self.message, self.remedy = f"{where}: {problem}", remedy


class SeveralErrors(MigrateError, code="bad-files", exit_code=5, http_status=409):  # noqa: N818  (it is several)
    title = "Several files in the migrations folder cannot be used."

    def __init__(self, problems: Sequence[MigrateError]) -> None:
        self.problems = tuple(problems)
        self.message = f"{len(problems)} problems in the migrations folder:"

    def explain(self, wording: Wording) -> str:
        """Name every problem, so that all can be fixed at once."""
        return "\n  ".join((self.message, *(each.explain(wording) for each in self.problems)))


class DuplicateVersionError(SourceError, code="duplicate-version"):
    title = "Two files have the same number."

    def __init__(self, version: int, paths: Sequence[Path]) -> None:
        names = " and ".join(path.name for path in paths)
        problem = f"{names} have the same number, {version}. Give the file that is not applied anywhere the next free number."
        super().__init__(paths[0].parent, problem)
        self.file_name = paths[0].name


class StaleLatestError(SourceError, code="stale-latest"):
    title = "The file .latest does not name the newest migration."

    def __init__(self, path: Path, named: str, newest: str) -> None:
        shown = repr(named[:_VALUE_LIMIT]) if named else "no file"
        problem = f"it names {shown}, and the newest migration is {newest}."
        remedy = f"If branches with new migrations were merged, give those that are applied nowhere the next free numbers: [renumber FILE]. Otherwise write {newest!r} into it."
        super().__init__(path, problem, remedy=remedy)


class ImportFailedError(SourceError, code="import-failed"):
    title = "A migration raised an exception while it was imported. Nothing of the plan has run."


class FileChangedError(SourceError, code="file-changed"):
    title = "A file changed between the plan and its execution."


# --- refusals


class RefusedError(MigrateError, code="refused", exit_code=5, http_status=409):
    title = "The request was refused because it could do harm."


class MistakenError(RefusedError, code="mistaken"):
    title = "A migration could be mistaken for another one."
    versions: tuple[int, ...] = ()
    """The numbers that are in doubt."""


class NumberTakenError(MistakenError, code="number-taken"):
    title = "The number of a file is that of another migration, which is recorded."

    def __init__(self, record: Record, file: MigrationFile) -> None:
        self.versions = (file.version,)
        self.message = f"{file.version} is recorded as {record.state} for the migration {record.slug}, and {file.file_name} is another one. Nothing was run."
        self.remedy = f"Give the file the next free number: [renumber {file.file_name}]. If it is the recorded migration after a change of its code and its name: [resolve {file.version} accept_file=True reason=TEXT]."


class RenumberedError(MistakenError, code="renumbered"):
    title = "A pending file is a migration that is recorded under another number."

    def __init__(self, record: Record, file: MigrationFile) -> None:
        self.versions = (record.version, file.version)
        self.message = f"{file.file_name} is the migration that is recorded as {record.state} under {record.version}. It would run a second time. Nothing was run."
        self.remedy = f"Let the record follow the file: [renumber {file.file_name}]. If it is another migration, rename the file; if the change has to be made again, give it another `name` or code."


class CopiedError(MistakenError, code="copied"):
    title = "Several files have the same code, so a migration would run more than once."
    remedy = "Keep one of them. If the change has to be made again, give each file its own `name`."

    def __init__(self, files: Sequence[MigrationFile]) -> None:
        self.versions = tuple(file.version for file in files)
        names = _shortened([file.file_name for file in files])
        self.message = (
            f"These are the same migration under several numbers: {names}. Nothing was run."
        )


class OverlappingSquashError(MistakenError, code="overlapping-squash"):
    title = (
        "Two squashed migrations replace the same migration, so its changes would be made twice."
    )
    remedy = (
        "Keep one of them. A squashed migration may replace everything that another one replaces."
    )

    def __init__(self, files: Sequence[MigrationFile], common: Sequence[int]) -> None:
        self.versions = tuple(file.version for file in files)
        names = " and ".join(file.file_name for file in files)
        self.message = (
            f"{names} both replace {_shortened(list(map(str, common)))}. Nothing was run."
        )


class IncompleteSquashError(MistakenError, code="incomplete-squash"):
    title = "A squashed migration replaces another one, and not everything that this one replaces."

    def __init__(self, whole: MigrationFile, part: MigrationFile, missing: Sequence[int]) -> None:
        self.versions = (whole.version, part.version)
        listed = _shortened(list(map(str, missing)))
        self.message = f"{whole.file_name} replaces the squashed {part.version}, and not everything that this one replaces: {listed}. Nothing was run."
        self.remedy = f"Add these to `replaces` in {whole.file_name}."


class PartlySquashedError(RefusedError, code="partly-squashed"):
    title = "Only some of the migrations that a squashed one replaces are applied."

    def __init__(self, file: MigrationFile, missing: Sequence[str]) -> None:
        total = len(file.replaces)
        self.versions: tuple[int, ...] = (file.version,)
        self.message = f"{file.version} ({file.name}) replaces {total} migrations, and {total - len(missing)} of them are applied. The others: {', '.join(missing)}. Nothing was run."
        self.remedy = f"Move {file.file_name} out of the folder, restore the files that it replaces, and apply them: [up]. Then put it back. If the record of one has only an earlier name: [resolve VERSION accept_file=True reason=TEXT]."


class UnwrittenError(RefusedError, code="unwritten"):
    title = "A migration is not written yet: its up() begins with `raise NotImplementedError`."
    remedy = "Write its up(), or apply only what comes before it: [up to=VERSION]."

    def __init__(self, versions: Sequence[int]) -> None:
        self.message = f"Not written yet, since up() begins with `raise NotImplementedError`: {_listed(versions)}. Nothing was run."


class OutputExistsError(RefusedError, code="output-exists"):
    title = "The file to write exists already."
    remedy = "Choose another name, or delete the file."

    def __init__(self, path: Path) -> None:
        self.message = f"{path} exists already. It was not changed."


class NotReversibleError(RefusedError, code="not-reversible"):
    title = "A migration has no down()."
    remedy = "Write a down() in that file, or write a new migration that reverses this one."

    def __init__(self, version: int, name: str, path: Path) -> None:
        self.message = f"{version} ({name}) cannot be rolled back: {path.name} has no down(), or one that only raises NotImplementedError. Nothing was rolled back."


class MissingFileError(RefusedError, code="missing-file"):
    title = "The file of an applied migration is missing, so it cannot be rolled back."
    remedy = "Restore the file (from version control, or from the branch it was applied from), then try again."

    def __init__(self, version: int, name: str) -> None:
        self.message = (
            f"{version} ({name}) is applied, but its file is missing. Nothing was rolled back."
        )


class DriftError(RefusedError, code="drift"):
    title = "The file of an applied migration has changed."

    def __init__(self, version: int, name: str, path: Path) -> None:
        self.remedy = f"Restore the applied version of the file, or roll back with the file as it is now: [down allow_drift=True]. If the change is right, accept it: [resolve {version} accept_file=True reason=TEXT]."
        self.message = f"{version} ({name}) has changed since it was applied: {path.name} may no longer reverse it. Nothing was rolled back."


class OutOfOrderError(RefusedError, code="out-of-order"):
    title = (
        "A pending version is below the highest applied one, and MIGRATE_OUT_OF_ORDER refuses that."
    )
    remedy = 'Give these files higher numbers, or set MIGRATE_OUT_OF_ORDER = "allow".'

    def __init__(self, versions: Sequence[int], highest: int) -> None:
        self.message = f"Pending below the highest applied version {highest}: {_listed(versions)}. Nothing was run."


class TransactionsUnsupportedError(RefusedError, code="no-transactions"):
    title = "A migration needs a transaction, and the server has none."
    remedy = 'Use a replica set (a single node is enough), or set MIGRATE_TRANSACTIONS = "preferred" to run them without.'

    def __init__(self, versions: Sequence[int], reason: str) -> None:
        self.message = f"These migrations need a transaction, and the server has none ({reason}): {_listed(versions)}. Nothing was run."


class InterruptedRefusedError(RefusedError, code="interrupted"):
    title = "A migration without a transaction was interrupted, and MIGRATE_INTERRUPTED refuses to run it again."

    def __init__(self, versions: Sequence[int]) -> None:
        self.message = (
            f"Interrupted half-way and not safe to repeat: {_listed(versions)}. Nothing was run."
        )
        self.remedy = f"Look at the data, then record whether the migration is applied: [resolve {versions[0]} applied=True|False reason=TEXT]."


class HalfBackfilledError(RefusedError, code="half-backfilled"):
    title = "The file of a migration changed after a part of its backfill was done."

    def __init__(self, version: int, command: str) -> None:
        self.message = f"{version} changed half-way through its backfill: the earlier version of the file has changed a part of the documents. Nothing was run."
        self.remedy = f"Restore the file, or continue with the file as it is now: [{command} allow_drift=True]. If it is safe to begin again at the first document: [resolve {version} applied=False reason=TEXT]."


class NotResolvableError(RefusedError, code="not-resolvable"):
    title = "The record is not in a state that can be resolved by hand."


class VerifyFailedError(RefusedError, code="verify-failed"):
    title = "A migration's verify() does not pass, so the migration is not recorded as applied."
    remedy = "Apply what is missing: [up]. Or record only what is true of this database: [baseline to=VERSION reason=TEXT]."

    def __init__(self, failed: Mapping[int, str]) -> None:
        lines = "; ".join(f"{version} ({why.rstrip('.')})" for version, why in failed.items())
        self.message = f"verify() fails for {lines}. Nothing was recorded."


class DryRunTooLongError(RefusedError, code="dry-run-too-long"):
    title = "The limit of a dry run is longer than the server's limit of a transaction."

    def __init__(self, seconds: float, allowed: float) -> None:
        self.message = f"A dry run of {seconds:g} s is one transaction, and this server ends transactions after {allowed:g} s."
        self.remedy = f"Set a shorter limit: [dry_run_limit={allowed / 2:g}]."


class ScratchTakenError(RefusedError, code="scratch-taken"):
    title = "The scratch database of a rehearsal exists already."

    def __init__(self, name: str, marker: Mapping[str, object] | None) -> None:
        if marker is None:
            owner = "No rehearsal created it, so it is left as it is."
            self.remedy = (
                "Set MIGRATE_REHEARSAL_DATABASE to the name of a database that does not exist."
            )
        else:
            since = marker["createdAt"]
            owner = f"A rehearsal of {marker['of']} on {marker.get('host')}, pid {marker.get('pid')}, created it at {since:%Y-%m-%d %H:%M:%S} UTC."
            self.remedy = "Wait until that rehearsal ends, or set another MIGRATE_REHEARSAL_DATABASE. A database that a killed rehearsal left is removed when it is an hour old."
        self.message = f"The database {name} exists already. {owner}"


class RehearsalUnsupportedError(RefusedError, code="rehearsal-unsupported"):
    title = "There is no server for a rehearsal."
    message = "mongomock has no server for a rehearsal: its indexes, options and timings are not those of MongoDB."
    remedy = "Set MONGO_URI to a server for the rehearsal. A small local one is enough."


# --- other tools


class ForeignDocumentError(RefusedError, code="foreign-document"):
    title = "The collection of the history holds a document that is not a record of a migration."

    def __init__(self, collection: str, document_id: object, tool: Tool | str | None) -> None:
        name = tool.value if isinstance(tool, Tool) else tool
        like = f" It looks like one of {name}." if name else ""
        self.message = f"The collection {collection} holds a document that is not a record of a migration: _id {_shown(document_id)}.{like} Nothing was changed."
        self.remedy = (
            'Keep the history in another collection: MIGRATE_COLLECTION = "flask_migrations".'
        )
        if isinstance(tool, Tool):
            self.remedy += f" Then record what {name} has applied: [import-history from={name} collection={collection}]."
        elif tool:
            self.remedy += f" `import-history` cannot read what {name} records. Record what is applied: [baseline to=VERSION reason=TEXT]."
        else:
            names = ", ".join(each.value for each in Tool)
            self.remedy += f" If the document is of one of {names}, then record what that tool has applied: [import-history from=TOOL collection={collection}]."


class NotImportableError(RefusedError, code="not-importable"):
    title = "A collection is not the history of the tool whose history should be imported."


class NotMappedError(RefusedError, code="not-mapped"):
    title = "Entries of another tool's history cannot be mapped to files."

    def __init__(self, tool: Tool, collection: str, unmapped: Mapping[str, str]) -> None:
        self.unmapped = dict(unmapped)
        many = len(unmapped) > 1
        count = f"{len(unmapped)} entries" if many else "1 entry"
        self.message = (
            f"{count} of {collection} cannot be mapped to a file here. Nothing was recorded."
        )
        self.remedy = f"Write a line `NAME = VERSION` for each into a file, or `NAME = ignore` if it has no file here, then: [import-history from={tool.value} collection={collection} map=FILE confirm=True]."

    def explain(self, wording: Wording) -> str:
        """List every entry, so that all can be mapped at once."""
        lines = (f"  {name}: {note}" for name, note in self.unmapped.items())
        return "\n".join((self.message, *lines, render(self.remedy, wording)))


# --- the lock


class LockHeldError(MigrateError, code="lock-held", exit_code=3, http_status=409):
    title = "Another process holds the lock."
    remedy = "Wait for it: [wait=SECONDS]. If that process is dead: [force-unlock confirm=True]."

    def __init__(self, lock: LockState, *, waited: float = 0) -> None:
        self.lock, self.waited = lock, waited
        holds = f"{lock.holder} ({lock.reason}) holds the lock since {_clock(lock.locked_at)}, last heartbeat {_clock(lock.heartbeat_at)}. The lock expires at {_clock(lock.expires_at)} unless it is renewed."
        self.message = f"Waited {waited:g} s for the lock. {holds}" if waited > 0 else holds


class TooManyRunsError(MigrateError, code="too-many-runs", exit_code=3, http_status=429):
    title = "Other asynchronous runs of these migrations have not ended."
    remedy = "Wait until they end, or cancel one: `POST runs/ID/cancel`. To let one more run wait for the lock: [wait=SECONDS]."

    def __init__(self, run_ids: Sequence[str]) -> None:
        names = ", ".join(run_ids)
        self.message = f"Asynchronous runs that have not ended: {names}. At most one works and one waits, beside two dry runs. Nothing was run."


class LeaseLostError(MigrateError, code="lease-lost", exit_code=3, http_status=409):
    title = "A run lost the lock. It starts, commits and records nothing more."
    remedy = "See what is applied now: [status]."

    def __init__(self, why: str) -> None:
        self.message = (
            f"This run lost the lock: {why}. It stopped, and committed and recorded nothing more."
        )


class NotConfirmedError(InvalidRequestError, code="not-confirmed", http_status=409):
    title = "A forced release of the lock was not confirmed."
    remedy = "If you know that it is dead: [force-unlock confirm=True]."

    def __init__(self, lock: LockState) -> None:
        self.lock = lock
        age = int((lock.seen_at - lock.locked_at).total_seconds())
        self.message = f"{lock.holder} (host {lock.host}, pid {lock.pid}) holds the lock for {age} s: {lock.reason}, last heartbeat {_clock(lock.heartbeat_at)}. If that process still runs, two runs could change the data at once. Nothing was released."


class NoRunError(MigrateError, code="no-run", exit_code=5, http_status=409):
    title = "No backfill is running that could be paused, resumed or cancelled."
    message = "No backfill is running, so no request was sent."
    remedy = (
        "See what is running: [status]. SIGTERM, or Ctrl-C, stops a migration without a backfill."
    )


# --- steps


class StepError(MigrateError, code="step"):
    title = "A migration did something that its step does not allow."


class EscapesTransactionError(StepError, code="escapes-transaction"):
    title = "A transactional migration tried to write outside its transaction."
    remedy = "Its writes would not be part of the transaction, and would stay after a rollback. Remove this, or delete `transactional = True` if the migration needs no transaction."


class EscapesRehearsalError(StepError, code="escapes-rehearsal"):
    title = "A migration tried to write outside the scratch database of its rehearsal."
    remedy = (
        "Use the `db` that up() and down() receive, not a handle or a client of the application."
    )

    def __init__(self, what: str, home: str) -> None:
        self.message = f"The migration tried to {what}, but a rehearsal writes to {home} alone. The command was not sent."


class EscapesTestError(StepError, code="escapes-test"):
    title = "A migration that a test runs used another database than that of the test."
    remedy = "Use the `db` that up() and down() receive. docs/testing.md says which handles of the application lead to the database of the test."

    def __init__(self, what: str) -> None:
        self.message = (
            f"A test tried to {what}, which is not its database. The command was not sent."
        )


class TransactionAbortedError(StepError, code="transaction-aborted"):
    title = "A migration caught an error inside its transaction."


class TransactionTooLargeError(StepError, code="transaction-too-large"):
    title = "A transactional migration is too long or too large for one transaction."
    remedy = (
        "Delete `transactional = True`, and change the documents in batches with `ctx.backfill()`."
    )

    def __init__(self, limit: str) -> None:
        self.message = f"The transaction cannot succeed: {limit}. It was rolled back, so nothing of this step is kept."


class BackfillError(StepError, code="bad-backfill"):
    title = "A backfill has options that it cannot use."


class RejectedError(StepError, code="document-rejected"):
    title = "A backfill reached a document that could not be changed."


class DefinitionError(StepError, code="bad-definition"):
    title = "An index or a validator cannot be defined as the migration says."


class WorkerLostError(StepError, code="worker-lost"):
    title = "A worker process of a backfill died."


class OutcomeNotRecordedError(MigrateError, code="outcome-not-recorded"):
    title = "A step ended, but its outcome could not be recorded in the history."


class OutcomeUnknownError(MigrateError, code="outcome-unknown"):
    title = "The server did not reply to a commit, and the record could not be read."
    message = "The commit was sent, but the server did not reply whether it took effect. Data and record agree either way."
    remedy = "Once the server answers, see whether the migration is applied: [status]."


class RunStoppedError(MigrateError, code="stopped"):
    title = "A signal stopped the run."


class MigrationFailedError(MigrateError, code="migration-failed"):
    title = "A migration failed. The report says which one, and what was done before."

    def __init__(self, versions: Sequence[int], direction: str, *, dry_run: bool = False) -> None:
        self.versions = tuple(versions)
        self.message = f"Failed: {_listed(versions)}. The steps that succeeded are kept."
        if dry_run:
            self.message = f"Would fail: {_listed(versions)}. Nothing was changed."
        self.remedy = f"Fix the cause, then run [{direction}] again."


class RehearsalFailedError(MigrateError, code="rehearsal-failed"):
    title = "A rehearsal found a problem. The report says which one."
    remedy = "Fix it, then rehearse again: [rehearse]."

    def __init__(self, versions: Sequence[int]) -> None:
        self.versions = tuple(versions)
        self.message = (
            f"Not fit to run: {_listed(versions)}. Only the scratch database was changed."
        )


class CheckFailedError(MigrateError, code="check-failed", exit_code=4, http_status=409):
    title = "A check, lint or a dry run found a problem. The report says which one."

    def __init__(self, what: str, problems: Sequence[str] = ()) -> None:
        self.message = "\n  ".join((what, *problems[:_MOST_LISTED]))
        if len(problems) > _MOST_LISTED:
            self.message += f"\n  and {len(problems) - _MOST_LISTED} more"


class NotReadyError(MigrateError, code="not-ready", http_status=503):
    title = (
        "Migrations are pending, running or failed, so the database is not what the code expects."
    )

    def __init__(self, survey: Survey | None = None, startup_failure: str | None = None) -> None:
        self.message = "Not ready."
        self.remedy = "Send a token with the scope `read` to see why."
        if survey is not None:
            states = {"pending": survey.pending, "running": survey.running, "failed": survey.failed}
            waiting = ", ".join(f"{len(found)} {state}" for state, found in states.items() if found)
            self.message = f"Not ready: {waiting}."
            self.remedy = "Apply what is pending: [up]."
        if startup_failure:
            self.message += f" The start-up failed: {startup_failure.rstrip('.')}."


# --- the REST API


class ApiClosedError(MigrateError, code="api-closed", exit_code=2, http_status=403):
    title = "No API access rules are configured."
    message = "The API is closed: no access rules are configured."
    remedy = f"Set MIGRATE_API_TOKEN to a token of at least {SHORTEST} characters, and send it in the header `Authorization: Bearer TOKEN`. Or pass a callable: MongoMigrate(app, authorize=...). MIGRATE_API = False removes the API."


class UnauthenticatedError(MigrateError, code="unauthenticated", exit_code=2, http_status=401):
    title = "The request has no token, or an unknown one."
    remedy = "Send a token that MIGRATE_API_TOKEN names: `Authorization: Bearer TOKEN`."

    def __init__(self, *, wrong: bool = False) -> None:
        self.wrong = wrong
        self.message = "The token is unknown." if wrong else "The request has no token."


class ForbiddenError(MigrateError, code="forbidden", exit_code=2, http_status=403):
    title = "The caller may not do this."


class CreateDisabledError(ForbiddenError, code="create-disabled"):
    title = "The API does not create files unless MIGRATE_API_CREATE allows it."
    message = "This API does not create files."
    remedy = 'Set MIGRATE_API_CREATE = True to allow it, or run [create "add user index"].'


class UnknownPathError(InvalidRequestError, code="not-found", http_status=404):
    title = "The path does not exist."
    message = "This path does not exist."
    remedy = "openapi.json lists the paths."


class UnknownRunError(InvalidRequestError, code="unknown-run", http_status=404):
    title = "No run has this name."
    remedy = "The history of the migrations keeps what a run did: [history]."

    def __init__(self, run_id: str) -> None:
        self.message = f"There is no run {run_id[:_VALUE_LIMIT]!r}, or its document has expired."


class TooManyStreamsError(InvalidRequestError, code="too-many-streams", http_status=429):
    title = "This process of the web server has as many streams of events as it may have."
    remedy = "Ask for the run itself instead, or try again when a stream has ended."

    def __init__(self, most: int, seconds: int) -> None:
        self.seconds = seconds
        self.message = f"{most} streams are open, each for at most {seconds} seconds."


class UnknownVersionError(InvalidRequestError, code="unknown-version", http_status=404):
    title = "No migration has this version."
    remedy = "See the versions: [status]."

    def __init__(self, version: str) -> None:
        self.message = f"No migration has the number or the name {version[:_VALUE_LIMIT]!r}. Nothing was changed."


class AmbiguousVersionError(InvalidRequestError, code="ambiguous-version", http_status=409):
    title = "Several migrations have a number that begins like this, or this name."
    remedy = "Give the whole number."

    def __init__(self, version: str, found: Sequence[int]) -> None:
        shown = _shortened(list(map(str, found)))
        self.message = f"{version[:_VALUE_LIMIT]!r} means {len(found)} migrations: {shown}. Nothing was changed."


class MethodNotAllowedError(InvalidRequestError, code="method-not-allowed", http_status=405):
    title = "The path does not support the method."

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        self.message = "This path does not support this method."
        self.remedy = f"Use {' or '.join(self.allowed)}."


class BodyTooLargeError(InvalidRequestError, code="body-too-large", http_status=413):
    title = "The body of the request is too long, or its length is not given."
    remedy = "Send a shorter body, not in chunks."

    def __init__(self, limit: int) -> None:
        self.message = f"The body has more than {limit} bytes, or no Content-Length."


class NotJsonError(InvalidRequestError, code="not-json", http_status=415):
    title = "The body of the request is not declared as JSON."
    message = "The body is not declared as JSON."
    remedy = "Send the header `Content-Type: application/json`."


# --- exceptions of other code


def as_migrate_error(exc: BaseException) -> MigrateError:
    """Wrap an exception of other code, with its secrets masked."""
    return exc if isinstance(exc, MigrateError) else MigrateError(message_of(exc))


def redact(text: str) -> str:
    """Mask user names, passwords and tokens of MongoDB URIs."""
    # `re` compiles these once, when they are first used: every application imports this module, and few have errors.
    return re.sub(_URI_SECRETS, r"\1***", re.sub(_URI_CREDENTIALS, r"\1***@", text))


def message_of(exc: BaseException, mask: Mask = DEFAULT_MASK) -> str:
    """Read the text of an exception, with secrets masked; its own __str__() may fail.

    Of an error of the driver it is what the server replied, without the documents that the driver adds.
    """
    try:
        details = getattr(exc, "details", None)
        text = _reply_text(details, mask) if isinstance(details, Mapping) else ""
        return redact(mask.text(text or str(exc)))
    except Exception as failure:  # noqa: BLE001  (the exception matters, not its text)
        return f"<no message: its __str__() raised {type(failure).__name__}>"


def capture(exc: BaseException, mask: Mask = DEFAULT_MASK) -> ErrorInfo:
    """Convert an exception and its causes to what is recorded: texts of at most TRACEBACK_LIMIT bytes."""
    return ErrorInfo(
        type=type(exc).__qualname__,
        message=_bounded(message_of(exc, mask)),
        traceback=_bounded(_trace(exc, mask)),
    )


def server_text(failure: Mapping[str, object], mask: Mask) -> str:
    """Read the server's text for one refused command or write, with the duplicate key of an index masked."""
    text, key = str(failure.get("errmsg") or ""), failure.get("keyValue")
    if isinstance(key, Mapping) and (shown := mask.document(key)) != key:
        # By its parts, since the server does not escape quotes in its text.
        text = f"{text.partition(_DUPLICATE)[0]}{_DUPLICATE} {shown}"
    return redact(mask.text(text))


def _reply_text(reply: Mapping[str, Any], mask: Mask) -> str:
    failed = (*(reply.get("writeErrors") or ()), *(reply.get("writeConcernErrors") or ()))
    if not failed:
        return server_text(reply, mask)
    shown = "; ".join(map(_write_text, failed[:_MOST_LISTED]))
    left = len(failed) - _MOST_LISTED
    more = f"; and {left} more" if left > 0 else ""
    return f"{len(failed)} of the writes failed: {shown}{more}"


def _write_text(failure: Mapping[str, object]) -> str:
    """Describe one failed write of several by its index, its code, and the server's text without values."""
    text = str(failure.get("errmsg")).partition(_DUPLICATE)[0]
    text = re.sub(r'(?s)\{.*\}|"[^"]*"', "...", text)
    facts = [f"code {failure.get('code')}"]
    if isinstance(pattern := failure.get("keyPattern"), Mapping):
        facts.append(f"key {', '.join(pattern)}")
    index = failure.get("index", failure.get("idx"))
    return f"{'' if index is None else f'index {index}: '}{text} ({', '.join(facts)})"


def _shown(value: object) -> str:
    text = redact(repr(value))
    return text if len(text) <= _VALUE_LIMIT else f"{text[:_VALUE_LIMIT]}..."


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions))


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_LISTED])
    left = len(names) - _MOST_LISTED
    return f"{shown} and {left} more" if left > 0 else shown


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _trace(exc: BaseException, mask: Mask) -> str:
    try:
        text = "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001  (a SyntaxError of odd parts, say, cannot be formatted)
        frames = "".join(traceback.format_tb(exc.__traceback__))
        text = f"{frames}{type(exc).__qualname__}: {message_of(exc, mask)}\n"
    for each in _chain(exc):
        with contextlib.suppress(Exception):  # Its __str__() may fail.
            if own := str(each):
                text = text.replace(own, message_of(each, mask))
    return redact(mask.text(text))


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and all that led to it or are grouped in it."""
    waiting: list[object] = [exc]
    seen = set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            grouped = getattr(
                each, "exceptions", ()
            )  # Of an ExceptionGroup, which Python 3.10 lacks.
            waiting += (
                each.__cause__,
                each.__context__,
                *(grouped if type(grouped) is tuple else ()),
            )
            yield each


def _bounded(text: str) -> str:
    # Both ends matter: a chained traceback begins with the first cause and ends with the last.
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= TRACEBACK_LIMIT:
        return raw.decode()
    tail = int((TRACEBACK_LIMIT - len(_CUT)) * 3 / 4)
    head = TRACEBACK_LIMIT - len(_CUT) - tail
    # "ignore" drops the halves of a character that was cut in two.
    return (raw[:head] + _CUT + raw[-tail:]).decode("utf-8", "ignore")
