"""Reports as text: in a pipe, on terminals of every width, on streams that know only ASCII."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_migrate_mongo.model.errors import LeaseLostError, LockHeldError
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState, Trial, Verdict
from flask_migrate_mongo.model.values import Direction, ErrorInfo, Event, Status, StatusReport
from flask_migrate_mongo.planning.plans import survey
from flask_migrate_mongo.reports import console, runs, states

from .given import NOW, a_dry_run, a_file, a_lock, a_record, a_step, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.values import LockState

ESC = "\x1b[31mred\x1b]0;title\a\r\n\u202e"
WRITTEN_OUT = r"\x1b[31mred\x1b]0;title\x07\r\n\u202e"
ERROR = ErrorInfo("ValueError", "no such city", "Traceback:\n  line\nValueError: no such city")
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


def a_run(*outcomes: Outcome, **changes: object) -> RunReport:
    values = {"executed": True, "run_id": "f00d", "batch": 3, **changes}
    return RunReport(Direction.UP, outcomes, **values)  # type: ignore[arg-type]


def an_event(details: str = "up") -> Event:
    return Event(details, NOW, 7, {"by": details, "reason": details, "executionTime": 5})


def odd(name: str) -> dict[str, Callable[[], None]]:
    """Return every report there is, about things of this name."""
    step = a_step(1, name=name)
    error = ErrorInfo("ValueError", name, name)
    lock = a_lock(holder=name, reason=name)
    failed = Outcome(step, StepState.FAILED, 1, error)
    progress = runs.ProgressReporter()

    def start() -> None:
        progress.started(step)
        progress.close()

    return {
        "status": lambda: states.status(a_status(name=name, lock=lock)),
        "records": lambda: states.records([a_record(1, name=name)]),
        "events": lambda: states.events(
            [an_event(name), Event("failed", NOW, None, {}, error)],
        ),
        "lock": lambda: states.lock(lock),
        "expired": lambda: states.lock(a_lock(holder=name, reason=name, expires_in=-1)),
        "unlocked": lambda: states.unlocked(lock),
        "run": lambda: runs.run(a_run(failed, warnings=(name,), error=LeaseLostError(name))),
        "dry run": lambda: runs.run(a_dry_run(name)),
        "error": lambda: console.error(ValueError(name)),
        "started": start,
        "ended": lambda: progress.ended(failed),
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
    states.records([a_record(1, name="one\ntwo"), a_record(2)])
    header, first, second = streams.out.splitlines()
    assert first.startswith(r"1        one\ntwo  completed")
    assert second.startswith("2        change 2  completed")
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


@pytest.mark.parametrize("columns", [1, 10, 40, 80, 100])
@pytest.mark.parametrize("report", [report for report in REPORTS if report != "started"])
def test_on_a_narrow_terminal_nothing_is_lost(streams: Streams, report: str, columns: int) -> None:
    streams.open(tty=True, columns=columns)
    odd("a name of some words")[report]()
    said = plain(streams.out + streams.err)
    assert "…" not in said
    for word in ("name", "words"):
        assert word in said


def test_a_table_that_fits_a_terminal_has_a_rule_and_colours(streams: Streams) -> None:
    streams.open(tty=True)
    states.records([a_record(1, applied_at=NOW)])
    assert "\x1b[32mcompleted" in streams.out
    assert "──────" in streams.out


def test_a_long_name_is_wrapped_on_a_terminal_and_the_rest_is_not(streams: Streams) -> None:
    streams.open(tty=True, columns=100)
    states.records([a_record(20261122001, name="word " * 50, applied_at=NOW)])
    lines = plain(streams.out).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("20261122001" in line and "2026-11-22 10:30:05" in line for line in lines)


def test_columns_are_aligned_by_what_a_terminal_shows(streams: Streams) -> None:
    streams.open()
    states.records([a_record(1, name="索引"), a_record(2, name="a" * 6)])
    _, first, second = streams.out.splitlines()
    assert first == "1        索引    completed"
    assert second == "2        aaaaaa  completed"


def test_no_colour_is_used_where_none_is_wanted(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.open(tty=True)
    monkeypatch.setenv("NO_COLOR", "1")
    states.records([a_record(1)])
    assert "\x1b[3" not in streams.out


def test_markup_in_names_is_no_markup(streams: Streams) -> None:
    streams.open()
    states.records([a_record(1, name="[bold]x[/bold] :rocket: [/]")])
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


def test_status_shows_every_version_with_what_is_true_of_it(streams: Streams) -> None:
    streams.open()
    states.status(a_status())
    rows = [line.split("  ") for line in streams.out.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert cells["Version"] == ["Name", "State", "Applied at (UTC)", "Took", "Notes"]
    at = "2026-11-22 10:30:05"
    assert cells["1"] == ["change", "applied", at, "12 ms"]
    assert cells["2"] == ["change 2", "applied", at, "61.23 s", "changed since, not reversible"]
    assert cells["3"] == ["change", "applied", at, "file missing"]
    assert cells["4"] == ["change", "failed", "interrupted"]
    assert cells["5"] == ["change", "running"]
    assert cells["7"] == ["change", "pending"]


def test_status_sums_up_and_names_errors_and_passed_over_files(streams: Streams) -> None:
    streams.open()
    states.status(a_status())
    assert streams.out.splitlines()[-3:] == [
        "4 failed: ValueError: change",
        "6 migrations: 3 applied, 1 pending, 1 failed, 1 running.",
        "Ignored, because only files in the folder itself that end in .py are migrations: 8_change.js.",
    ]


def test_status_of_one_migration_counts_it_in_the_singular(streams: Streams) -> None:
    streams.open()
    states.status(StatusReport(survey([a_file(1)], recorded()), None))
    assert streams.out.splitlines()[-1] == "1 migration: 0 applied, 1 pending, 0 failed."


def test_status_marks_what_is_out_of_order(streams: Streams) -> None:
    streams.open()
    states.status(StatusReport(survey([a_file(1), a_file(2)], recorded(a_record(2))), None))
    assert re.search(r"^1 .* pending .* out of order$", streams.out, re.MULTILINE)


def test_status_shows_a_failure_of_which_no_error_was_recorded(streams: Streams) -> None:
    streams.open()
    states.status(StatusReport(survey([a_file(1)], recorded(a_record(1, Status.FAILED))), None))
    assert streams.out.splitlines()[-1] == "1 migration: 0 applied, 0 pending, 1 failed."


def test_status_of_an_empty_project_says_how_to_begin(streams: Streams) -> None:
    streams.open()
    states.status(StatusReport(survey([], recorded()), None))
    assert streams.out.splitlines() == [
        "0 migrations: 0 applied, 0 pending, 0 failed.",
        'Make the first one: flask db-migrate create "add user index"',
    ]


def test_status_ends_with_the_lock_when_there_is_one(streams: Streams) -> None:
    streams.open()
    states.status(a_status(lock=a_lock()))
    assert "The lock is held by anna@web-1:4711 (up)" in streams.out.splitlines()[-2]


# --- history, trail, lock


def test_records_are_shown_with_their_times(streams: Streams) -> None:
    streams.open()
    later = NOW + timedelta(hours=1)
    states.records([a_record(7, Status.ROLLED_BACK, applied_at=NOW, rolled_back_at=later, batch=3)])
    _, row = streams.out.splitlines()
    at, undone_at = "2026-11-22 10:30:05", "2026-11-22 11:30:05"
    assert re.split(r"\s{2,}", row) == ["7", "change 7", "rolled-back", at, undone_at, "3"]


def test_an_empty_history_and_an_empty_trail_say_so(streams: Streams) -> None:
    streams.open()
    states.records([])
    states.events([])
    assert streams.out == "Nothing is recorded.\nNothing has happened yet.\n"


def test_events_are_shown_with_who_did_what_and_why(streams: Streams) -> None:
    streams.open()
    states.events(
        [
            Event("completed", NOW, 7, {"by": "anna", "executionTime": 5, "direction": "up"}),
            Event("failed", NOW, 8, {"by": "bob"}, ERROR),
            Event("unlocked", NOW, None, {"by": "eve", "of": "anna", "ofRun": "f00d"}),
        ]
    )
    rows = [re.split(r"\s{2,}", line) for line in streams.out.splitlines()]
    at = "2026-11-22 10:30:05"
    assert rows == [
        ["At (UTC)", "Version", "Event", "By", "Took", "Details"],
        [at, "7", "completed", "anna", "5 ms", "direction up"],
        [at, "8", "failed", "bob", "ValueError: no such city"],
        [at, "lock", "unlocked", "eve", "of anna, ofRun f00d"],
    ]


def test_a_free_lock_is_said_to_be_free(streams: Streams) -> None:
    streams.open()
    states.lock(None)
    states.unlocked(None)
    assert streams.out == "The lock is free.\nNothing to do: the lock is free.\n"


def test_a_live_lock_says_whose_it_is_until_when_and_what_to_do(streams: Streams) -> None:
    streams.open()
    states.lock(a_lock())
    assert streams.out == (
        "The lock is held by anna@web-1:4711 (up), since 2026-11-22 10:28:35 UTC, last heartbeat "
        "2026-11-22 10:29:35 UTC.\n"
        "It ends at 2026-11-22 11:00:05 UTC unless renewed. If that process is dead: "
        "flask db-migrate force-unlock --confirm\n"
    )


def test_an_expired_lock_is_not_said_to_be_held(streams: Streams) -> None:
    streams.open()
    states.lock(a_lock(expires_in=-10))
    first, second = streams.out.splitlines()
    assert first.startswith("The lock was left by anna@web-1:4711 (up)")
    assert second == "It expired at 2026-11-22 10:29:55 UTC. The next run takes it over."


def test_a_release_says_whose_lock_it_was(streams: Streams) -> None:
    streams.open()
    states.unlocked(a_lock())
    assert streams.out == "Released the lock of anna@web-1:4711 (up).\n"


# --- runs


def test_a_run_that_did_everything_says_how_much_and_how_long(streams: Streams) -> None:
    streams.open()
    runs.run(a_run(APPLIED, replace(APPLIED, step=a_step(2), took_ms=1_000)))
    assert streams.out.splitlines() == [
        "Version  Name      State    Took",
        "1        change 1  applied  12 ms",
        "2        change 2  applied  1.00 s",
        "Applied 2 migrations as batch 3 in 1.01 s.",
    ]
    assert streams.err == ""


def test_a_run_down_of_one_is_told_in_the_singular_and_has_no_batch(streams: Streams) -> None:
    streams.open()
    done = Outcome(a_step(1, Direction.DOWN), StepState.ROLLED_BACK, 5)
    runs.run(RunReport(Direction.DOWN, (done,), executed=True))
    assert streams.out.splitlines()[-1] == "Rolled back 1 migration in 5 ms."


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
    runs.run(RunReport(direction, (), executed=executed))
    assert (streams.out, streams.err) == (said, "")


def test_a_run_that_failed_half_way_says_what_was_done_what_failed_and_what_is_left(
    streams: Streams,
) -> None:
    streams.open()
    runs.run(a_run(APPLIED, FAILED, *LEFT))
    assert streams.out.splitlines()[-3:] == [
        "Applied 1 migration as batch 3 in 12 ms.",
        "Not run: 3, 4.",
        "Fix the migration, then run `flask db-migrate up` again.",
    ]
    assert streams.err == (
        "Traceback:\n  line\nValueError: no such city\n2 failed: ValueError: no such city\n"
    )


def test_a_run_in_which_nothing_was_done_says_so(streams: Streams) -> None:
    streams.open()
    runs.run(a_run(FAILED))
    assert "Nothing was applied." in streams.out
    down = replace(FAILED, step=a_step(2, Direction.DOWN))
    runs.run(RunReport(Direction.DOWN, (down,), executed=True))
    assert "Nothing was rolled back." in streams.out
    assert streams.out.endswith("then run `flask db-migrate down` again.\n")


def test_an_error_that_was_recorded_without_its_traceback_is_shown(streams: Streams) -> None:
    streams.open()
    runs.run(a_run(replace(FAILED, error=ErrorInfo("ValueError", "x"))))
    assert streams.err == "2 failed: ValueError: x\n"


def test_a_run_that_something_ended_says_what_it_was(streams: Streams) -> None:
    streams.open()
    runs.run(a_run(APPLIED, *LEFT, error=LeaseLostError("why")))
    assert streams.err == f"Error: {LeaseLostError('why')}\n"
    assert "Fix the migration" not in streams.out


def test_a_dry_run_shows_verdict_effects_samples_and_what_was_not_executed(
    streams: Streams,
) -> None:
    streams.open()
    runs.run(a_dry_run("goods"))
    assert streams.out.splitlines() == [
        "1 goods: would fail: ValueError: goods (250 ms, 8,040 documents/s)",
        "  Traceback",
        "  goods",
        "  Collection  Inserted  Matched  Modified  Deleted  Upserted",
        "  goods       1         2,000    3         4        5",
        "  not executed: createIndexes goods: about 3 documents; goods",
        "  not executed: drop goods",
        "  goods 7",
        "    - goods: 1",
        '    + goods: "goods"',
        "  goods 8",
        "    + _id: 8",
        "2 change 2: not executed: goods would fail before it",
        "Dry run of 2 migrations: 1 would fail, 1 not executed. Everything was rolled back: nothing was changed.",
    ]


def test_progress_of_a_dry_run_tells_verdicts(streams: Streams) -> None:
    streams.open()
    progress = runs.ProgressReporter()
    succeeds = Outcome(a_step(1), StepState.NOT_RUN, 5, trial=Trial(Verdict.SUCCEEDS, None, {}))
    for outcome in (succeeds, *a_dry_run().outcomes):
        progress.ended(outcome)
    assert streams.err.splitlines() == [
        "✓ 1 change 1: would succeed in 5 ms",
        "✗ 1 change 1: would fail in 250 ms",
        "- 2 change 2: not executed",
    ]


def test_the_table_is_left_out_on_a_terminal_that_showed_the_progress(streams: Streams) -> None:
    streams.open(tty=True)
    runs.run(a_run(APPLIED))
    assert plain(streams.out) == "Applied 1 migration as batch 3 in 12 ms.\n"


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
        (StepState.APPLIED, "utf-8", "✓ 1 change 1: applied in 12 ms"),
        (StepState.ROLLED_BACK, "utf-8", "✓ 1 change 1: rolled-back in 12 ms"),
        (StepState.FAILED, "utf-8", "✗ 1 change 1: failed in 12 ms"),
        (StepState.UNKNOWN, "utf-8", "✗ 1 change 1: unknown in 12 ms"),
        (StepState.NOT_RUN, "utf-8", "- 1 change 1: not-run in 12 ms"),
        (StepState.APPLIED, "ascii", "+ 1 change 1: applied in 12 ms"),
        (StepState.FAILED, "latin-1", "! 1 change 1: failed in 12 ms"),
        (StepState.NOT_RUN, "ascii", "- 1 change 1: not-run in 12 ms"),
    ],
)
def test_each_step_is_shown_as_it_starts_and_as_it_ends(
    streams: Streams, state: StepState, encoding: str, line: str
) -> None:
    streams.open(encoding=encoding)
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    assert streams.err == "1 change 1 ...\n"
    progress.ended(Outcome(a_step(1), state, 12))
    assert streams.err == f"1 change 1 ...\n{line}\n"
    assert streams.out == ""


def test_a_step_that_never_started_is_shown_without_a_time(streams: Streams) -> None:
    streams.open()
    runs.ProgressReporter().ended(LEFT[0])
    assert streams.err == "- 3 change 3: not-run\n"


def test_on_a_terminal_a_spinner_runs_and_gives_the_cursor_back(streams: Streams) -> None:
    streams.open(tty=True)
    progress = runs.ProgressReporter()
    progress.started(a_step(1))
    assert streams.err.count("\x1b[?25l") == 1
    progress.ended(APPLIED)
    assert streams.err.count("\x1b[?25h") == 1
    assert plain(streams.err).endswith("✓ 1 change 1: applied in 12 ms\n")


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
    runs.ProgressReporter().started(a_step(1))
    assert plain(streams.err) == streams.err == "1 change 1 ...\n"
