"""Frozen values that the folders share."""

from __future__ import annotations

import os
import platform
import re
import unicodedata
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from .documents import Report
from .wording import camel_case


class Status(str, Enum):
    """The state of a migration in its record; the values are those stored."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"

    @classmethod
    def named(cls, word: str) -> Status:
        """Find a state by the word that people read, or by the stored one. Raises ValueError."""
        return cls.COMPLETED if word == APPLIED else cls(word)

    @property
    def word(self) -> str:
        """The word that people read: applied for a stored `completed`."""
        return APPLIED if self is Status.COMPLETED else self.value


APPLIED = "applied"
"""The word for a migration that is stored as completed."""

_NOTHING_LEFT = frozenset({Status.PENDING, Status.ROLLED_BACK})


class Direction(str, Enum):
    """Which of a migration's two functions a step calls."""

    UP = "up"
    DOWN = "down"


class Request(str, Enum):
    """What can be asked of a backfill while it runs; the values are those stored."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"

    @property
    def event(self) -> str:
        """Its name in the event log."""
        return {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}[self.value]


class Origin(str, Enum):
    """How a migration came to be recorded as applied; the values are those stored."""

    RUN = "run"
    BASELINE = "baseline"
    RESOLVED = "resolved"
    SQUASHED = "squashed"
    IMPORTED = "imported"


class Tool(str, Enum):
    """A migration tool whose history can be imported, by the name of its package."""

    MIGRATE_MONGO = "migrate-mongo"
    PYMONGO_MIGRATE = "pymongo-migrate"
    MONGODB_MIGRATIONS = "mongodb-migrations"
    MONGOMIG = "mongomig"
    MONGRATE = "mongrate"


@dataclass(frozen=True, slots=True)
class Suppression:
    """A comment that suppresses a finding of lint, with its reason."""

    code: str
    reason: str
    line: int


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """A migration as its file describes it, read from the syntax tree alone.

    `checksum` is of the content, `digest` of what the code does; that is None for an applied file that was not parsed.
    `verifiable` says that there is a verify(). Without `written`, up() begins with `raise NotImplementedError`.
    A down() that only raises it counts as none. `replaces` are the versions of those that a squashed migration consists of,
    and `part_slugs` their slugs, in the same order, as far as the file says them.
    """

    folder: Path
    file_name: str
    version: int
    name: str
    description: str
    transactional: bool
    idempotent: bool
    reversible: bool
    checksum: str
    suppressions: tuple[Suppression, ...] = ()
    digest: str | None = None
    slug: str = ""
    verifiable: bool = False
    replaces: tuple[int, ...] = ()
    part_slugs: tuple[str, ...] = ()
    written: bool = True

    @property
    def parts(self) -> Mapping[int, str]:
        """The versions that it replaces, each with its slug; empty if the file does not say it."""
        named = zip(self.replaces, self.part_slugs, strict=False)
        return dict.fromkeys(self.replaces, "") | dict(named)

    @property
    def path(self) -> Path:
        """Where it is; joined when asked for, since of thousands that are listed few are opened."""
        return self.folder / self.file_name

    @property
    def safe_to_repeat(self) -> bool:
        """Whether running it again after an interruption can do no harm."""
        return self.transactional or self.idempotent

    @property
    def place(self) -> int:
        """Its place in the order of versions: a squashed migration has that of the last one that it replaces."""
        return max(self.replaces, default=self.version)


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception as it is recorded: bounded, with the secrets of URIs masked."""

    type: str
    message: str
    traceback: str | None = None

    @classmethod
    def read(cls, stored: object) -> ErrorInfo | None:
        """Read an error as it is stored; another tool's record may hold a plain text."""
        if not stored:
            return None
        if not isinstance(stored, Mapping):
            return cls("Error", str(stored))
        kind, message = str(stored.get("type") or "Error"), str(stored.get("message") or "")
        return cls(kind, message, stored.get("traceback"))


class RangeState(str, Enum):
    """How far one range of a backfill with workers is; the values are those stored."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RangeProgress:
    """How many documents of one range are done. Each range is the work of one worker."""

    done: int
    state: RangeState

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> RangeProgress:
        """Read the progress of a range as a record keeps it."""
        return cls(stored["done"], RangeState(stored["state"]))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is; `total` is an estimate, and None when there is none.

    `rates` are the documents a second of the last minute, the oldest first. At the slower and the faster ones of them, what
    is left takes up to `most_seconds_left`, and at least `least_seconds_left`.
    """

    collection: str
    done: int
    total: int | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    least_seconds_left: float | None = None
    most_seconds_left: float | None = None
    paused: bool = False
    rates: tuple[float, ...] = ()
    ranges: tuple[RangeProgress, ...] = ()

    def __str__(self) -> str:
        total = "" if self.total is None else f" of about {self.total:,}"
        rate = "" if self.per_second is None else f", {self.per_second:,.0f} a second"
        left = "" if self.seconds_left is None else f", {_clock(self.seconds_left)} left"
        paused = ", paused" if self.paused else ""
        return f"{self.collection}: {self.done:,}{total}{rate}{left}{paused}"

    def document(self) -> dict[str, object]:
        """Build the stored document."""
        stored = {camel_case(name): value for name, value in asdict(self).items()}
        ranges = [{"done": each.done, "state": each.state.value} for each in self.ranges]
        return {**stored, "rates": list(self.rates), "ranges": ranges}

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Progress | None:
        """Read the progress as a record keeps it."""
        if not stored:
            return None
        known: dict[str, Any] = {f.name: stored.get(camel_case(f.name)) for f in fields(cls)}
        ranges = tuple(map(RangeProgress.read, known["ranges"] or ()))
        rates = tuple(known["rates"] or ())
        return cls(**{**known, "paused": bool(known["paused"]), "rates": rates, "ranges": ranges})


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class Column:
    """How one field of a record is stored and shown.

    `path` is its place in the stored document. `read` makes the value of what is stored there; without it the stored
    value is the value. Where nothing is stored, the value is the field's default. `shown` is the key in JSON, None for
    what stays inside. `heading` is the column of `history`, None for none. With `in_status`, the JSON of `status` shows
    it for applied migrations; with `in_table`, its table does.
    """

    path: str
    read: Callable[[Any], object] | None = None
    shown: str | None = None
    heading: str | None = None
    in_status: bool = False
    in_table: bool = False


def _batch(stored: object) -> float | None:
    return _number(stored) or None  # another tool may store 0


def name_key(name: str) -> str:
    """Convert a name to the form in which names are compared; one without letters and digits stays as it is."""
    words = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", name).casefold())
    return words.strip("_") or name


# What another tool stores under our names can be of any type. It is refused here, not where it is used.


def _version(stored: str) -> int:
    # A text: numbers in the database are too small for some versions, and our conditions would not find them.
    if not isinstance(stored, str):
        raise TypeError(stored)
    return int(stored)


def _versions(stored: Iterable[str]) -> tuple[int, ...]:
    return tuple(map(_version, stored))


def _number(stored: object) -> float:
    if not isinstance(stored, int | float):
        raise TypeError(stored)
    return stored


def _time(stored: object) -> datetime:
    if not isinstance(stored, datetime):
        raise TypeError(stored)
    return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One version's entry in the history, and the table of its fields: where stored, how read and shown."""

    version: Annotated[int, Column("version", _version, "version", "Version")]
    name: Annotated[str, Column("name", str, "name", "Name")] = ""
    description: Annotated[str, Column("description", str, "description")] = ""
    status: Annotated[Status, Column("status", Status, "status", "Status")]
    applied_at: Annotated[
        datetime | None,
        Column("appliedAt", _time, "appliedAt", "Applied at (UTC)", in_status=True, in_table=True),
    ] = None
    rolled_back_at: Annotated[
        datetime | None, Column("rolledBackAt", _time, "rolledBackAt", "Rolled back at (UTC)")
    ] = None
    execution_ms: Annotated[
        int | None,
        Column("executionTime", _number, "executionTime", "Took", in_status=True, in_table=True),
    ] = None
    error: Annotated[ErrorInfo | None, Column("metadata.failure", ErrorInfo.read, "error")] = None
    reversible: Annotated[bool, Column("reversible", bool, "reversible")] = False
    batch: Annotated[int | None, Column("batch", _batch, "batch", "Batch", in_status=True)] = None
    updated_at: Annotated[datetime | None, Column("updatedAt", _time, "updatedAt")] = None
    direction: Annotated[Direction, Column("metadata.direction", Direction)] = Direction.UP
    position: Annotated[int | None, Column("metadata.position", _number)] = None
    origin: Annotated[Origin, Column("metadata.origin", Origin, "origin", in_status=True)] = (
        Origin.RUN
    )
    verified: Annotated[
        bool | None, Column("metadata.verified", bool, "verified", in_status=True)
    ] = None
    down_failed: Annotated[
        bool, Column("metadata.downFailed", bool, "downFailed", in_status=True)
    ] = False
    checksum: Annotated[str | None, Column("metadata.checksum")] = None
    digest: Annotated[str | None, Column("metadata.digest")] = None
    slug: Annotated[str | None, Column("metadata.slug")] = None
    replaces: Annotated[tuple[int, ...], Column("metadata.replaces", _versions)] = ()
    replaced_by: Annotated[int | None, Column("metadata.replacedBy", _version)] = None
    forgotten: Annotated[bool, Column("metadata.forgotten", bool)] = False
    run_id: Annotated[str | None, Column("metadata.runId")] = None
    fence: Annotated[int | None, Column("metadata.fence", _number)] = None
    interrupted: Annotated[bool, Column("metadata.interrupted", bool)] = False
    holder: Annotated[str | None, Column("metadata.holder")] = None
    app_version: Annotated[str | None, Column("metadata.appVersion")] = None
    started_at: Annotated[datetime | None, Column("metadata.startedAt", _time)] = None
    session: Annotated[bytes | None, Column("metadata.session")] = None
    backfill_session: Annotated[bytes | None, Column("metadata.backfillSession")] = None
    backfilled_by: Annotated[str | None, Column("metadata.checkpoint.checksum")] = None
    progress: Annotated[Progress | None, Column("metadata.progress", Progress.read)] = None

    @property
    def is_applied(self) -> bool:
        """Whether up() is in effect: a down() that is running or failed has not rolled it back.

        A migration that a squashed one replaced counts as a part of that.
        """
        undoing = self.status is Status.RUNNING and self.direction is Direction.DOWN
        return self.replaced_by is None and (self.status is Status.COMPLETED or undoing)

    @property
    def state(self) -> str:
        """The state in the words of `status`: what is stored as completed is applied."""
        return APPLIED if self.is_applied else self.status.value

    @property
    def is_open(self) -> bool:
        """Whether the migration has left something in the database, or may have: it is not pending."""
        return self.replaced_by is None and self.status not in _NOTHING_LEFT

    def is_unchanged(self, file: MigrationFile) -> bool:
        """Whether the file is as it was applied; comments, quotes and layout make no difference.

        Also True for the record of another tool, which says nothing about the file.
        """
        if self.checksum is None and self.digest is None:
            return True
        has_digest = self.digest is not None and self.digest == file.digest
        return has_digest or self.checksum == file.checksum

    def is_of_another(self, file: MigrationFile) -> bool:
        """Whether file and record have the same number, and are two migrations."""
        return not self.is_unchanged(file) and self.has_another_slug(file.slug)

    def has_another_slug(self, slug: str | None) -> bool:
        """Whether the record has another slug than this one; False if one of them is not known."""
        return bool(self.slug and slug) and name_key(self.slug or "") != name_key(slug or "")

    def is_certainly(self, file: MigrationFile) -> bool:
        """Whether the record can only be of this file, and of no other one with the same number."""
        if self.checksum is not None or self.digest is not None:
            return self.is_unchanged(file)
        return name_key(self.slug or self.name) in map(name_key, (file.slug, file.name))

    @property
    def place(self) -> int:
        """Its place in the order of versions: a squashed migration has that of the last one that it replaces."""
        return max(self.replaces, default=self.version)

    @property
    def order(self) -> tuple[int, int, float, int]:
        """When it was applied, as a key: within a batch by position, since clocks can tie or step back."""
        applied = self.applied_at.timestamp() if self.applied_at else 0.0
        return (self.batch or 0, self.position or 0, applied, self.version)


COLUMNS: Mapping[str, Column] = {
    name: get_args(hint)[1] for name, hint in get_type_hints(Record, include_extras=True).items()
}
"""The columns of a record's fields, by the field's name."""


@dataclass(frozen=True)
class History:
    """All records at one moment.

    `unmarked` are squashed migrations, each with those of its parts that are marked as replaced here and not yet in
    the database.
    """

    records: tuple[Record, ...] = ()
    unmarked: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @cached_property
    def by_version(self) -> Mapping[int, Record]:
        """The records, found by their version."""
        return {record.version: record for record in self.records}

    @property
    def kept(self) -> tuple[Record, ...]:
        """The records that are not forgotten."""
        return tuple(record for record in self.records if not record.forgotten)

    @cached_property
    def applied(self) -> tuple[Record, ...]:
        """What is applied, in the order of application."""
        return tuple(sorted((r for r in self.records if r.is_applied), key=lambda r: r.order))

    @cached_property
    def replaced(self) -> Mapping[int, int]:
        """The versions that count as parts of a recorded squashed migration, each with that."""
        found: dict[int, int] = {}
        for record in self.records:
            owner = self._owner(record)
            if owner is None or not owner.is_open:
                continue
            # Also those without a record: on a new database a squashed migration ran instead of them.
            found |= {part: owner.version for part in record.replaces if part not in found}
            if owner is not record:
                found[record.version] = owner.version
        return found

    def _owner(self, record: Record) -> Record | None:
        """Find the squashed migration at the end of those that replace a record, or the record itself."""
        owner: Record | None = record
        for _ in self.records:
            if owner is None or owner.replaced_by is None:
                break
            owner = self.by_version.get(owner.replaced_by)
        return owner

    @cached_property
    def highest_applied(self) -> int:
        """The highest place of an applied version, 0 when there is none."""
        return max((record.place for record in self.applied), default=0)

    @property
    def running(self) -> tuple[Record, ...]:
        """Records of steps that are running."""
        return tuple(r for r in self.records if r.status is Status.RUNNING)

    @property
    def next_batch(self) -> int:
        """The number of the batch that the next `up` applies."""
        return max((record.batch or 0 for record in self.records), default=0) + 1

    @property
    def fence(self) -> int:
        """The highest fence that any record was claimed under."""
        return max((record.fence or 0 for record in self.records), default=0)

    @cached_property
    def _by_content(self) -> Mapping[str | None, Sequence[Record]]:
        """The records of what is in the database, found by what their files did."""
        found: defaultdict[str | None, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.is_open or record.version in self.replaced:
                for key in (record.digest, record.checksum):
                    found[key].append(record)
        return found

    @cached_property
    def _by_name(self) -> Mapping[str, Sequence[Record]]:
        found: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.slug and record.is_open:
                found[name_key(record.slug)].append(record)
        return found

    def elsewhere(self, file: MigrationFile, present: Collection[int] = ()) -> Record | None:
        """Find the record of what a file does under another number than the file's.

        With the versions that are `present`, also by the name of the file, among those that are not.
        """
        keys = filter(None, (file.digest, file.checksum))
        found = (record for key in keys for record in self._by_content.get(key, ()))
        other = next((record for record in found if record.version != file.version), None)
        if other is not None or not present or file.replaces:
            return other
        named = self._by_name.get(name_key(file.slug), ())
        return next((record for record in named if record.version not in present), None)

    def is_applied(self, version: int) -> bool:
        """Whether this version is applied."""
        record = self.by_version.get(version)
        return record is not None and record.is_applied


@dataclass(frozen=True, slots=True)
class Step:
    """One migration of a plan.

    `redone` says that the step before rolled it back. `adopts` are the records of what a squashed migration replaces,
    if all of it is applied: then the squashed one is recorded as applied, in their place, and does not run.
    """

    file: MigrationFile
    direction: Direction
    out_of_order: bool = False
    interrupted: bool = False
    redone: bool = False
    adopts: tuple[Record, ...] = ()

    @property
    def version(self) -> int:
        """The version that this step applies or rolls back."""
        return self.file.version


@dataclass(frozen=True, slots=True)
class Plan:
    """What would run, in this order, and what the reader should know before it does."""

    direction: Direction
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A version as `status` shows it: its file, its record, or both.

    `replaced_by` is the squashed migration that replaces it, and that is not recorded yet. `broken` says that its file
    cannot be used.
    """

    version: int
    file: MigrationFile | None
    record: Record | None
    drifted: bool = False
    out_of_order: bool = False
    replaced_by: int | None = None
    broken: bool = False

    @property
    def name(self) -> str:
        """The name in the file, or, when that is gone, the one that was recorded."""
        known = self.file or self.record
        return known.name if known else ""

    @property
    def status(self) -> Status:
        """What is recorded; `pending` if nothing is left of it."""
        return self.record.status if self.record and self.record.is_open else Status.PENDING

    @property
    def missing(self) -> bool:
        """Whether it is recorded while its file is gone, and no squashed migration replaces it."""
        return self.file is None and self.replaced_by is None and not self.broken

    @property
    def reversible(self) -> bool:
        """Whether down() exists: as the file says, or, when that is gone, as it was recorded."""
        known = self.file or self.record
        return known is not None and known.reversible


@dataclass(frozen=True, slots=True)
class Survey:
    """Every known version, sorted into what is applied, pending, failed and running."""

    applied: tuple[Entry, ...]
    pending: tuple[Entry, ...]
    failed: tuple[Entry, ...]
    running: tuple[Entry, ...]

    @property
    def drifted(self) -> tuple[Entry, ...]:
        """Applied, and the file has changed since."""
        return tuple(entry for entry in self.applied if entry.drifted)

    @property
    def missing(self) -> tuple[Entry, ...]:
        """Applied, and the file is gone."""
        return tuple(entry for entry in self.applied if entry.missing)

    @property
    def out_of_order(self) -> tuple[Entry, ...]:
        """Not applied, and below the highest version that is."""
        return tuple(e for e in (*self.pending, *self.failed) if e.out_of_order)

    @property
    def total(self) -> int:
        """How many versions there are."""
        return sum(map(len, (self.applied, self.pending, self.failed, self.running)))

    @property
    def down_failed(self) -> tuple[Entry, ...]:
        """Applied, and the last down() failed."""
        return tuple(e for e in self.applied if e.record is not None and e.record.down_failed)

    @property
    def is_ready(self) -> bool:
        """Whether every known version is applied, and no down() failed half-way."""
        return len(self.applied) == self.total and not self.down_failed


@dataclass(frozen=True, slots=True)
class StatusReport(Report):
    """What `status` found: the survey, the lock as it was, the files that it ignored, and those with problems."""

    _document = "status"

    survey: Survey
    lock: LockState | None
    ignored: tuple[str, ...] = ()
    problems: tuple[Exception, ...] = ()

    @property
    def locked(self) -> LockState | None:
        """The lock, if it has not expired."""
        return self.lock if self.lock and self.lock.is_live else None

    @property
    def crashed(self) -> tuple[Entry, ...]:
        """The migrations that are recorded as running by a run that does not hold the lock."""
        holder = self.locked.run_id if self.locked else None
        return tuple(
            each
            for each in self.survey.running
            if holder is None or each.record is None or each.record.run_id != holder
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """The process, machine and user that a run belongs to."""

    run_id: str
    host: str
    pid: int
    user: str
    reason: str
    app_version: str | None = None

    @classmethod
    def current(
        cls, reason: str, *, app_version: str | None = None, run_id: str | None = None
    ) -> Actor:
        """Describe this process, for a new run."""
        run_id = run_id or uuid.uuid4().hex
        return cls(run_id, platform.node(), os.getpid(), _user(), reason, app_version)

    @property
    def label(self) -> str:
        """The holder as `lockedBy` names it."""
        return f"{self.user}@{self.host}:{self.pid}"


def _user() -> str:
    import getpass  # noqa: PLC0415  (2 ms of import that only a run needs)

    # A container's uid may have no name: OSError since Python 3.13, KeyError before. A service on Windows has no
    # variable that names the user, and Windows has no `pwd`.
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


@dataclass(frozen=True, slots=True)
class LockState:
    """The lock document at one moment of the server's clock."""

    holder: str
    host: str
    pid: int
    run_id: str
    reason: str
    fence: int
    locked_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    seen_at: datetime

    @property
    def is_live(self) -> bool:
        """Whether it is still in force."""
        return self.expires_at > self.seen_at

    @property
    def expired(self) -> bool:
        """Whether another run can take it over."""
        return not self.is_live


INDEX_CREATED, INDEX_DROPPED = "index-created", "index-dropped"
"""The events of `ctx.create_index()` and `ctx.drop_index()`, with the names of collection and index."""


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """A document that a backfill skipped, because the migration's function or the server refused it."""

    collection: str
    document_id: object
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the event log. `version` is None for an event of the lock."""

    kind: str
    at: datetime
    version: int | None
    details: Mapping[str, Any]
    error: ErrorInfo | None = None
