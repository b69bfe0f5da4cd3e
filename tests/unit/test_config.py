"""Settings: where they are looked for, what they accept, what is said of a bad one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_migrate_mongo.model.access import tokens
from flask_migrate_mongo.model.errors import SettingError
from flask_migrate_mongo.settings import A_YEAR, MINIMAL_TTL, SETTINGS, Settings, key_of, read
from tests.purposes import purposes

ROOT = Path("/shop/package")
A_TOKEN = "0123456789abcdef"

DEFAULTS: dict[str, object] = {
    "mongo_uri": None,
    "migrate_mongo_uri": None,
    "database": None,
    "directory": ROOT / "migrations",
    "template": None,
    "collection": "migrations",
    "lock_collection": "migration_locks",
    "run_collection": "migration_runs",
    "app": None,
    "rehearsal_database": None,
    "rehearsal_report": None,
    "test_uri": None,
    "lock_ttl": 60,
    "lock_wait": 0,
    "version_format": "sequence",
    "transactions": "required",
    "out_of_order": "allow",
    "interrupted": "rerun",
    "redact": ("password", "passwd", "secret", "token", "api_key", "authorization"),
    "on_start": False,
    "on_start_fail_hard": False,
    "on_start_wait": 300,
    "on_start_mode": "init",
    "app_version": None,
    "api": True,
    "url_prefix": "/api/migrations",
    "api_token": None,
    "api_create": False,
    "lint_ignore": None,
    "backfill_batch_size": 1_000,
    "backfill_workers": 1,
    "backfill_max_per_second": None,
    "backfill_on_error": "stop",
}

# Of each setting: what one application writes, what that means, and the same for another one.
EXAMPLES: dict[str, tuple[object, object, str, object]] = {
    "MONGO_URI": ("mongodb://a/b", "mongodb://a/b", "mongodb://c/d", "mongodb://c/d"),
    "MIGRATE_MONGO_URI": ("mongodb://a/b", "mongodb://a/b", " mongodb://c/d\n", "mongodb://c/d"),
    "MIGRATE_DATABASE": ("shop", "shop", "other", "other"),
    "MIGRATE_DIRECTORY": ("db/changes", ROOT / "db/changes", "/abs", Path("/abs")),
    "MIGRATE_TEMPLATE": (Path("t.jinja"), ROOT / "t.jinja", "/t.jinja", Path("/t.jinja")),
    "MIGRATE_COLLECTION": ("changes", "changes", "a.b", "a.b"),
    "MIGRATE_LOCK_COLLECTION": ("locks", "locks", "a.locks", "a.locks"),
    "MIGRATE_RUN_COLLECTION": ("runs", "runs", "a.runs", "a.runs"),
    "MIGRATE_APP": ("shop:app", "shop:app", " app.py ", "app.py"),
    "MIGRATE_SCHEMA": ("shop.schema:all", "shop.schema:all", " s:f.g\n", "s:f.g"),
    "MIGRATE_REHEARSAL_DATABASE": ("shop_rehearsal", "shop_rehearsal", " other ", "other"),
    "MIGRATE_REHEARSAL_REPORT": ("r.json", ROOT / "r.json", "/r.json", Path("/r.json")),
    "MIGRATE_TEST_URI": ("mongodb://a", "mongodb://a", " mongodb://b\n", "mongodb://b"),
    "MIGRATE_LOCK_TTL": (90, 90.0, "2.5", 2.5),
    "MIGRATE_LOCK_WAIT": (0.5, 0.5, "30", 30.0),
    "MIGRATE_VERSION_FORMAT": ("timestamp", "timestamp", " Sequence ", "sequence"),
    "MIGRATE_LINEAR": (True, True, "off", False),
    "MIGRATE_TRANSACTIONS": ("preferred", "preferred", "REQUIRED", "required"),
    "MIGRATE_OUT_OF_ORDER": ("refuse", "refuse", "allow", "allow"),
    "MIGRATE_INTERRUPTED": ("stop", "stop", "rerun", "rerun"),
    "MIGRATE_REDACT": (
        ["Email", " iban"],
        ("Email", "iban"),
        "Email, user.PIN,",
        ("Email", "user.PIN"),
    ),
    "MIGRATE_ON_START": (True, True, " Always ", "always"),
    "MIGRATE_ON_START_FAIL_HARD": (True, True, "Off", False),
    "MIGRATE_ON_START_WAIT": (5, 5.0, "0.5", 0.5),
    "MIGRATE_ON_START_MODE": ("first-request", "first-request", "INIT", "init"),
    "MIGRATE_APP_VERSION": ("1.2.3", "1.2.3", "4.5.6", "4.5.6"),
    "MIGRATE_API": (False, False, "true", True),
    "MIGRATE_URL_PREFIX": ("/admin/db/", "/admin/db", "/m", "/m"),
    "MIGRATE_API_TOKEN": (A_TOKEN, tokens(A_TOKEN), f"read:{A_TOKEN}", tokens({A_TOKEN: "read"})),
    "MIGRATE_DASHBOARD": (True, True, "false", False),
    "MIGRATE_API_CREATE": (True, True, "false", False),
    "MIGRATE_LINT_IGNORE": (
        ["mm001", "MM022"],
        ("MM001", "MM022"),
        "MM022, MM001",
        ("MM022", "MM001"),
    ),
    "MIGRATE_BACKFILL_BATCH_SIZE": (500, 500, "20", 20),
    "MIGRATE_BACKFILL_WORKERS": (2, 2, " 4 ", 4),
    "MIGRATE_BACKFILL_MAX_PER_SECOND": (100, 100.0, "0.5", 0.5),
    "MIGRATE_BACKFILL_ON_ERROR": ("collect", "collect", "STOP", "stop"),
}

NO_TEXTS: list[object] = ["", "   ", "\n", True, False, 1, b"bytes", ["list"], {}, "nul\0"]
NO_FLAGS: list[object] = ["", "  ", "maybe", "never", -1, 2, 2.0, [], {}, b"true"]
NO_SECONDS: list[object] = [
    *("", "soon", "1,5", "nan", "inf", "-inf", "1 s", True, False, [], {}, b"5", "0x10"),
    *(float("nan"), float("inf"), -1, -0.001, 10**400, "1e400", A_YEAR + 1),
]
NO_COUNTS: list[object] = ["", "many", "1.5", 1.5, 0, -1, "0", True, [], {}, b"5", 10**6 + 1]
BAD: dict[str, list[object]] = {
    "MONGO_URI": NO_TEXTS,
    "MIGRATE_MONGO_URI": NO_TEXTS,
    "MIGRATE_DATABASE": NO_TEXTS,
    "MIGRATE_DIRECTORY": NO_TEXTS,
    "MIGRATE_TEMPLATE": NO_TEXTS,
    "MIGRATE_COLLECTION": [*NO_TEXTS, "a$b", ".a", "a.", "a..b", "system.users", "\ud800"],
    "MIGRATE_LOCK_COLLECTION": [*NO_TEXTS, "$cmd", ".", "migrations"],
    "MIGRATE_RUN_COLLECTION": [*NO_TEXTS, "$cmd", "."],
    "MIGRATE_APP": NO_TEXTS,
    "MIGRATE_SCHEMA": [
        *NO_TEXTS,
        "shop.schema",
        "shop/schema.py",
        "shop:",
        ":all",
        "a:b:c",
        "a b:c",
    ],
    "MIGRATE_REHEARSAL_DATABASE": NO_TEXTS,
    "MIGRATE_REHEARSAL_REPORT": NO_TEXTS,
    "MIGRATE_TEST_URI": NO_TEXTS,
    "MIGRATE_LOCK_TTL": [*NO_SECONDS, 0, MINIMAL_TTL - 0.001],
    "MIGRATE_LOCK_WAIT": NO_SECONDS,
    "MIGRATE_VERSION_FORMAT": [*NO_TEXTS, "date", "sequence,timestamp"],
    "MIGRATE_LINEAR": NO_FLAGS,
    "MIGRATE_TRANSACTIONS": [*NO_TEXTS, "no"],
    "MIGRATE_OUT_OF_ORDER": [*NO_TEXTS, "deny"],
    "MIGRATE_INTERRUPTED": [*NO_TEXTS, "restart"],
    "MIGRATE_REDACT": ["", "  ", 1, True, 2.0, b"email", [1], ["email", None], {"email": 1}],
    "MIGRATE_ON_START": NO_FLAGS,
    "MIGRATE_ON_START_FAIL_HARD": [*NO_FLAGS, "always"],
    "MIGRATE_ON_START_WAIT": NO_SECONDS,
    "MIGRATE_ON_START_MODE": [*NO_TEXTS, "request"],
    "MIGRATE_APP_VERSION": NO_TEXTS,
    "MIGRATE_API": NO_FLAGS,
    "MIGRATE_URL_PREFIX": [
        *NO_TEXTS,
        *("/", "//", "api", "/a//b", "/a/..", "/../a", "/./a"),
        *("/a?b", "/a#b", "/a b", "/<a>", "/é"),
    ],
    "MIGRATE_API_TOKEN": [*NO_TEXTS, "too-short-token", f"write:{A_TOKEN}"],
    "MIGRATE_DASHBOARD": NO_FLAGS,
    "MIGRATE_API_CREATE": NO_FLAGS,
    "MIGRATE_LINT_IGNORE": ["", "  ", ",", "all", "MM1", "MM001;MM002", ["MM001", 2], True, 1, {}],
    "MIGRATE_BACKFILL_BATCH_SIZE": [*NO_COUNTS],
    "MIGRATE_BACKFILL_WORKERS": [*NO_COUNTS],
    "MIGRATE_BACKFILL_MAX_PER_SECOND": [*NO_SECONDS, 0, "0"],
    "MIGRATE_BACKFILL_ON_ERROR": [*NO_TEXTS, "skip"],
}
NAMES = [key_of(name) for name in SETTINGS]


def settings(environ: Any = None, **config: Any) -> Settings:
    app = Flask("shop", root_path=str(ROOT))
    app.config.from_mapping(config)
    return read(app, environ or {})


def value(found: Settings, name: str) -> object:
    (field,) = (field for field in SETTINGS if key_of(field) == name)
    return getattr(found, field)


# --- the table


def test_every_setting_has_a_purpose_and_says_what_it_accepts() -> None:
    assert list(SETTINGS) == [field.name for field in fields(Settings)]
    for name, setting in SETTINGS.items():
        assert purposes()[name].endswith("."), name
        assert setting.accepts, name


def test_every_setting_is_tested_here() -> None:
    assert NAMES == list(EXAMPLES) == list(BAD)


def test_every_default_is_what_its_own_setting_accepts() -> None:
    for field in fields(Settings):
        if field.default is not None:
            assert SETTINGS[field.name].parse(field.default) == field.default, field.name


# --- where they come from


def test_without_any_setting_the_defaults_hold() -> None:
    assert settings() == Settings(**DEFAULTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_config_goes_before_the_environment_and_that_before_the_default(name: str) -> None:
    ours, ours_read, theirs, theirs_read = EXAMPLES[name]
    assert value(settings({name: theirs}), name) == theirs_read
    assert value(settings({name: theirs}, **{name: ours}), name) == ours_read
    assert value(settings({name: theirs}, **{name: None}), name) == theirs_read
    assert value(settings(**{name: None}), name) == value(settings(), name)


@pytest.mark.parametrize("name", NAMES)
def test_one_setting_changes_no_other(name: str) -> None:
    changed, plain = settings(**{name: EXAMPLES[name][0]}), settings()
    differing = {name for name in NAMES if value(changed, name) != value(plain, name)}
    assert differing == {name}


def test_the_environment_is_that_of_the_process_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGRATE_LOCK_TTL", "77")
    assert read(Flask("shop", root_path=str(ROOT))).lock_ttl == 77


def test_two_applications_have_settings_of_their_own() -> None:
    one, other = settings(MIGRATE_COLLECTION="one"), settings(MIGRATE_COLLECTION="other")
    assert (one.collection, other.collection) == ("one", "other")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        settings().collection = "other"  # type: ignore[misc]


# --- what they accept


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, values in BAD.items() for bad in values]
)
def test_a_bad_value_is_refused_with_setting_value_and_what_is_accepted(
    name: str, bad: Any
) -> None:
    with pytest.raises(SettingError) as caught:
        settings(**{name: bad})
    said = str(caught.value)
    is_secret = name in {"MIGRATE_API_TOKEN", "MIGRATE_MONGO_URI", "MIGRATE_TEST_URI"}
    shown = "not shown here" if is_secret else repr(bad)[:200]
    assert said.startswith(f"{name} is {shown}")
    assert ", but it accepts " in said
    assert said.endswith("Change it in app.config or in the environment.")


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_value_in_the_environment_is_refused_too(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} is (''|not shown here)"):
        settings({name: ""})


def test_what_is_accepted_is_that_of_the_table() -> None:
    for name, setting in SETTINGS.items():
        with pytest.raises(SettingError) as caught:
            settings(**{key_of(name): ""})
        assert f"it accepts {setting.accepts}." in str(caught.value)


def test_choices_are_listed() -> None:
    with pytest.raises(SettingError, match='accepts "sequence" or "timestamp"'):
        settings(MIGRATE_VERSION_FORMAT="date")


@pytest.mark.parametrize(("given", "expected"), [("1", True), ("0", False), ("true", True)])
def test_a_flag_of_a_prefixed_environment_is_accepted(
    monkeypatch: pytest.MonkeyPatch, given: str, *, expected: bool
) -> None:
    for name in ("ON_START", "API", "LINEAR"):
        monkeypatch.setenv(f"FLASK_MIGRATE_{name}", given)
    app = Flask("shop")
    app.config.from_prefixed_env()
    settings = read(app, {})
    assert (settings.on_start, settings.api, settings.linear) == (expected,) * 3


def test_the_lock_may_not_share_the_collection_of_the_history() -> None:
    with pytest.raises(SettingError, match="another collection than MIGRATE_COLLECTION"):
        settings(MIGRATE_COLLECTION="migration_locks")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"MIGRATE_RUN_COLLECTION": "migrations"},
            "MIGRATE_RUN_COLLECTION is 'migrations', but it accepts another collection than MIGRATE_COLLECTION.",
        ),
        (
            {"MIGRATE_COLLECTION": "migration_runs"},
            "MIGRATE_RUN_COLLECTION is 'migration_runs', but it accepts another collection than MIGRATE_COLLECTION.",
        ),
        (
            {"MIGRATE_RUN_COLLECTION": "locks", "MIGRATE_LOCK_COLLECTION": "locks"},
            "MIGRATE_RUN_COLLECTION is 'locks', but it accepts another collection than MIGRATE_LOCK_COLLECTION.",
        ),
        (
            {"MIGRATE_COLLECTION": "log", "MIGRATE_LOCK_COLLECTION": "log.ranges"},
            "MIGRATE_LOCK_COLLECTION is 'log.ranges', but it accepts another collection than log.ranges, which holds checkpoints of MIGRATE_COLLECTION.",
        ),
        (
            {"MIGRATE_RUN_COLLECTION": "migrations.ranges"},
            "MIGRATE_RUN_COLLECTION is 'migrations.ranges', but it accepts another collection than migrations.ranges, which holds checkpoints of MIGRATE_COLLECTION.",
        ),
    ],
)
def test_no_two_purposes_share_a_collection(given: dict[str, str], expected: str) -> None:
    for environ, config in (({}, given), (given, {})):
        with pytest.raises(SettingError) as caught:
            settings(environ, **config)
        assert str(caught.value).startswith(expected)


def test_the_checkpoints_of_the_lock_and_the_runs_are_no_collections() -> None:
    assert settings(MIGRATE_COLLECTION="migration_locks.ranges").run_collection == "migration_runs"


@pytest.mark.parametrize(
    ("name", "bound"),
    [("MIGRATE_LOCK_TTL", MINIMAL_TTL), ("MIGRATE_LOCK_TTL", A_YEAR), ("MIGRATE_LOCK_WAIT", 0)],
)
def test_the_bounds_of_a_number_are_accepted(name: str, bound: float) -> None:
    assert value(settings(**{name: bound}), name) == bound


def test_the_line_break_at_the_end_of_a_secret_file_is_not_part_of_the_value() -> None:
    assert settings({"MONGO_URI": "mongodb://h/db\n"}).mongo_uri == "mongodb://h/db"


# --- secrets


@pytest.mark.parametrize(
    "bad", [b"mongodb://anna:secret@host/db", ["mongodb+srv://anna:secret@host/db"]]
)
def test_a_password_in_a_bad_value_is_masked(bad: object) -> None:
    with pytest.raises(SettingError) as caught:
        settings(MONGO_URI=bad)
    assert "secret" not in str(caught.value)
    assert "://***@host/db" in str(caught.value)


def test_a_password_is_masked_before_a_long_value_is_cut() -> None:
    hosts = [f"mongodb://anna:secret@{'h' * 300}", "mongodb://bob:secret@host"]
    with pytest.raises(SettingError) as caught:
        settings(MONGO_URI=hosts)
    assert "secret" not in str(caught.value)
    assert f"h..., but it accepts {SETTINGS['mongo_uri'].accepts}" in str(caught.value)


@pytest.mark.parametrize("name", ["MONGO_URI", "MIGRATE_MONGO_URI"])
def test_settings_do_not_show_a_connection_string(name: str) -> None:
    assert "hunter2" not in repr(settings(**{name: "mongodb://anna:hunter2@host/db"}))


def test_nothing_of_a_bad_connection_string_for_migrations_is_shown() -> None:
    with pytest.raises(SettingError, match="MIGRATE_MONGO_URI is not shown here") as caught:
        settings(MIGRATE_MONGO_URI=["anna", "hunter2"])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
