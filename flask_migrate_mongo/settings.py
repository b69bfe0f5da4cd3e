"""The MIGRATE_* settings: each declared once, all read once into one frozen object."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import nextafter
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask

from .model.access import Token, tokens
from .model.errors import SettingError
from .model.masking import DEFAULT_NAMES, Mask

_T = TypeVar("_T")

MINIMAL_TTL = 2
"""Seconds: below it a single slow reply would lose the lease."""

A_YEAR = 365 * 24 * 3600
"""Seconds: far beyond it the end of a lock is not a valid date."""

A_MILLION = 1_000_000


class _Hidden:
    """Shown in place of a secret value."""

    def __repr__(self) -> str:
        return "not shown here"


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is read.

    `parse` takes the value of the application or the environment, and raises ValueError, TypeError
    or OverflowError. `accepts` says in an error what it takes.
    """

    parse: Callable[[Any], object]
    accepts: str
    secret: bool = False


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


def _number(kind: type[float], least: float, most: float, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, kind | int | str):
        raise TypeError
    number = kind(value)
    # Written so that nan, which compares false with everything, is refused too.
    if not least <= number <= most:
        raise ValueError
    return number


def _flag(value: object) -> bool:
    # `app.config.from_prefixed_env()` converts 0 and 1 to integers.
    return _FLAGS[_one_of(_FLAGS, str(value) if isinstance(value, int) else value)]


def _flag_or_always(value: object) -> bool | str:
    is_always = isinstance(value, str) and value.strip().lower() == "always"
    return "always" if is_always else _flag(value)


def _codes(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, list | tuple | set | frozenset) else [_text(value)]
    codes = [code.upper() for text in texts for code in re.split(r"[\s,]+", _text(text))]
    if not all(re.fullmatch(r"MM[0-9]{3}", code) for code in codes):
        raise ValueError
    return tuple(dict.fromkeys(codes))


def _prefix(value: object) -> str:
    prefix = _text(value).rstrip("/")
    # At the root the API would answer in place of the application.
    if not re.fullmatch(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+", prefix):
        raise ValueError
    return prefix


def _import_path(value: object) -> str:
    path = _text(value)
    if not re.fullmatch(r"\w+(?:\.\w+)*:\w+(?:\.\w+)*", path):
        raise ValueError
    return path


def _one_of(accepted: Collection[str], value: object) -> str:
    text = _text(value).lower()
    if text not in accepted:
        raise ValueError
    return text


# What a setting is read with, and what an error says that it accepts.
_FLAG = (_flag, "true or false")
_COLLECTION = (_collection, "the name of a collection")
_PATH = (_path, "a path")
_COUNT = (partial(_number, int, 1, A_MILLION), f"a whole number, from 1 to {A_MILLION}")


def _seconds(least: int) -> tuple[Callable[[object], float], str]:
    return partial(_number, float, least, A_YEAR), f"a number of seconds, from {least} to {A_YEAR}"


def _setting(
    parse: Callable[[Any], object], accepts: str, *, default: _T, secret: bool = False
) -> _T:
    setting = Setting(parse, accepts, secret)
    return field(default=default, metadata={"setting": setting})


def _optional(parse: Callable[[Any], _T], accepts: str, *, secret: bool = False) -> _T | None:
    return _setting(parse, accepts, default=None, secret=secret)


def _choice(*accepted: str) -> str:
    """Declare a setting with a few values. The first is the default."""
    listed = " or ".join(f'"{value}"' for value in accepted)
    return _setting(partial(_one_of, accepted), listed, default=accepted[0])


# Without a repr: the connection string holds a password.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """Every setting, parsed: the one table that code, documentation and error messages use.

    The text below a field says what it is for, as docs/reference.md does. Relative paths are relative to the application's root path.
    """

    mongo_uri: str | None = _optional(_text, "a MongoDB connection string")
    """The connection string, if the application passes no database of its own."""
    migrate_mongo_uri: str | None = _optional(_text, "a MongoDB connection string", secret=True)
    """The connection string for migrations alone, with a user of their own."""
    database: str | None = _optional(_text, "the name of a database")
    """The database to migrate, if the connection string names none or another one."""
    directory: Path = _setting(*_PATH, default=Path("migrations"))
    """The folder of the migrations, relative to the application's root path."""
    template: Path | None = _optional(*_PATH)
    """The Jinja template that `create` uses, relative to the application's root path."""
    collection: str = _setting(*_COLLECTION, default="migrations")
    """The collection of the history."""
    lock_collection: str = _setting(*_COLLECTION, default="migration_locks")
    """The collection of the lock."""
    run_collection: str = _setting(*_COLLECTION, default="migration_runs")
    """The collection for the progress of asynchronous REST runs."""
    app: str | None = _optional(_text, "an import path")
    """The application as `flask --app` takes it, for asynchronous REST runs; else it is looked up."""
    schema: str | None = _optional(_import_path, "an import path like `shop.schema:collections`")
    """The declared collections that `schema diff` compares: a list, or a function that returns one."""
    rehearsal_database: str | None = _optional(_text, "the name of a database that does not exist")
    """The scratch database of `rehearse`; without it, a new one named after the application's."""
    rehearsal_report: Path | None = _optional(*_PATH)
    """The file in which `rehearse` keeps its last report, for `show` and the dashboard."""
    test_uri: str | None = _optional(_text, "a MongoDB connection string", secret=True)
    """The server for tests with the pytest plugin; without it, the plugin starts one."""
    lock_ttl: float = _setting(*_seconds(MINIMAL_TTL), default=60.0)
    """Seconds after which the lock of a crashed process expires."""
    lock_wait: float = _setting(*_seconds(0), default=0.0)
    """Seconds to wait for the lock of another process."""
    version_format: str = _choice("sequence", "timestamp")
    """How `create` numbers: YYYYMMDDNNN or YYYYMMDDHHMMSS."""
    linear: bool = _setting(*_FLAG, default=False)
    """Keep the name of the newest migration in the file `.latest`, so that branches conflict in git."""
    transactions: str = _choice("required", "preferred")
    """Refuse a transactional migration on a server without transactions, or run it without one."""
    out_of_order: str = _choice("allow", "refuse")
    """Run or refuse a pending version below the highest applied one."""
    interrupted: str = _choice("rerun", "stop")
    """Run an interrupted migration again if it is neither transactional nor idempotent, or stop."""
    redact: tuple[str, ...] = _setting(
        _names,
        "a list of the names of fields, or a text with commas between them",
        default=DEFAULT_NAMES,
    )
    """Fields whose values are masked wherever documents or errors are shown, recorded or logged."""
    on_start: bool | str = _setting(_flag_or_always, 'true, false or "always"', default=False)
    """Apply pending migrations before the application starts serving."""
    on_start_fail_hard: bool = _setting(*_FLAG, default=False)
    """End the application if its pending migrations could not be applied."""
    on_start_wait: float = _setting(*_seconds(0), default=300.0)
    """Seconds to wait at the start for another process that migrates."""
    on_start_mode: str = _choice("init", "first-request")
    """Apply them in `init_app()`, or before the first request."""
    app_version: str | None = _optional(_text, "a text that is not blank")
    """The application's version, stored with every record for the audit."""
    api: bool = _setting(*_FLAG, default=True)
    """Register the REST API."""
    url_prefix: str = _setting(
        _prefix, "a path that begins with / and is not / alone", default="/api/migrations"
    )
    """The path of the REST API."""
    api_token: tuple[Token, ...] | None = _optional(
        tokens,
        "a token of at least 16 letters, digits or -._~+/, or `read:TOKEN,up:TOKEN,run:TOKEN,admin:TOKEN`, "
        'or a mapping of tokens to "read", "up", "run" or "admin"',
        secret=True,
    )
    """Tokens for the REST API; a single one may do everything."""
    dashboard: bool = _setting(*_FLAG, default=False)
    """Serve a dashboard for browsers under the path of the REST API, with the same access rules."""
    api_create: bool = _setting(*_FLAG, default=False)
    """Create files through the REST API; in debug mode it is always possible."""
    lint_ignore: tuple[str, ...] | None = _optional(
        _codes, "codes of rules like MM001, in a list or with commas between them"
    )
    """Rules that `lint` ignores if none are selected."""
    backfill_batch_size: int = _setting(*_COUNT, default=1_000)
    """Documents that a backfill changes in one transaction."""
    backfill_workers: int = _setting(*_COUNT, default=1)
    """Threads of a backfill."""
    backfill_max_per_second: float | None = _optional(
        partial(_number, float, nextafter(0, 1), A_YEAR), f"a number above 0, up to {A_YEAR}"
    )
    """The most documents that a backfill changes in a second."""
    backfill_on_error: str = _choice("stop", "collect")
    """Stop a backfill at a document that cannot be changed, or skip and collect it."""

    @property
    def mask(self) -> Mask:
        """Hides the values of the fields to redact."""
        return Mask.of(self.redact)


def key_of(field_name: str) -> str:
    """Build the key of a setting in `app.config` and in the environment."""
    key = field_name.upper()
    return key if field_name.endswith("mongo_uri") else f"MIGRATE_{key}"


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting.metadata["setting"] for setting in fields(Settings)
}
"""The settings by the names of their fields."""


def read(app: Flask, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting: from app.config, else from the environment, else its default.

    Raises SettingError, which names the setting, its value and what is accepted.
    """
    given: dict[str, Any] = {
        name: _parsed(name, value) for name, (_, value) in sources(app.config, environ).items()
    }
    settings = Settings(**given)
    if error := collision(settings):
        raise error
    root = Path(app.root_path)
    given_paths = ("directory", "template", "rehearsal_report")
    named = {name: path for name in given_paths if (path := getattr(settings, name)) is not None}
    return replace(settings, **{name: root / path for name, path in named.items()})


def sources(
    config: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> Mapping[str, tuple[str, object]]:
    """Find each setting that is given, by the name of its field: where, and its value before it is parsed."""
    places: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("environment", environ),
        ("app.config", config),
    )
    return {
        name: (place, value)
        for name in SETTINGS
        for place, values in places
        if (value := values.get(key_of(name))) is not None
    }


def collision(settings: Settings) -> SettingError | None:
    """Find a collection that two purposes would share; None if each has its own."""
    checkpoints = f"{settings.collection}.ranges"
    taken = {
        settings.collection: "MIGRATE_COLLECTION",
        checkpoints: f"{checkpoints}, which holds checkpoints of MIGRATE_COLLECTION",
    }
    for key, name in (
        ("MIGRATE_LOCK_COLLECTION", settings.lock_collection),
        ("MIGRATE_RUN_COLLECTION", settings.run_collection),
    ):
        if name in taken:
            return SettingError(key, name, f"another collection than {taken[name]}")
        taken[name] = key
    return None


def _parsed(name: str, value: object) -> object:
    setting = SETTINGS[name]
    try:
        return setting.parse(value)
    except (TypeError, ValueError, OverflowError) as exc:
        # The cause could show the value of a secret.
        shown, cause = (_Hidden(), None) if setting.secret else (value, exc)
        raise SettingError(key_of(name), shown, setting.accepts) from cause
