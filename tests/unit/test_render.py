"""Reports as text: in a pipe, on terminals of every width, on streams that know only ASCII."""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect

from flask_migrate_mongo.engine.calling import log_of
from flask_migrate_mongo.model.errors import LeaseLostError, LockHeldError, RunStoppedError
from flask_migrate_mongo.model.reports import (
    EventsReport,
    HistoryReport,
    LockReport,
    Outcome,
    ReleaseReport,
    RunReport,
    StepState,
)
from flask_migrate_mongo.model.values import (
    Direction,
    ErrorInfo,
    Event,
    Plan,
    Progress,
    Record,
    Status,
    StatusReport,
)
from flask_migrate_mongo.planning.plans import survey
from flask_migrate_mongo.process import Stopped
from flask_migrate_mongo.reports import console, failures, runs, states, tables, words
from tests.waiting import until

from .given import NOW, a_dry_run, a_file, a_lock, a_record, a_step, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.values import LockState

ESC = "\x1b[31mred\x1b]0;title\a\r\n\u202e"
WRITTEN_OUT = r"\x1b[31mred\x1b]0;title\x07\r\n\u202e"
TRACEBACK = """Traceback (most recent call last):
  File "/app/lib/site-packages/flask_migrate_mongo/engine/calling.py", line 24, in call_function
    function()
  File "/shop/migrations/2_change.py", line 7, in up
    fix(db)
    ^^^^^^^
  File "/shop/migrations/2_change.py", line 12, in fix
    db.cities.insert_one({"_id": 5})
  File "/app/lib/site-packages/pymongo/collection.py", line 883, in insert_one
    raise ValueError
ValueError: no such city
"""
ERROR = ErrorInfo("ValueError", "no such city", TRACEBACK)
APPLIED = Outcome(a_step(1), StepState.APPLIED, 12)
FAILED = Outcome(a_step(2), StepState.FAILED, 1500, ERROR)
LEFT = (Outcome(a_step(3)), Outcome(a_step(4)))


class Stream(io.TextIOWrapper):
    """A stream that keeps what was written to it, and may pass for a terminal."""

    def __init__(self, *, tty: bool, encoding: str) -> None:
        self._kept = io.BytesIO()
        self._tty = tty
        super().__init__(self._kept, encoding=encoding)

    def isatty(self) -> bool:
        return self._tty

    def text(self) -> str:
        self.flush()
        return self._kept.getvalue().decode(self.encoding)


class Streams:
    """The two streams of a process, once they are open: before the test, pytest has its own there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)

    def open(self, *, tty: bool = False, encoding: str = "utf-8", columns: int = 120) -> None:
        self._monkeypatch.setenv("COLUMNS", str(columns))
        self._monkeypatch.setenv("TERM", "xterm-256color")
        self.stdout = Stream(tty=tty, encoding=encoding)
        self.stderr = Stream(tty=tty, encoding=encoding)
        self._monkeypatch.setattr(sys, "stdout", self.stdout)
        self._monkeypatch.setattr(sys, "stderr", self.stderr)

    @property
    def out(self) -> str:
        return self.stdout.text()

    @property
    def err(self) -> str:
        return self.stderr.text()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(monkeypatch)


def plain(text: str) -> str:
    """Return the text without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def a_status(*, name: str = "change", lock: LockState | None = None) -> StatusReport:
    files = [
        a_file(1, name=name),
        a_file(2, checksum="other", reversible=False),
        a_file(4, name=name),
        a_file(5, name=name),
        a_file(7, name=name),
    ]
    history = recorded(
        a_record(1, applied_at=NOW, execution_ms=12),
        a_record(2, applied_at=NOW, execution_ms=61_234),
        a_record(3, name=name, applied_at=NOW),
        a_record(4, Status.FAILED, error=replace(ERROR, message=name), interrupted=True),
        a_record(5, Status.RUNNING),
    )
    return StatusReport(survey(files, history), lock, (f"8_{name}.js",))


def a_page(*records: Record) -> HistoryReport:
    return HistoryReport(records)


def a_run(*outcomes: Outcome, **changes: object) -> RunReport:
    values = {"executed": True, "run_id": "f00d", "batch": 3, "took_ms": 20, **changes}
    return RunReport(Direction.UP, outcomes, **values)  # type: ignore[arg-type]


def show(report: RunReport, *, verbose: bool = False) -> None:
    """Print a run, and before that each of its steps as it ended."""
    progress = runs.ProgressReporter(verbose=verbose)
    for outcome in report.outcomes:
        if outcome.state is not StepState.NOT_RUN:
            progress.ended(outcome)
    runs.run(report, progress)


def an_event(details: str = "up") -> Event:
    return Event(details, NOW, 7, {"by": details, "reason": details, "executionTime": 5})


def odd(name: str) -> dict[str, Callable[[], None]]:
    """Return every report there is, about things of this name."""
    step = a_step(1, name=name)
    error = ErrorInfo("ValueError", name, name)
    lock = a_lock(holder=name, reason=name)
    failed = Outcome(step, StepState.FAILED, 1, error)

    def start() -> None:
        progress = runs.ProgressReporter()
        progress.started(step)
        log_of(step).info("%s", name)
        progress.close()

    return {
        "status": lambda: states.status(a_status(name=name, lock=lock), NOW),
        "full status": lambda: states.full_status(a_status(name=name, lock=lock)),
        "records": lambda: states.records(a_page(a_record(1, name=name))),
        "events": lambda: states.events(
            EventsReport((an_event(name), Event("failed", NOW, None, {}, error))),
        ),
        "lock": lambda: states.lock(LockReport(lock)),
        "expired": lambda: states.lock(LockReport(a_lock(holder=name, reason=name, expires_in=-1))),
        "unlocked": lambda: states.unlocked(ReleaseReport(lock)),
        "run": lambda: show(a_run(failed, warnings=(name,), error=LeaseLostError(name))),
        "dry run": lambda: show(a_dry_run(name)),
        "error": lambda: console.error(ValueError(name)),
        "started": start,
        "ended": lambda: runs.ProgressReporter().ended(failed),
    }


REPORTS = list(odd(""))


# --- pipes, terminals, encodings


@pytest.mark.parametrize("report", REPORTS)
def test_in_a_pipe_nothing_is_coloured_and_nothing_is_wrapped_or_cut(
    streams: Streams, report: str
) -> None:
    streams.open(columns=20)
    name = "long " * 3_000 + "end"
    odd(name)[report]()
    said = streams.out + streams.err
    assert "\x1b" not in said
    assert any(name in line for line in said.splitlines())
    assert all(line == line.rstrip() for line in said.splitlines())


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("report", REPORTS)
def test_what_could_steer_a_terminal_is_written_out(
    streams: Streams, report: str, *, tty: bool
) -> None:
    streams.open(tty=tty, columns=300)
    odd(ESC)[report]()
    said = streams.out + streams.err
    for raw in ("\x1b[31mred", "\x1b]", "\a", "\u202e"):
        assert raw not in said
    assert r"\x1b[31mred\x1b]0;title\x07\r" in plain(said)


@given(st.text(st.characters()))
def test_what_is_printable_is_one_line_of_nothing_but_visible_characters(text: str) -> None:
    assert console.printable(text).isprintable()


def test_a_name_of_two_lines_takes_one_row(streams: Streams) -> None:
    streams.open()
    states.records(a_page(a_record(1, name="one\ntwo"), a_record(2)))
    header, first, second = streams.out.splitlines()
    assert first.startswith(r"1        one\ntwo  applied")
    assert second.startswith("2        change 2  applied")
    assert header.startswith("Version  Name      Status")


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("report", REPORTS)
def test_a_stream_that_does_not_know_a_character_gets_it_written_out(
    streams: Streams, report: str, encoding: str, *, tty: bool
) -> None:
    streams.open(tty=tty, encoding=encoding, columns=300)
    odd("Łódź 🚀")[report]()
    assert r"\u0141" in streams.out + streams.err


@pytest.mark.parametrize("columns", [1, 10, 80, 100])
@pytest.mark.parametrize("report", [report for report in REPORTS if report != "started"])
def test_on_a_narrow_terminal_nothing_is_lost(streams: Streams, report: str, columns: int) -> None:
    streams.open(tty=True, columns=columns)
    odd("a name of some words")[report]()
    said = plain(streams.out + streams.err)
    assert "…" not in said
    for word in ("name", "words"):
        assert word in said


@pytest.mark.parametrize("report", ["status", "full status", "records", "lock"])
def test_half_a_terminal_is_enough(streams: Streams, report: str) -> None:
    streams.open(tty=True, columns=40)
    odd("a name of some words")[report]()
    assert max(map(len, plain(streams.out).splitlines())) <= 40


def test_a_table_that_fits_a_terminal_has_a_rule_and_colours(streams: Streams) -> None:
    streams.open(tty=True)
    states.records(a_page(a_record(1, applied_at=NOW)))
    assert "\x1b[32mapplied" in streams.out
    assert "──────" in streams.out


def test_a_long_name_is_wrapped_on_a_terminal_and_the_rest_is_not(streams: Streams) -> None:
    streams.open(tty=True, columns=100)
    states.records(a_page(a_record(20261122001, name="word " * 50, applied_at=NOW)))
    lines = plain(streams.out).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("20261122001" in line and "2026-11-22 10:30:05" in line for line in lines)


def test_columns_are_aligned_by_what_a_terminal_shows(streams: Streams) -> None:
    streams.open()
    states.records(a_page(a_record(1, name="索引"), a_record(2, name="a" * 6)))
    _, first, second = streams.out.splitlines()
    assert first == "1        索引    applied"
    assert second == "2        aaaaaa  applied"


def test_no_colour_is_used_where_none_is_wanted(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.open(tty=True)
    monkeypatch.setenv("NO_COLOR", "1")
    states.records(a_page(a_record(1)))
    assert "\x1b[3" not in streams.out


def test_markup_in_names_is_no_markup(streams: Streams) -> None:
    streams.open()
    states.records(a_page(a_record(1, name="[bold]x[/bold] :rocket: [/]")))
    assert "[bold]x[/bold] :rocket: [/]" in streams.out


@pytest.mark.parametrize("when", ["write", "flush"])
def test_progress_that_nobody_can_read_any_more_ends_nothing(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError

    streams.open()
    monkeypatch.setattr(streams.stderr, when, broken)
    progress = runs.ProgressReporter()
    progress.started(APPLIED.step)
    progress.ended(APPLIED)
    console.error(ValueError("x"))


# --- status


def test_the_short_status_counts_and_says_what_needs_a_person(streams: Streams) -> None:
    streams.open()
    states.status(a_status(), NOW + timedelta(days=4, hours=2))
    assert streams.out.splitlines() == [
        "  3 applied, last 3 change (4 days ago)",
        "  1 left running by a run that crashed",
        "    5  change",
        "    Continue: flask db-migrate up",
        "  1 interrupted half-way",
        "    4  change  ValueError: change",
        "    Look at the data. Then: flask db-migrate up, or flask db-migrate resolve 4 --applied|--not-applied --reason TEXT",
        "  1 pending",
        "    7  change",
        "    Apply: flask db-migrate up",
        "  1 changed since applied",
        "    2  change 2",
        "    Compare: flask db-migrate show 2. Accept: flask db-migrate resolve 2 --accept-file --reason TEXT",
        "  1 recorded, and the file is missing",
        "    3  change",
        "    Restore the file, or: flask db-migrate resolve 3 --forget --reason TEXT",
        "Ignored, because only files in the folder itself that end in .py are migrations: 8_change.js. Move them into the folder, or delete them.",
    ]


def test_the_short_status_lists_no_more_than_a_screen(streams: Streams) -> None:
    streams.open()
    files = [a_file(number) for number in range(1, 303)]
    states.status(StatusReport(survey(files, recorded()), None), NOW)
    lines = streams.out.splitlines()
    assert lines[:2] == ["  0 applied", "  302 pending"]
    assert lines[-2:] == [
        "    and 282 more: flask db-migrate status --all",
        "    Apply: flask db-migrate up",
    ]
    assert len(lines) == 24


def test_the_short_status_marks_what_was_not_applied_in_order(streams: Streams) -> None:
    streams.open()
    found = survey([a_file(1), a_file(2), a_file(3)], recorded(a_record(3, applied_at=NOW)))
    states.status(StatusReport(found, None), NOW)
    assert "  2 of them out of order: a higher number is applied" in streams.out.splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (4 * 86_400, "4 days ago"),
        (400 * 86_400, "1 year ago"),
    ],
)
def test_a_time_is_told_by_how_long_ago_it_was(seconds: int, text: str) -> None:
    assert words.ago(NOW, NOW + timedelta(seconds=seconds)) == text


# --- tables on a terminal


HEADINGS = (
    "Version",
    "Name",
    "Status",
    "Applied at (UTC)",
    "Rolled back at (UTC)",
    "Took",
    "Batch",
)
WIDE = (11, 60, 11, 19, 19, 7, 5)


@pytest.mark.parametrize(
    ("available", "columns", "name"),
    [
        (144, HEADINGS, 60),
        (130, HEADINGS, 46),
        (107, HEADINGS[:6], 30),
        (80, ("Version", "Name", "Status", "Applied at (UTC)", "Took"), 24),
        (78, ("Version", "Name", "Status", "Applied at (UTC)"), 31),
        (50, ("Version", "Name", "Status"), 24),
        (40, ("Version", "Name", "Status"), 14),
        (10, ("Version", "Name", "Status"), 24),
    ],
)
def test_columns_are_left_out_in_their_order_and_names_get_what_is_left(
    available: int, columns: tuple[str, ...], name: int
) -> None:
    found = tables.layout(HEADINGS, WIDE, available)
    assert tuple(HEADINGS[each] for each in found.columns) == columns
    assert found.widths[1] == name


def test_an_empty_column_goes_first(streams: Streams) -> None:
    streams.open(tty=True, columns=90)
    states.records(a_page(a_record(20261122001, name="n" * 25, applied_at=NOW, batch=3)))
    header, *_ = plain(streams.out).splitlines()
    assert header.endswith("  Batch")
    assert "Rolled back" not in header


def test_a_name_is_shortened_on_a_terminal_alone(streams: Streams) -> None:
    page = a_page(a_record(20261122001, name="x" * 300, applied_at=NOW, execution_ms=5))
    streams.open(tty=True, columns=80)
    states.records(page)
    assert "xxx…  applied" in plain(streams.out)
    assert max(map(len, plain(streams.out).splitlines())) <= 80
    streams.open(tty=True, columns=80, encoding="ascii")
    states.records(page)
    assert "xxx...  applied" in plain(streams.out)
    streams.open()
    states.records(page)
    assert "x" * 300 in streams.out


def test_notes_stand_under_their_row_where_they_do_not_fit_beside_it(streams: Streams) -> None:
    streams.open(tty=True, columns=60)
    reason = "because it was done by hand on all servers of the old cluster"
    events = (
        Event("resolved", NOW, 1, {"by": "anna", "reason": "seen"}),
        Event("resolved", NOW, 2, {"by": "anna", "reason": reason}),
        Event("resolved", NOW, 3, {"by": "anna", "reason": "y" * 300}),
    )
    states.events(EventsReport(events))
    lines = plain(streams.out).splitlines()
    assert lines[0] == "At (UTC)             Version  Event     By    Details"
    assert lines[2] == "2026-11-22 10:30:05  1        resolved  anna  reason seen"
    assert lines[3:6] == [
        "2026-11-22 10:30:05  2        resolved  anna",
        "    reason because it was done by hand on all servers of the",
        "      old cluster",
    ]
    assert max(map(len, lines)) <= 60
    assert "".join(line.strip() for line in lines[7:]).count("y") == 300


def test_a_line_is_wrapped_between_words_on_a_terminal_alone(streams: Streams) -> None:
    text = "  a sentence of several words, one of which is " + "w" * 90
    streams.open(tty=True, columns=40)
    console.out().say(text)
    lines = plain(streams.out).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0] == "  a sentence of several words, one of"
    assert lines[1].startswith("    which is")
    streams.open(columns=40)
    console.out().say(text)
    assert streams.out == f"{text}\n"


# --- the full status


def test_status_shows_every_version_with_what_is_true_of_it(streams: Streams) -> None:
    streams.open()
    states.full_status(a_status())
    rows = [line.split("  ") for line in streams.out.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert cells["Version"] == ["Name", "State", "Applied at (UTC)", "Took", "Notes"]
    at = "2026-11-22 10:30:05"
    assert cells["1"] == ["change", "applied", at, "12 ms"]
    assert cells["2"] == ["change 2", "applied", at, "1 min 01 s", "changed since, not reversible"]
    assert cells["3"] == ["change", "applied", at, "file missing"]
    assert cells["4"] == ["change", "failed", "interrupted"]
    assert cells["5"] == ["change", "running", "its run crashed"]
    assert cells["7"] == ["change", "pending"]


def test_status_sums_up_and_names_errors_and_passed_over_files(streams: Streams) -> None:
    streams.open()
    states.full_status(a_status())
    assert streams.out.splitlines()[-3:] == [
        "4 failed: ValueError: change",
        "6 migrations: 3 applied, 1 pending, 1 failed, 1 running.",
        "Ignored, because only files in the folder itself that end in .py are migrations: 8_change.js. Move them into the folder, or delete them.",
    ]


def test_status_of_one_migration_counts_it_in_the_singular(streams: Streams) -> None:
    streams.open()
    states.full_status(StatusReport(survey([a_file(1)], recorded()), None))
    assert streams.out.splitlines()[-1] == "1 migration: 0 applied, 1 pending, 0 failed."


def test_status_marks_what_is_out_of_order(streams: Streams) -> None:
    streams.open()
    states.full_status(StatusReport(survey([a_file(1), a_file(2)], recorded(a_record(2))), None))
    assert re.search(r"^1 .* pending .* out of order$", streams.out, re.MULTILINE)


def test_status_shows_a_failure_of_which_no_error_was_recorded(streams: Streams) -> None:
    streams.open()
    states.full_status(
        StatusReport(survey([a_file(1)], recorded(a_record(1, Status.FAILED))), None)
    )
    assert streams.out.splitlines()[-1] == "1 migration: 0 applied, 0 pending, 1 failed."


def test_status_of_an_empty_project_says_how_to_begin(streams: Streams) -> None:
    streams.open()
    states.full_status(StatusReport(survey([], recorded()), None))
    assert streams.out.splitlines() == [
        "0 migrations: 0 applied, 0 pending, 0 failed.",
        'Make the first one: flask db-migrate create "add user index"',
    ]


def test_status_ends_with_the_lock_when_there_is_one(streams: Streams) -> None:
    streams.open()
    states.full_status(a_status(lock=a_lock()))
    assert "The lock is held by anna@web-1:4711 (up)" in streams.out.splitlines()[-2]


# --- history, trail, lock


def test_records_are_shown_with_their_times(streams: Streams) -> None:
    streams.open()
    later = NOW + timedelta(hours=1)
    states.records(
        a_page(a_record(7, Status.ROLLED_BACK, applied_at=NOW, rolled_back_at=later, batch=3))
    )
    _, row = streams.out.splitlines()
    at, undone_at = "2026-11-22 10:30:05", "2026-11-22 11:30:05"
    assert re.split(r"\s{2,}", row) == ["7", "change 7", "rolled-back", at, undone_at, "3"]


def test_an_empty_history_and_an_empty_trail_say_so(streams: Streams) -> None:
    streams.open()
    states.records(a_page())
    states.events(EventsReport(()))
    assert streams.out == "Nothing is recorded.\nNothing has happened yet.\n"


def test_events_are_shown_with_who_did_what_and_why(streams: Streams) -> None:
    streams.open()
    states.events(
        EventsReport(
            (
                Event("completed", NOW, 7, {"by": "anna", "executionTime": 5, "direction": "up"}),
                Event("failed", NOW, 8, {"by": "bob"}, ERROR),
                Event("unlocked", NOW, None, {"by": "eve", "of": "anna", "ofRun": "f00d"}),
            )
        )
    )
    rows = [re.split(r"\s{2,}", line) for line in streams.out.splitlines()]
    at = "2026-11-22 10:30:05"
    assert rows == [
        ["At (UTC)", "Version", "Event", "By", "Took", "Details"],
        [at, "7", "applied", "anna", "5 ms"],
        [at, "8", "failed", "bob", "ValueError: no such city"],
        [at, "lock", "unlocked", "eve", "of anna, ofRun f00d"],
    ]


def test_a_free_lock_is_said_to_be_free(streams: Streams) -> None:
    streams.open()
    states.lock(LockReport(None))
    states.unlocked(ReleaseReport(None))
    assert streams.out == "The lock is free.\nNothing to do: the lock is free.\n"


def test_a_live_lock_says_whose_it_is_until_when_and_what_to_do(streams: Streams) -> None:
    streams.open()
    states.lock(LockReport(a_lock()))
    assert streams.out == (
        "The lock is held by anna@web-1:4711 (up), since 2026-11-22 10:28:35 UTC, last heartbeat "
        "2026-11-22 10:29:35 UTC.\n"
        "It ends at 2026-11-22 11:00:05 UTC unless renewed. If that process is dead: "
        "flask db-migrate force-unlock --confirm\n"
    )


def test_an_expired_lock_is_not_said_to_be_held(streams: Streams) -> None:
    streams.open()
    states.lock(LockReport(a_lock(expires_in=-10)))
    first, second = streams.out.splitlines()
    assert first.startswith("The lock was left by anna@web-1:4711 (up)")
    assert second == "It expired at 2026-11-22 10:29:55 UTC. The next run takes it over."


def test_a_release_says_whose_lock_it_was(streams: Streams) -> None:
    streams.open()
    states.unlocked(ReleaseReport(a_lock()))
    assert streams.out == "Released the lock of anna@web-1:4711 (up).\n"


# --- runs


def test_a_run_that_did_everything_says_how_much_and_how_long(streams: Streams) -> None:
    streams.open()
    show(a_run(APPLIED, replace(APPLIED, step=a_step(2), took_ms=1_000), took_ms=1_234))
    assert streams.out.splitlines() == [
        "✓ 1 change 1  applied in 12 ms",
        "✓ 2 change 2  applied in 1.00 s",
        "Applied 2 migrations as batch 3 in 1.23 s.",
    ]
    assert streams.err == ""


def test_a_run_down_of_one_is_told_in_the_singular_and_has_no_batch(streams: Streams) -> None:
    streams.open()
    done = Outcome(a_step(1, Direction.DOWN), StepState.ROLLED_BACK, 5)
    show(RunReport(Direction.DOWN, (done,), executed=True, took_ms=7))
    assert streams.out.splitlines()[-1] == "Rolled back 1 migration in 7 ms."


@pytest.mark.parametrize(
    ("direction", "said"),
    [
        (Direction.UP, "Nothing to do: every migration is applied.\n"),
        (Direction.DOWN, "Nothing to do: no migration is applied.\n"),
    ],
)
@pytest.mark.parametrize("executed", [False, True])
def test_a_run_with_nothing_to_do_says_so(
    streams: Streams, direction: Direction, said: str, *, executed: bool
) -> None:
    streams.open()
    show(RunReport(direction, (), executed=executed))
    assert (streams.out, streams.err) == (said, "")


def test_a_run_that_failed_half_way_says_what_was_done_what_failed_and_what_is_left(
    streams: Streams,
) -> None:
    streams.open()
    show(a_run(APPLIED, FAILED, *LEFT))
    assert streams.out.splitlines() == [
        "✓ 1 change 1  applied in 12 ms",
        "Applied 1 migration as batch 3 in 20 ms. 2 later migrations were not run.",
    ]
    assert streams.err.splitlines() == [
        "✗ 2 change 2  failed after 1.50 s",
        '  migrations/2_change.py:12 in fix()  db.cities.insert_one({"_id": 5})',
        "  ValueError: no such city",
        "  Not transactional: what it wrote before line 7 stays.",
        "Fix the file, then: flask db-migrate up",
        "Traceback: -v, or flask db-migrate show 2",
    ]


def test_a_traceback_is_shown_on_demand_once(streams: Streams) -> None:
    streams.open()
    show(a_run(FAILED), verbose=True)
    assert f"    {TRACEBACK.splitlines()[1]}" in streams.err.splitlines()
    assert streams.err.count("/shop/migrations/2_change.py") == 2
    assert "Traceback: -v" not in streams.err


def test_the_line_of_a_failure_is_the_last_one_of_its_own_folder(streams: Streams) -> None:
    streams.open()
    other = TRACEBACK.replace("/shop/migrations/", "/elsewhere/")
    for trace, shown in ((TRACEBACK, "2_change.py:12 in fix()"), (other, None), (None, None)):
        place = failures.place(ErrorInfo("ValueError", "x", trace), a_step(2))
        assert (None if place is None else str(place)) == (shown and f"migrations/{shown}")


def test_a_line_of_which_no_source_is_known_is_shown_without(streams: Streams) -> None:
    streams.open()
    trace = TRACEBACK.replace('    db.cities.insert_one({"_id": 5})\n', "")
    show(a_run(replace(FAILED, error=replace(ERROR, traceback=trace))))
    assert "  migrations/2_change.py:12 in fix()" in streams.err.splitlines()


PARTLY = Progress("orders", 2_000, 5_000)


@pytest.mark.parametrize(
    ("changes", "kept", "advice"),
    [
        ({"in_transaction": True}, "Transactional: nothing of it was kept.", "up"),
        (
            {"step": a_step(2, transactional=True)},
            "Its server has no transactions: what it wrote before line 7 stays.",
            "up",
        ),
        (
            {"backfill": PARTLY},
            "orders: 2,000 of about 5,000 documents done; `up` continues there.",
            "up --allow-drift",
        ),
        (
            {"backfill": Progress("orders", 7)},
            "orders: 7 documents done; `up` continues there.",
            "up --allow-drift",
        ),
    ],
)
def test_a_failure_says_what_is_kept_and_what_to_type(
    streams: Streams, changes: dict[str, object], kept: str, advice: str
) -> None:
    streams.open()
    show(a_run(replace(FAILED, **changes)))  # type: ignore[arg-type]
    assert f"  {kept}" in streams.err.splitlines()
    assert f"Fix the file, then: flask db-migrate {advice}" in streams.err.splitlines()


def test_a_server_that_went_away_is_no_fault_of_the_file(streams: Streams) -> None:
    streams.open()
    show(a_run(replace(FAILED, cause=AutoReconnect("gone"))))
    assert "Wait until the server answers, then: flask db-migrate up\n" in streams.err


def test_a_failed_down_says_that_the_migration_is_still_applied(streams: Streams) -> None:
    streams.open()
    down = replace(FAILED, step=a_step(2, Direction.DOWN))
    show(RunReport(Direction.DOWN, (down,), executed=True))
    assert streams.out == "No migration was rolled back.\n"
    assert "what it wrote stays. It is still applied.\n" in streams.err
    assert "then: flask db-migrate down --allow-drift\n" in streams.err


def test_a_redo_that_failed_is_repeated_as_one(streams: Streams) -> None:
    streams.open()
    down = Outcome(a_step(2, Direction.DOWN), StepState.ROLLED_BACK, 5)
    show(a_run(down, FAILED))
    assert "then: flask db-migrate redo\n" in streams.err
    show(a_run(replace(FAILED, step=a_step(2, Direction.DOWN)), Outcome(a_step(2))))
    assert "later" not in streams.out


def test_a_stop_is_no_failure_and_says_how_far_the_backfill_is(streams: Streams) -> None:
    streams.open()
    stopped = replace(FAILED, cause=Stopped("SIGINT"), backfill=PARTLY)
    show(a_run(stopped, *LEFT, error=RunStoppedError("Stopped by SIGINT.", "Continue: [up].")))
    assert streams.err.splitlines() == [
        "- 2 change 2  stopped after 1.50 s by SIGINT",
        '  migrations/2_change.py:12 in fix()  db.cities.insert_one({"_id": 5})',
        "  orders: 2,000 of about 5,000 documents done; `up` continues there.",
        "To continue: flask db-migrate up",
    ]
    assert streams.out == "2 later migrations were not run.\n"


def test_a_stop_between_two_steps_says_what_stopped_it(streams: Streams) -> None:
    streams.open()
    show(a_run(APPLIED, *LEFT, error=RunStoppedError("Stopped by SIGTERM.", "Continue: [up].")))
    assert streams.out.endswith("in 20 ms. 2 later migrations were not run.\n")
    assert "Stopped by SIGTERM." in streams.err
    assert "ValueError" not in streams.err


def test_an_error_that_was_recorded_without_its_traceback_is_shown(streams: Streams) -> None:
    streams.open()
    show(a_run(replace(FAILED, error=ErrorInfo("ValueError", "x"))))
    assert streams.err.splitlines()[1:3] == [
        "  ValueError: x",
        "  Not transactional: what it wrote stays.",
    ]


def test_a_run_that_something_ended_says_what_it_was_once(streams: Streams) -> None:
    streams.open()
    lost = LeaseLostError("why")
    unknown = Outcome(a_step(2), StepState.UNKNOWN, 9, ErrorInfo("LeaseLostError", str(lost)))
    show(a_run(APPLIED, unknown, *LEFT, error=lost))
    assert streams.err == (
        f"✗ 2 change 2  not known whether it took effect after 9 ms\nError: {lost}\n"
    )


def test_a_dry_run_shows_verdict_effects_samples_and_what_was_not_executed(
    streams: Streams,
) -> None:
    streams.open()
    show(a_dry_run("goods"))
    assert streams.out.splitlines() == [
        "✗ 1 goods  would fail (250 ms, 8,040 documents/s)",
        "  ValueError: goods",
        "  goods: 1 inserted, 2,000 matched, 3 modified, 4 deleted, 5 upserted",
        "  not executed: createIndexes goods: about 3 documents; goods",
        "  not executed: drop goods",
        "  goods 7",
        "    - goods: 1",
        '    + goods: "goods"',
        "  goods 8",
        "    + _id: 8",
        "- 2 change 2  not executed",
        "  goods would fail before it",
        "Dry run of 2 migrations: 1 would fail, 1 not executed. Everything was rolled back: nothing was changed.",
    ]
    assert streams.err == "Fix the file, then: flask db-migrate up --dry-run\nTraceback: -v\n"


def test_a_dry_run_shows_each_verdict_once(streams: Streams) -> None:
    streams.open()
    progress = runs.ProgressReporter()
    for outcome in a_dry_run().outcomes:
        progress.started(outcome.step)
        progress.ended(outcome)
    assert (streams.out, streams.err) == ("", "")


def test_an_error_keeps_its_lines_and_goes_to_stderr(streams: Streams) -> None:
    streams.open()
    console.error(LockHeldError(a_lock()))
    console.error(ValueError("one\n  two"))
    assert streams.out == ""
    assert streams.err == f"Error: {LockHeldError(a_lock())}\nError: one\n  two\n"


# --- progress


@pytest.mark.parametrize(
    ("state", "encoding", "line"),
    [
        (StepState.APPLIED, "utf-8", "✓ 1 change 1  applied in 12 ms"),
        (StepState.ROLLED_BACK, "utf-8", "✓ 1 change 1  rolled back in 12 ms"),
        (StepState.FAILED, "utf-8", "✗ 1 change 1  failed after 12 ms"),
        (StepState.UNKNOWN, "utf-8", "✗ 1 change 1  not known whether it took effect after 12 ms"),
        (StepState.NOT_RUN, "utf-8", "- 1 change 1  not run after 12 ms"),
        (StepState.APPLIED, "ascii", "+ 1 change 1  applied in 12 ms"),
        (StepState.FAILED, "latin-1", "! 1 change 1  failed after 12 ms"),
        (StepState.NOT_RUN, "ascii", "- 1 change 1  not run after 12 ms"),
    ],
)
def test_in_a_pipe_each_step_has_one_line(
    streams: Streams, state: StepState, encoding: str, line: str
) -> None:
    streams.open(encoding=encoding)
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    assert streams.out + streams.err == ""
    outcome = Outcome(a_step(1), state, 12)
    progress.ended(outcome)
    shown, other = (streams.out, streams.err) if outcome.succeeded else (streams.err, streams.out)
    assert shown.splitlines()[0] == line
    assert other == ""


def test_a_step_that_never_started_is_shown_without_a_time(streams: Streams) -> None:
    streams.open()
    runs.ProgressReporter().ended(LEFT[0])
    assert streams.err == "- 3 change 3  not run\n"


def test_what_a_step_logs_stands_below_its_name_once(streams: Streams) -> None:
    streams.open()
    progress = runs.ProgressReporter()
    progress.planned(Plan(Direction.UP, (a_step(1), a_step(2))))
    progress.started(a_step(1))
    log_of(a_step(1)).info("one\nline")
    log_of(a_step(1)).info("two")
    progress.ended(APPLIED)
    assert streams.err == "1 of 2  1 change 1:\n  one\n  line\n  two\n"
    assert streams.out == "✓ 1 change 1  applied in 12 ms\n"


def test_in_a_pipe_a_long_step_says_now_and_then_that_it_runs(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LINE_SECONDS", 0.02)
    streams.open()
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    until(lambda: "running for" in streams.err)
    progress.progressed(a_step(1), PARTLY)
    until(lambda: str(PARTLY) in streams.err)
    progress.ended(APPLIED)
    said = streams.err
    assert said.startswith("1 change 1:\n  running for ")
    progress.ended(APPLIED)
    time.sleep(0.1)
    assert streams.err == said


def test_a_pause_is_said_at_once_and_so_is_its_end(streams: Streams) -> None:
    streams.open()
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    for paused in (False, True, True, False):
        progress.progressed(a_step(1), replace(PARTLY, paused=paused))
    progress.close()
    assert streams.err.splitlines() == [
        "1 change 1:",
        "  orders: 2,000 of about 5,000 documents done, paused",
        "  To continue: flask db-migrate resume",
        "  resumed",
    ]


def test_who_waits_for_the_lock_is_told_who_has_it(streams: Streams) -> None:
    streams.open()
    runs.ProgressReporter().waiting(a_lock(), 30)
    assert streams.err == (
        "Waiting for the lock of anna on web-1, pid 4711 (up), since 2026-11-22 10:28:35 UTC "
        "(1 min 30 s), for at most 30 s ...\n"
    )


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_what_runs_is_shown_with_its_time_until_it_ended(
    streams: Streams, columns: int
) -> None:
    streams.open(tty=True, columns=columns)
    progress = runs.ProgressReporter()
    progress.planned(Plan(Direction.UP, (a_step(1, name="索引" * 30), a_step(2))))
    progress.started(a_step(1, name="索引" * 30))
    progress.progressed(a_step(1), PARTLY)
    until(lambda: "  1 s" in plain(streams.err))
    drawn = [line for line in re.split("[\r\n]", plain(streams.err)) if line.strip()]
    assert all(console.width(line) <= columns for line in drawn)
    assert any("1 of 2  1 索引索引" in line for line in drawn)
    assert any("orders: 2,000 of" in line for line in drawn)
    assert streams.err.count("\x1b[?25l") == 1
    progress.ended(APPLIED)
    assert streams.err.count("\x1b[?25h") == 1
    assert plain(streams.out) == "✓ 1 change 1  applied in 12 ms\n"


def test_progress_that_is_closed_before_the_step_ended_gives_the_cursor_back(
    streams: Streams,
) -> None:
    streams.open(tty=True)
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    progress.close()
    assert "\x1b[?25h" in streams.err
    progress.close()
    assert streams.err.count("\x1b[?25h") == 1


def test_forced_colours_in_a_pipe_bring_no_spinner(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.open()
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    progress.close()
    assert streams.err == ""


def test_names_are_shortened_on_a_terminal_alone(streams: Streams) -> None:
    long = replace(APPLIED, step=a_step(20261124001, name="word " * 40))
    streams.open(tty=True, columns=80)
    runs.ProgressReporter().ended(long)
    (line,) = plain(streams.out).splitlines()
    assert len(line) <= 80
    assert line.startswith("✓ 20261124001 word word")
    assert line.endswith("…  applied in 12 ms")
    streams.open(columns=80)
    runs.ProgressReporter().ended(long)
    assert "word " * 39 in streams.out


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, ""),
        (999, "999 ms"),
        (59_990, "59.99 s"),
        (60_000, "1 min 00 s"),
        (61_234, "1 min 01 s"),
        (3_599_400, "59 min 59 s"),
        (3_599_600, "1 h 00 min"),
        (7_200_000, "2 h 00 min"),
    ],
)
def test_durations_above_a_minute_are_in_minutes_and_hours(ms: int | None, shown: str) -> None:
    assert words.took(ms) == shown
