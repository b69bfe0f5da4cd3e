"""The MIGRATE_* settings: one table, read once into one frozen object."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .model.access import tokens
from .model.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask import Flask

    from .model.access import Token

MINIMAL_TTL = 2
"""Seconds: below it the heartbeats would leave no room for a single slow answer."""

A_YEAR = 365 * 24 * 3600
"""Seconds: far beyond it a lock's end is no date any more."""


A_MILLION = 1_000_000


class _Hidden:
    """Stands for a value that must not be shown."""

    def __repr__(self) -> str:
        return "not shown here"


_HIDDEN = _Hidden()


class Setting(NamedTuple):
    """One setting: its default, what it accepts, and what it is for.

    `parse` takes what the application or the environment holds, and raises ValueError, TypeError
    or OverflowError.
    """

    name: str
    default: object
    parse: Callable[[Any], object]
    accepts: str
    purpose: str
    secret: bool = False

    @property
    def field(self) -> str:
        """The attribute of Settings that holds it."""
        return self.name.removeprefix("MIGRATE_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, parsed. Relative paths are relative to the application's root path."""

    mongo_uri: str | None = field(repr=False)  # It holds a password.
    database: str | None
    directory: Path
    template: Path | None
    cache: bool | Path
    collection: str
    lock_collection: str
    run_collection: str
    rehearsal_database: str | None
    lock_ttl: float
    lock_wait: float
    version_format: str
    transactions: str
    out_of_order: str
    interrupted: str
    redact: tuple[str, ...]
    on_start: bool | str
    on_start_fail_hard: bool
    on_start_wait: float
    on_start_mode: str
    app_version: str | None
    api: bool
    url_prefix: str
    api_token: tuple[Token, ...] | None
    api_create: bool
    lint_ignore: tuple[str, ...] | None
    backfill_batch_size: int
    backfill_workers: int
    backfill_max_per_second: float | None
    backfill_on_error: str


def read(app: Flask, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting: from app.config, else from the environment, else its default.

    Raises SettingError, which names the setting, its value and what is accepted.
    """
    values: dict[str, Any] = {s.field: _value(s, app.config, environ) for s in SETTINGS}
    root = Path(app.root_path)
    values["directory"] = root / values["directory"]
    values["template"] = root / values["template"] if values["template"] else None
    if isinstance(values["cache"], Path):
        values["cache"] = root / values["cache"]
    settings = Settings(**values)
    if settings.lock_collection == settings.collection:
        accepts = "another collection than MIGRATE_COLLECTION"
        raise SettingError("MIGRATE_LOCK_COLLECTION", settings.lock_collection, accepts)
    return settings


def _value(setting: Setting, config: Mapping[str, object], environ: Mapping[str, str]) -> object:
    given = config.get(setting.name)
    if given is None:
        given = environ.get(setting.name)
    if given is None:
        return setting.default
    try:
        return setting.parse(given)
    except (TypeError, ValueError, OverflowError) as exc:
        # The cause could show what a secret one holds.
        shown, cause = (_HIDDEN, None) if setting.secret else (given, exc)
        raise SettingError(setting.name, shown, setting.accepts) from cause


_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError
    # A variable that was filled from a file often ends in a line break.
    return value.strip()


def _path(value: object) -> Path:
    return Path(_text(os.fspath(value) if isinstance(value, os.PathLike) else value))


def _names(value: object) -> tuple[str, ...]:
    given = _text(value).split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise TypeError
    return tuple(name.strip() for name in given if name.strip())


def _collection(value: object) -> str:
    name = _text(value)
    if "$" in name or ".." in name or name.startswith((".", "system.")) or name.endswith("."):
        raise ValueError
    name.encode()  # Lone surrogates can be sent to no server; what is raised is a ValueError.
    return name


def _seconds(least: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        seconds = float(value)
        # Written so that nan, which compares false with everything, is refused too.
        if not least <= seconds <= A_YEAR:
            raise ValueError
        return seconds

    return parse


def _whole(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError
        number = int(value)
        if not least <= number <= A_MILLION:
            raise ValueError
        return number

    return parse


def _rate(value: object) -> float:
    rate = _seconds(0)(value)
    if rate == 0:
        raise ValueError
    return rate


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    return _FLAGS[_choice(*_FLAGS)(value)]


def _flag_or(*words: str) -> Callable[[object], bool | str]:
    def parse(value: object) -> bool | str:
        if isinstance(value, str) and value.strip().lower() in words:
            return value.strip().lower()
        return _flag(value)

    return parse


def _flag_or_path(value: object) -> bool | Path:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _FLAGS):
        return _flag(value)
    return _path(value)


def _codes(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, list | tuple | set | frozenset) else [_text(value)]
    codes = [code.upper() for text in texts for code in re.split(r"[\s,]+", _text(text))]
    if not all(re.fullmatch(r"MM[0-9]{3}", code) for code in codes):
        raise ValueError
    return tuple(dict.fromkeys(codes))


def _prefix(value: object) -> str:
    prefix = _text(value).rstrip("/")
    # At the root the API would answer in place of the application.
    if not re.fullmatch(_PREFIX, prefix):
        raise ValueError
    return prefix


_PREFIX = r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+"


def _choice(*accepted: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value).lower()
        if text not in accepted:
            raise ValueError
        return text

    return parse


def _choices(*accepted: str) -> tuple[Callable[[object], str], str]:
    return _choice(*accepted), " or ".join(f'"{value}"' for value in accepted)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "MONGO_URI",
        None,
        _text,
        "a MongoDB connection string",
        "Where the database is, when the application hands over none of its own.",
    ),
    Setting(
        "MIGRATE_DATABASE",
        None,
        _text,
        "the name of a database",
        "Which database to migrate, when the connection string names none or another one.",
    ),
    Setting(
        "MIGRATE_DIRECTORY",
        Path("migrations"),
        _path,
        "a path",
        "Where the migrations are, relative to the application's root path.",
    ),
    Setting(
        "MIGRATE_TEMPLATE",
        None,
        _path,
        "a path",
        "The Jinja template that `create` uses, relative to the application's root path.",
    ),
    Setting(
        "MIGRATE_CACHE",
        True,  # noqa: FBT003  (its default)
        _flag_or_path,
        "true, false or a path",
        "Where it is remembered what unchanged files say: in the user's cache folder, nowhere, or there.",
    ),
    Setting(
        "MIGRATE_COLLECTION",
        "migrations",
        _collection,
        "the name of a collection",
        "Where the history is kept.",
    ),
    Setting(
        "MIGRATE_LOCK_COLLECTION",
        "migration_locks",
        _collection,
        "the name of a collection",
        "Where the lock is kept.",
    ),
    Setting(
        "MIGRATE_RUN_COLLECTION",
        "migration_runs",
        _collection,
        "the name of a collection",
        "Where runs that nobody waits for say how they go.",
    ),
    Setting(
        "MIGRATE_REHEARSAL_DATABASE",
        None,
        _text,
        "the name of a database that does not exist",
        "Where `rehearse` rehearses; without it, in a new one called after the application's.",
    ),
    Setting(
        "MIGRATE_LOCK_TTL",
        1800.0,
        _seconds(MINIMAL_TTL),
        f"a number of seconds, from {MINIMAL_TTL} to {A_YEAR}",
        "Seconds after which the lock of a process that died holds nobody off any more.",
    ),
    Setting(
        "MIGRATE_LOCK_WAIT",
        0.0,
        _seconds(0),
        f"a number of seconds, from 0 to {A_YEAR}",
        "Seconds to wait for somebody else's lock before giving up.",
    ),
    Setting(
        "MIGRATE_VERSION_FORMAT",
        "sequence",
        *_choices("sequence", "timestamp"),
        "How `create` numbers: YYYYMMDDNNN or YYYYMMDDHHMMSS.",
    ),
    Setting(
        "MIGRATE_TRANSACTIONS",
        "required",
        *_choices("required", "preferred"),
        "Whether a transactional migration is refused on a server without transactions, or runs without.",
    ),
    Setting(
        "MIGRATE_OUT_OF_ORDER",
        "allow",
        *_choices("allow", "refuse"),
        "What becomes of a pending version below the highest applied one.",
    ),
    Setting(
        "MIGRATE_INTERRUPTED",
        "rerun",
        *_choices("rerun", "stop"),
        "What becomes of a plain migration that was interrupted half-way and is not idempotent.",
    ),
    Setting(
        "MIGRATE_REDACT",
        ("password", "passwd", "secret", "token", "api_key", "apikey"),
        _names,
        "a list of the names of fields, or a text with commas between them",
        "Fields whose values no dry run and no rehearsal shows, at whatever depth; case does not matter.",
    ),
    Setting(
        "MIGRATE_ON_START",
        False,  # noqa: FBT003  (its default)
        _flag_or("always"),
        'true, false or "always"',
        "Whether an application that serves applies first what is pending.",
    ),
    Setting(
        "MIGRATE_ON_START_FAIL_HARD",
        False,  # noqa: FBT003  (its default)
        _flag,
        "true or false",
        "Whether an application that could not apply it ends instead of serving.",
    ),
    Setting(
        "MIGRATE_ON_START_WAIT",
        300.0,
        _seconds(0),
        f"a number of seconds, from 0 to {A_YEAR}",
        "Seconds to wait at the start for another process that migrates.",
    ),
    Setting(
        "MIGRATE_ON_START_MODE",
        "init",
        *_choices("init", "first-request"),
        "When that is: in `init_app()`, or before the first request is handled.",
    ),
    Setting(
        "MIGRATE_APP_VERSION",
        None,
        _text,
        "a text that is not blank",
        "The application's version, kept with every record for the audit.",
    ),
    Setting(
        "MIGRATE_API",
        True,  # noqa: FBT003  (a default)
        _flag,
        "true or false",
        "Whether the REST API is there at all.",
    ),
    Setting(
        "MIGRATE_URL_PREFIX",
        "/api/migrations",
        _prefix,
        "a path that begins with / and is not / alone",
        "Where the REST API is.",
    ),
    Setting(
        "MIGRATE_API_TOKEN",
        None,
        tokens,
        "a token of at least 16 letters, digits or -._~+/, or `read:TOKEN,run:TOKEN,admin:TOKEN`, "
        'or a mapping of tokens to "read", "run" or "admin"',
        "Who may use the REST API; a single token may do everything.",
        secret=True,
    ),
    Setting(
        "MIGRATE_API_CREATE",
        False,  # noqa: FBT003  (a default)
        _flag,
        "true or false",
        "Whether files can be made through the REST API; in debug mode they can.",
    ),
    Setting(
        "MIGRATE_LINT_IGNORE",
        None,
        _codes,
        "codes of rules like MM001, in a list or with commas between them",
        "Which rules `lint` leaves out when none are selected.",
    ),
    Setting(
        "MIGRATE_BACKFILL_BATCH_SIZE",
        1_000,
        _whole(1),
        f"a whole number, from 1 to {A_MILLION}",
        "How many documents a backfill changes in one transaction.",
    ),
    Setting(
        "MIGRATE_BACKFILL_WORKERS",
        1,
        _whole(1),
        f"a whole number, from 1 to {A_MILLION}",
        "How many threads a backfill is worked on in.",
    ),
    Setting(
        "MIGRATE_BACKFILL_MAX_PER_SECOND",
        None,
        _rate,
        f"a number above 0, up to {A_YEAR}",
        "How many documents a second a backfill changes at most.",
    ),
    Setting(
        "MIGRATE_BACKFILL_ON_ERROR",
        "stop",
        *_choices("stop", "collect"),
        "What becomes of a backfill at a document that cannot be changed: it stops, or goes past it.",
    ),
)
"""The one table that code, documentation and error messages draw on."""
