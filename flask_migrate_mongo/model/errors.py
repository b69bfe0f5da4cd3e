"""Everything that can go wrong, one class a cause; each message ends with what to do next."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from .values import ErrorInfo, LockState

TRACEBACK_LIMIT = 16_000
"""Bytes of a traceback that are kept, so that a record stays far below MongoDB's 16 MB."""

_TAIL_SHARE = 3 / 4
_CUT = b"\n ... cut ...\n"
_VALUE_LIMIT = 200
_SCHEME = r"mongodb(?:\+srv)?://"
# Up to the last @: a password that should have been percent-encoded may hold any character.
_URI_CREDENTIALS = rf"(?i)({_SCHEME})(?:(?!{_SCHEME})\S)*@"
_URI_SECRETS = r"(?i)\b(tlsCertificateKeyFilePassword=|AWS_SESSION_TOKEN(?::|%3A))[^&\s,;\"']+"


class MigrateError(Exception):
    """The base of every error that this package raises on purpose."""

    code = "error"


# --- requests that make no sense


class InvalidRequestError(MigrateError):
    """A parameter is out of range or empty."""

    code = "invalid-request"


class TooManyStepsError(InvalidRequestError):
    """More is to be undone than is applied."""

    code = "too-many-steps"


# --- settings and connections


class ConfigurationError(MigrateError):
    """A setting, or what the application handed over, cannot be used."""

    code = "configuration"


class SettingError(ConfigurationError):
    """A setting has a value that is not accepted."""

    code = "bad-setting"

    def __init__(self, name: str, value: object, accepts: str) -> None:
        shown = redact(repr(value))
        if len(shown) > _VALUE_LIMIT:
            shown = f"{shown[:_VALUE_LIMIT]}..."
        super().__init__(
            f"{name} is {shown}, but it accepts {accepts}. Change it in app.config or in the environment."
        )


class NoDatabaseError(ConfigurationError):
    """Nothing says which database to migrate."""

    code = "no-database"


class NoFolderError(ConfigurationError):
    """The folder of migrations does not exist."""

    code = "no-folder"

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The migrations folder {folder} does not exist. `flask db-migrate create NAME` makes it, "
            "or set MIGRATE_DIRECTORY (relative to the application's root path) to where your migrations are."
        )


class ConnectionFailedError(MigrateError):
    """The server cannot be reached, or the connection broke."""

    code = "no-connection"


class AccessDeniedError(MigrateError):
    """The server refused the credentials, or they lack a right."""

    code = "access-denied"


class DatabaseError(MigrateError):
    """The server refused a command of ours for another reason."""

    code = "database"


class UnsupportedDriverError(MigrateError):
    """The installed pymongo lacks something that transactional steps are confined with."""

    code = "unsupported-driver"


# --- files


class SourceError(MigrateError):
    """A file in the migrations folder cannot be used."""

    code = "bad-file"

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        self.path, self.problem, self.line = path, problem, line
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}")


class SeveralSourceErrors(MigrateError):  # noqa: N818  (it is several)
    """More than one file cannot be used; all are named, so that one look mends them all."""

    code = "bad-files"

    def __init__(self, problems: Sequence[SourceError]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{len(problems)} problems in the migrations folder:\n{lines}")


class DuplicateVersionError(SourceError):
    """Two files have the same number."""

    code = "duplicate-version"

    def __init__(self, version: int, paths: Sequence[Path]) -> None:
        names = " and ".join(path.name for path in paths)
        super().__init__(
            paths[0].parent,
            f"{names} have the same number, {version}. Give the one that is not applied anywhere yet the next free number.",
        )


class ImportFailedError(SourceError):
    """A migration raised while it was imported; nothing of the plan has run."""

    code = "import-failed"


class FileChangedError(SourceError):
    """A file changed between the plan and its execution."""

    code = "file-changed"


# --- refusals


class RefusedError(MigrateError):
    """What was asked for is not done, because it could do harm."""

    code = "refused"


class NotReversibleError(RefusedError):
    """A migration has no down()."""

    code = "not-reversible"

    def __init__(self, version: int, name: str, path: Path) -> None:
        super().__init__(
            f"{version} ({name}) cannot be undone: {path.name} has no down(). Nothing was undone. "
            "Write a down() in that file, or write a new migration that puts right what this one did."
        )


class MissingFileError(RefusedError):
    """The file of an applied migration is gone, so nothing can undo it."""

    code = "missing-file"

    def __init__(self, version: int, name: str) -> None:
        super().__init__(
            f"{version} ({name}) is applied, but its file is gone. Nothing was undone. "
            "Bring the file back (from version control, or from the branch it was applied from), then try again."
        )


class DriftError(RefusedError):
    """An applied migration's file has changed since."""

    code = "drift"

    def __init__(self, version: int, name: str, path: Path) -> None:
        super().__init__(
            f"{version} ({name}) has changed since it was applied: {path.name} may no longer undo what was done. Nothing was undone. "
            "Bring back the applied version of the file, or undo with the file as it is now: `flask db-migrate down --allow-drift`."
        )


class OutOfOrderError(RefusedError):
    """A pending version is below the highest applied one, and the settings refuse that."""

    code = "out-of-order"

    def __init__(self, versions: Sequence[int], highest: int) -> None:
        listed = ", ".join(map(str, versions))
        super().__init__(
            f"Pending below the highest applied version {highest}: {listed}. Nothing was run. "
            'Give these files higher numbers, or set MIGRATE_OUT_OF_ORDER = "allow".'
        )


class TransactionsUnsupportedError(RefusedError):
    """A migration asks for a transaction that the server does not have."""

    code = "no-transactions"

    def __init__(self, versions: Sequence[int], reason: str) -> None:
        listed = ", ".join(map(str, versions))
        super().__init__(
            f"Transactional, on a server without transactions ({reason}): {listed}. Nothing was run. "
            'Use a replica set (a single node is enough), or set MIGRATE_TRANSACTIONS = "preferred" to run them without.'
        )


class InterruptedRefusedError(RefusedError):
    """A plain migration was interrupted half-way, and the settings refuse to run it again."""

    code = "interrupted"

    def __init__(self, versions: Sequence[int]) -> None:
        listed = ", ".join(map(str, versions))
        super().__init__(
            f"Interrupted half-way and not safe to repeat: {listed}. Nothing was run. Look at the data, then say what is true: "
            f"`flask db-migrate resolve {versions[0]} --applied|--not-applied --reason TEXT`."
        )


class HalfBackfilledError(RefusedError):
    """A migration's file changed after a part of its backfill was done."""

    code = "half-backfilled"

    def __init__(self, version: int, command: str) -> None:
        super().__init__(
            f"{version} changed half-way through its backfill: a part of the documents has what the file said then. Nothing was run. "
            f"Put the file back, or go on where it was with the file as it is now: `flask db-migrate {command} --allow-drift`. "
            f"Once it is safe to begin again at the first document: `flask db-migrate resolve {version} --not-applied --reason TEXT`."
        )


class NotResolvableError(RefusedError):
    """The record is not in a state that can be resolved by hand."""

    code = "not-resolvable"


class DryRunTooLongError(RefusedError):
    """A dry run is to last longer than the server lets a transaction."""

    code = "dry-run-too-long"

    def __init__(self, seconds: float, allowed: float) -> None:
        super().__init__(
            f"A dry run of {seconds:g} s is one transaction, and this server ends those after {allowed:g} s. "
            f"Make it shorter: `--dry-run-limit {allowed / 2:g}`."
        )


class ScratchTakenError(RefusedError):
    """The database that a rehearsal would use is somebody else's, or another rehearsal's."""

    code = "scratch-taken"

    def __init__(self, name: str, marker: Mapping[str, Any] | None) -> None:
        remedy = "Set MIGRATE_REHEARSAL_DATABASE to the name of a database that does not exist."
        if marker is None:
            whose = "and no rehearsal made it, so it is left as it is"
        else:
            whose = (
                f"made by a rehearsal of {marker['of']} on {marker.get('host')}, pid {marker.get('pid')}, "
                f"at {_clock(marker['createdAt'])}"
            )
            remedy = "Wait for its end; what a killed one left is removed when it is an hour old. Or set another MIGRATE_REHEARSAL_DATABASE."
        super().__init__(f"The database {name} exists already, {whose}. {remedy}")


class RehearsalUnsupportedError(RefusedError):
    """There is no server to rehearse on."""

    code = "rehearsal-unsupported"

    def __init__(self) -> None:
        super().__init__(
            "mongomock has no server to rehearse on: no indexes, options or timings are those of MongoDB. "
            "Rehearse with MONGO_URI set to a server, a small one of your own is enough."
        )


# --- the lock


class LockHeldError(MigrateError):
    """Somebody else holds the lock."""

    code = "lock-held"

    def __init__(self, lock: LockState) -> None:
        self.lock = lock
        super().__init__(
            f"The lock is held by {lock.holder} ({lock.reason}) since {_clock(lock.locked_at)}, last heartbeat {_clock(lock.heartbeat_at)}; "
            f"it ends at {_clock(lock.expires_at)} unless renewed. Wait for it with `--wait SECONDS`; "
            "if that process is dead, `flask db-migrate force-unlock --confirm`."
        )


class LeaseLostError(MigrateError):
    """A run no longer holds the lock: it starts, commits and records nothing more."""

    code = "lease-lost"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"This run lost the lock: {why}. It stopped there. Nothing more was committed or recorded. "
            "See what is applied now with `flask db-migrate status`."
        )


class NotConfirmedError(MigrateError):
    """A forced unlock was not confirmed."""

    code = "not-confirmed"

    def __init__(self, lock: LockState) -> None:
        age = int((lock.seen_at - lock.locked_at).total_seconds())
        super().__init__(
            f"Held by {lock.holder} (host {lock.host}, pid {lock.pid}) for {age} s: {lock.reason}, last heartbeat {_clock(lock.heartbeat_at)}. "
            "If that process still runs, two runs could change the data at once. If you know that it is dead: `flask db-migrate force-unlock --confirm`."
        )


class NoRunError(MigrateError):
    """No backfill is running that could be paused, resumed or cancelled."""

    code = "no-run"

    def __init__(self) -> None:
        super().__init__(
            "No backfill is running, so nothing was asked of any. See what runs with `flask db-migrate status`; "
            "SIGTERM, or Ctrl-C, stops a migration of another kind."
        )


# --- steps


class StepError(MigrateError):
    """A migration did something that its step does not allow."""

    code = "step"


class EscapesTransactionError(StepError):
    """A transactional migration tried to write outside its transaction."""

    code = "escapes-transaction"


class EscapesRehearsalError(StepError):
    """A migration tried to write outside the scratch database of its rehearsal."""

    code = "escapes-rehearsal"

    def __init__(self, what: str, home: str) -> None:
        super().__init__(
            f"The migration tried to {what}, but a rehearsal writes to {home} alone. It was not sent. Use the `db` that up() "
            "and down() are given, not a handle or a client of the application's."
        )


class TransactionAbortedError(StepError):
    """A migration caught an error that had already ended its transaction."""

    code = "transaction-aborted"


class BackfillError(StepError):
    """A backfill was asked for what it cannot do."""

    code = "bad-backfill"


class RejectedError(StepError):
    """A backfill came to a document that could not be changed."""

    code = "document-rejected"


class WorkerLostError(StepError):
    """A process that worked on a backfill died."""

    code = "worker-lost"


class OutcomeNotRecordedError(MigrateError):
    """A step ended, but its outcome could not be written to the history."""

    code = "outcome-not-recorded"


class OutcomeUnknownError(MigrateError):
    """A commit was sent and never answered, and the record could not be read either."""

    code = "outcome-unknown"


class RunStoppedError(MigrateError):
    """A signal asked the run to stop."""

    code = "stopped"


# --- the REST door


class ApiClosedError(MigrateError):
    """Nothing says who may use the API, so nobody may."""

    code = "api-closed"

    def __init__(self) -> None:
        super().__init__(
            "The API is closed until somebody may use it. Set MIGRATE_API_TOKEN, or hand over a "
            "callable: MongoMigrate(app, authorize=...). MIGRATE_API = False takes the API away."
        )


class UnauthenticatedError(MigrateError):
    """The request carries no token, or one that is not known."""

    code = "unauthenticated"

    def __init__(self, *, wrong: bool = False) -> None:
        self.wrong = wrong
        super().__init__(
            f"{'This token is not known' if wrong else 'There is no token'}. Send one of those that "
            "MIGRATE_API_TOKEN names: `Authorization: Bearer TOKEN`."
        )


class ForbiddenError(MigrateError):
    """Who asks may not do this."""

    code = "forbidden"


class CreateDisabledError(ForbiddenError):
    """Files are made through the API only where that is switched on."""

    code = "create-disabled"

    def __init__(self) -> None:
        super().__init__(
            "Files are not made through the API here. Set MIGRATE_API_CREATE = True to allow it, or "
            'type `flask db-migrate create "add user index"`.'
        )


class UnknownPathError(MigrateError):
    """There is nothing at this path."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path. openapi.json lists what there is.")


class UnknownRunError(MigrateError):
    """No run is known under this name."""

    code = "unknown-run"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"There is no run {run_id}, or it is long over. What it did is in the history of its "
            "migrations: GET history."
        )


class UnknownVersionError(MigrateError):
    """Nothing is recorded of this version."""

    code = "unknown-version"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"Nothing is recorded of {version[:_VALUE_LIMIT]!r}. The status lists what is applied and pending."
        )


class MethodNotAllowedError(MigrateError):
    """The path does not take the method."""

    code = "method-not-allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = tuple(sorted(allowed))
        super().__init__(f"This path does not take this method. Use {' or '.join(self.allowed)}.")


class BodyTooLargeError(MigrateError):
    """The body of the request is too long, or does not say how long it is."""

    code = "body-too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The body has more than {limit} bytes, or no Content-Length. Send a shorter one, not in chunks."
        )


class NotJsonError(MigrateError):
    """The body of the request is of another type than JSON."""

    code = "not-json"

    def __init__(self) -> None:
        super().__init__(
            "The body is not sent as JSON. Send the header `Content-Type: application/json`."
        )


class MigrationFailedError(MigrateError):
    """A migration failed; the report says which, and what was done before."""

    code = "migration-failed"

    def __init__(self, versions: Sequence[int], direction: str, *, dry_run: bool = False) -> None:
        listed = ", ".join(map(str, versions))
        what = (
            f"Would fail: {listed}. Nothing was changed."
            if dry_run
            else f"Failed: {listed}. What succeeded stays as it is."
        )
        super().__init__(f"{what} Mend what fails, then run {direction} again.")


class NotReadyError(MigrateError):
    """Something is pending, running or failed, so the database is not what the code expects."""

    code = "not-ready"


def redact(text: str) -> str:
    """Return the text with user names, passwords and tokens of MongoDB URIs masked."""
    # Compiled here, by `re` and once: every application imports this, and few have errors.
    return re.sub(_URI_SECRETS, r"\1***", re.sub(_URI_CREDENTIALS, r"\1***@", text))


def wording(exc: BaseException) -> str:
    """Return what an exception says, with secrets masked; its own __str__() may fail."""
    try:
        return redact(str(exc))
    except Exception as failure:  # noqa: BLE001  (what matters is the exception, not its text)
        return f"<no message: its __str__() raised {type(failure).__name__}>"


def capture(exc: BaseException) -> ErrorInfo:
    """Return the exception as it is recorded, with its causes.

    Message and traceback are bounded to TRACEBACK_LIMIT bytes each.
    """
    from .values import ErrorInfo  # noqa: PLC0415  (milliseconds that only a command need pay)

    return ErrorInfo(
        type=type(exc).__qualname__,
        message=_bounded(wording(exc)),
        traceback=_bounded(redact(_trace(exc))),
    )


def _trace(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001  (a SyntaxError of odd parts, say, cannot be formatted)
        frames = "".join(traceback.format_tb(exc.__traceback__))
        return f"{frames}{type(exc).__qualname__}: {wording(exc)}\n"


def _bounded(text: str) -> str:
    # Both ends matter: a chained traceback begins with the first cause and ends with the last.
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= TRACEBACK_LIMIT:
        return raw.decode()
    tail = int((TRACEBACK_LIMIT - len(_CUT)) * _TAIL_SHARE)
    head = TRACEBACK_LIMIT - len(_CUT) - tail
    # "ignore" drops the halves of a character that was cut in two.
    return (raw[:head] + _CUT + raw[-tail:]).decode("utf-8", "ignore")


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
