"""Errors: their messages, and exceptions as they are recorded."""

from __future__ import annotations

import builtins
import pickle
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from flask_migrate_mongo.driver.server import translated
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.errors import (
    TRACEBACK_LIMIT,
    MigrateError,
    capture,
    message_of,
    redact,
)
from flask_migrate_mongo.model.wording import cli, rest

from .given import a_lock

FILE = Path("/shop/migrations/7_change.py")


def raised(exc: BaseException) -> BaseException:
    """Return the exception as it is after it was raised."""
    try:
        raise exc  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001
        return caught


def traceback_of(exc: BaseException) -> str:
    found = capture(raised(exc)).traceback
    assert found is not None
    return found


# --- the server's


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (13, "not authorized on shop to execute command { find: 'c' }", errors.AccessDeniedError),
        (18, "Authentication failed.", errors.AccessDeniedError),
        (8000, "bad auth : Authentication failed.", errors.AccessDeniedError),
        (
            8000,
            "user is not allowed to do action [dropDatabase] on [shop.]",
            errors.AccessDeniedError,
        ),
        (8000, "you are over your space quota, using 513 MB of 512 MB", errors.DatabaseError),
    ],
)
def test_an_error_of_atlas_is_a_lack_of_rights_only_if_it_says_so(
    code: int, text: str, kind: type[MigrateError]
) -> None:
    with (
        pytest.raises(errors.DatabaseError, match=re.escape(text.rstrip("."))) as caught,
        translated(),
    ):
        raise OperationFailure(text, code)
    assert type(caught.value) is kind


def refused(**more: object) -> dict[str, object]:
    text = (
        'E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "x" }'
    )
    return {"index": 3, "code": 11000, "errmsg": text, "keyPattern": {"email": 1}, **more}


def test_of_several_writes_the_index_the_code_and_the_key_are_named_and_no_values() -> None:
    rejected = refused(keyValue={"email": "x"}, op={"email": "x"})
    assert message_of(BulkWriteError({"writeErrors": [rejected]})) == (
        "1 of the writes failed: index 3: E11000 duplicate key error collection: shop.users "
        "index: email_1 (code 11000, key email)"
    )
    other = {"index": 4, "code": 14, "errmsg": 'no {n: "x"} of "x" here'}
    shown = message_of(BulkWriteError({"writeErrors": [rejected] * 10 + [other]}))
    assert shown.startswith("11 of the writes failed: ")
    assert shown.endswith("; and 1 more")
    shown = message_of(
        BulkWriteError({"writeErrors": [other], "writeConcernErrors": [{"code": 64}]})
    )
    assert "index 4: no ... of ... here (code 14); None (code 64)" in shown


def test_of_one_write_the_key_is_shown_unless_its_field_is_hidden() -> None:
    shown = message_of(DuplicateKeyError("x", 11000, refused(keyValue={"email": "x"})))
    assert shown == refused()["errmsg"]
    shown = message_of(DuplicateKeyError("x", 11000, refused(keyValue={"n": 1, "token": '"'})))
    assert shown.endswith("index: email_1 dup key: {'n': 1, 'token': ***}")


def test_a_traceback_shows_the_messages_of_all_exceptions_as_they_are_shown_alone() -> None:
    details = refused(keyValue={"token": 'hidden" hidden'})
    details["errmsg"] = 'E11000 dup key: { token: "hidden" hidden\nhidden" }'
    error = LookupError("last")
    error.__context__ = RuntimeError("token: hidden")
    error.__context__.__cause__ = DuplicateKeyError(str(details["errmsg"]), 11000, details)
    found = traceback_of(error)
    assert "hidden" not in found
    assert "dup key: {'token': ***}" in found
    assert found.rstrip().endswith("LookupError: last")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no exception groups")
def test_a_traceback_of_a_group_hides_secrets_too() -> None:
    group = builtins.ExceptionGroup(  # type: ignore[attr-defined]
        "several",
        [
            ValueError("token: hidden"),
            BulkWriteError({"writeErrors": [refused(op={"n": "hidden"})]}),
        ],
    )
    assert "hidden" not in traceback_of(group)


def test_the_lines_of_code_in_a_traceback_hide_secrets_too() -> None:
    with pytest.raises(KeyError) as caught:
        _ = {"token": "hidden"}["name"]
    found = capture(caught.value).traceback
    assert found is not None
    assert '_ = {"token": ***}["name"]' in found


def test_an_odd_exception_with_attributes_like_those_of_the_driver_is_shown() -> None:
    class OddError(Exception):
        details: ClassVar = {"errmsg": None}
        exceptions = 5

    assert message_of(OddError("odd")) == "odd"
    assert traceback_of(OddError("odd")).rstrip().endswith("OddError: odd")


# --- messages


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errors.SettingError("A", 1, "2"), "Change it in app.config or in the environment."),
        (errors.NoFolderError(FILE.parent), "to the folder of your migrations."),
        (errors.EscapesTestError("send find to shop"), "lead to the database of the test."),
        (errors.OutputError(OSError(28, "No space left")), ": `flask db-migrate status`."),
        (errors.FileChangedError(FILE, "it changed. Run it again."), "Run it again."),
        (errors.DuplicateVersionError(7, [FILE, FILE]), "the next free number."),
        (errors.UnwrittenError([7]), "`flask db-migrate up --to VERSION`."),
        (errors.NotReversibleError(7, "change", FILE), "that reverses this one."),
        (errors.MissingFileError(7, "change"), "then try again."),
        (
            errors.DriftError(7, "change", FILE),
            "`flask db-migrate resolve 7 --accept-file --reason TEXT`.",
        ),
        (errors.OutOfOrderError([7, 8], 9), 'set MIGRATE_OUT_OF_ORDER = "allow".'),
        (
            errors.TransactionsUnsupportedError([7], "a standalone"),
            'set MIGRATE_TRANSACTIONS = "preferred" to run them without.',
        ),
        (
            errors.InterruptedRefusedError([7, 8]),
            "`flask db-migrate resolve 7 --applied|--not-applied --reason TEXT`.",
        ),
        (errors.LockHeldError(a_lock()), "`flask db-migrate force-unlock --confirm`."),
        (errors.NotConfirmedError(a_lock()), "`flask db-migrate force-unlock --confirm`."),
        (errors.LeaseLostError("why"), ": `flask db-migrate status`."),
        (errors.TooManyStepsError(3, 2), ": `--steps 2`."),
        (
            errors.HalfBackfilledError(7, "up"),
            "`flask db-migrate resolve 7 --not-applied --reason TEXT`.",
        ),
        (errors.TransactionTooLargeError("why"), "in batches with `ctx.backfill()`."),
        (errors.TooManyRunsError(["a", "b"]), ": `--wait SECONDS`."),
        (errors.NoRunError(), "stops a migration without a backfill."),
        (errors.MigrationFailedError([7], "up"), "then run `flask db-migrate up` again."),
        (errors.NoContextError(), "inside `with app.app_context():`."),
        (errors.RehearsalFailedError([7]), "then rehearse again: `flask db-migrate rehearse`."),
        (errors.DryRunTooLongError(60, 30), "`--dry-run-limit 15`."),
        (errors.ScratchTakenError("x", None), "a database that does not exist."),
        (errors.NotReadyError(), "to see why."),
        (errors.NoSchemaError("x"), "`flask db-migrate schema dump`."),
        (errors.BadSchemaError("a:b", "c"), "docs/schema.md."),
        (errors.ShardKeyAccessError(), "or `find` on config.collections."),
        (errors.SchemaAccessError("listIndexes", "a.b"), "or `readWrite`."),
        (errors.OutputExistsError(FILE), "or delete the file."),
        (errors.ApiClosedError(), "MIGRATE_API = False removes the API."),
        (errors.UnknownRunError("x"), ": `flask db-migrate history`."),
        (errors.TooManyStreamsError(2, 20), "try again when a stream has ended."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MigrateError) else "",
)
def test_a_message_ends_with_what_to_do_next(error: MigrateError, remedy: str) -> None:
    assert str(error).endswith(remedy)


def test_refusals_say_that_nothing_was_done() -> None:
    for error in (
        errors.NotReversibleError(7, "change", FILE),
        errors.MissingFileError(7, "change"),
        errors.DriftError(7, "change", FILE),
    ):
        assert "Nothing was rolled back." in error.message
    for refusal in (
        errors.UnwrittenError([7]),
        errors.OutOfOrderError([7], 9),
        errors.TransactionsUnsupportedError([7], "a standalone"),
        errors.InterruptedRefusedError([7]),
    ):
        assert "Nothing was run." in refusal.message


def test_each_interface_words_the_remedy_in_its_own_terms() -> None:
    drift = errors.DriftError(7, "change", FILE)
    assert drift.explain(cli) == str(drift)
    assert (
        drift.explain(rest).partition(" If the")[0].endswith("is now: `POST down?allowDrift=true`.")
    )


def test_several_bad_files_are_named_in_one_message() -> None:
    problems = [
        errors.SourceError(FILE, "no up()."),
        errors.ImportFailedError(FILE, "it raised.", line=3, remedy="Run [up] again."),
    ]
    assert errors.SeveralErrors(problems).explain(rest) == (
        f"2 problems in the migrations folder:\n  {FILE}: no up().\n  {FILE}:3: it raised. Run `POST up` again."
    )


def test_an_error_keeps_its_facts_and_its_text_when_another_process_sends_it() -> None:
    for error in (
        errors.MigrateError("no.", "Run [up]."),
        errors.LeaseLostError("why"),
        errors.LockHeldError(a_lock()),
        errors.DriftError(7, "change", FILE),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_held_lock_says_who_for_what_since_when_and_until_when() -> None:
    said = str(errors.LockHeldError(a_lock()))
    assert "anna@web-1:4711 (up) holds the lock since 2026-11-22 10:28:35 UTC" in said
    assert "last heartbeat 2026-11-22 10:29:35 UTC" in said
    assert "expires at 2026-11-22 11:00:05 UTC" in said
    assert "`--wait SECONDS`" in said


def test_an_unconfirmed_unlock_says_whose_lock_it_is_and_how_old() -> None:
    said = str(errors.NotConfirmedError(a_lock()))
    assert said.startswith(
        "anna@web-1:4711 (host web-1, pid 4711) holds the lock for 90 s: up, last heartbeat "
    )
    assert "last heartbeat 2026-11-22 10:29:35 UTC" in said


def test_a_bad_file_is_named_with_its_line_when_that_is_known() -> None:
    assert str(errors.SourceError(FILE, "no.", line=3)) == f"{FILE}:3: no."
    assert str(errors.SourceError(FILE, "no.")) == f"{FILE}: no."


# --- secrets


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mongodb://anna:secret@host/db", "mongodb://***@host/db"),
        ("mongodb+srv://anna:secret@host/db", "mongodb+srv://***@host/db"),
        ("MongoDB://anna:secret@host/db", "MongoDB://***@host/db"),
        ("mongodb://an%40na:se%2Fcret@host", "mongodb://***@host"),
        ("mongodb://anna:sec/ret@host", "mongodb://***@host"),
        ("mongodb://anna:sec@ret@host", "mongodb://***@host"),
        ("mongodb://anna:sec'\"ret@host", "mongodb://***@host"),
        ("mongodb://anna@host", "mongodb://***@host"),
        ("mongodb://a:secret@h1,h2:27017/db?w=1", "mongodb://***@h1,h2:27017/db?w=1"),
        (
            "from mongodb://a:secret@h1/x to mongodb+srv://b:secret@h2/y.",
            "from mongodb://***@h1/x to mongodb+srv://***@h2/y.",
        ),
        ("[mongodb://a:secret@h1,mongodb://b:secret@h2]", "[mongodb://***@h1,mongodb://***@h2]"),
        (
            "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=secret&w=1",
            "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=***&w=1",
        ),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:secret",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:***",
        ),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN%3Asecret&w=1",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN%3A***&w=1",
        ),
    ],
)
def test_what_a_connection_string_keeps_secret_is_masked(text: str, masked: str) -> None:
    assert redact(text) == masked
    assert redact(masked) == masked


@pytest.mark.parametrize(
    "text", ["mongodb://localhost:27017/shop", "write to anna@example.org", "", "mongodb:// @"]
)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_secrets_are_masked_in_message_and_traceback_and_causes() -> None:
    error = RuntimeError("at mongodb://anna:secret@host")
    error.__cause__ = ValueError("mongodb+srv://bob:secret@cluster")
    info = capture(raised(error))
    assert info.message == "at mongodb://***@host"
    assert info.traceback is not None
    assert "mongodb+srv://***@cluster" in info.traceback
    assert "secret" not in info.traceback


# --- exceptions as they are recorded


def test_type_message_and_traceback_are_kept() -> None:
    info = capture(raised(KeyError("city")))
    assert (info.type, info.message) == ("KeyError", "'city'")
    assert info.traceback is not None
    assert info.traceback.startswith("Traceback (most recent call last):\n")
    assert "in raised\n" in info.traceback
    assert info.traceback.endswith("KeyError: 'city'\n")


def test_what_exits_or_interrupts_is_kept_as_well() -> None:
    assert capture(SystemExit(3)).message == "3"
    assert capture(KeyboardInterrupt()).type == "KeyboardInterrupt"


def test_the_whole_chain_of_causes_is_kept() -> None:
    first = raised(ZeroDivisionError("the first cause"))
    second = ValueError("the second")
    second.__cause__ = first
    third = KeyError("the third")
    third.__context__ = raised(second)
    trace = traceback_of(third)
    assert trace.index("the first cause") < trace.index("the second") < trace.index("the third")


def test_both_ends_of_a_long_chain_are_kept_within_the_limit() -> None:
    error: Exception = ValueError("the first cause")
    for number in range(400):
        following = RuntimeError(f"{number} {'x' * 100}")
        following.__cause__ = error
        error = following
    trace = traceback_of(error)
    assert len(trace.encode()) <= TRACEBACK_LIMIT
    assert trace.startswith("ValueError: the first cause\n")
    assert "\n ... cut ...\n" in trace
    assert trace.rstrip().endswith(f"399 {'x' * 100}")


@given(st.text(st.sampled_from("aé€🚀\ud800"), max_size=40), st.integers(1, 3_000))
def test_whatever_the_message_it_fits_the_limit_and_can_be_stored(text: str, times: int) -> None:
    info = capture(ValueError(text * times))
    assert info.traceback is not None
    for recorded in (info.message, info.traceback):
        assert len(recorded.encode()) <= TRACEBACK_LIMIT


@pytest.mark.parametrize("offset", range(4))
def test_no_character_is_cut_in_two(offset: int) -> None:
    message = capture(ValueError("a" * offset + "🚀" * TRACEBACK_LIMIT)).message
    assert len(message.encode()) > TRACEBACK_LIMIT - 10
    assert set(message.replace("\n ... cut ...\n", "")) <= {"a", "🚀"}


def test_a_message_of_exactly_the_limit_is_kept_whole() -> None:
    assert capture(ValueError("x" * TRACEBACK_LIMIT)).message == "x" * TRACEBACK_LIMIT
    cut = capture(ValueError("x" * (TRACEBACK_LIMIT + 1))).message
    assert len(cut) == TRACEBACK_LIMIT
    assert "cut" in cut


class MuteError(Exception):
    """Fails when it is asked what it says."""

    def __str__(self) -> str:
        raise LookupError("mute")


def test_an_exception_that_cannot_say_anything_hides_neither_itself_nor_its_cause() -> None:
    error = MuteError()
    error.__cause__ = ValueError("the first cause")
    info = capture(raised(error))
    assert (info.type, info.message) == (
        "MuteError",
        "<no message: its __str__() raised LookupError>",
    )
    assert info.traceback is not None
    assert "ValueError: the first cause" in info.traceback
    assert "in raised\n" in info.traceback


def test_an_exception_that_python_cannot_format_keeps_its_frames_and_its_message() -> None:
    class OddError(SyntaxError):
        def __getattribute__(self, name: str) -> object:
            if name in {"filename", "lineno", "text"}:
                raise LookupError(name)
            return super().__getattribute__(name)

    trace = traceback_of(OddError("odd mongodb://anna:secret@host"))
    assert "in raised\n" in trace
    assert "OddError: " in trace
    assert "secret" not in trace


def test_an_endless_recursion_is_kept_within_the_limit() -> None:
    def endless(depth: int) -> int:
        return other(depth + 1)

    def other(depth: int) -> int:
        return endless(depth + 1)

    with pytest.raises(RecursionError) as caught:
        endless(0)
    info = capture(caught.value)
    assert info.traceback is not None
    assert len(info.traceback.encode()) <= TRACEBACK_LIMIT
    assert "test_an_endless_recursion" in info.traceback
    assert "RecursionError: maximum recursion depth exceeded" in info.traceback


def test_a_chain_of_a_thousand_causes_is_no_obstacle() -> None:
    error: Exception = ValueError("the first cause")
    for _ in range(1_000):
        following = RuntimeError("again")
        following.__context__ = error
        error = following
    assert traceback_of(error).rstrip().endswith("RuntimeError: again")


def test_an_exception_that_is_its_own_cause_is_no_obstacle() -> None:
    error = ValueError("round")
    error.__cause__ = error
    assert traceback_of(error).count("ValueError: round") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no exception groups before 3.11")
def test_a_group_of_exceptions_keeps_each_of_them() -> None:
    group = vars(builtins)["ExceptionGroup"]("several", [ValueError("one"), KeyError("two")])
    info = capture(raised(group))
    assert info.type == "ExceptionGroup"
    assert info.traceback is not None
    assert "ValueError: one" in info.traceback
    assert "KeyError: 'two'" in info.traceback


def test_the_message_of_an_exception_is_masked() -> None:
    assert message_of(ValueError("mongodb://anna:secret@host")) == "mongodb://***@host"
