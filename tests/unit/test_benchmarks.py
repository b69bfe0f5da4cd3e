"""The report of the benchmarks: ratios, bars, and the page that they are written to."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from benchmarks import backfills, measuring, peers, projects, proxy, report, scripts
from benchmarks.__main__ import main
from benchmarks.measuring import Competitor, Rounds, Series
from benchmarks.peers import Missing
from benchmarks.projects import Kept
from benchmarks.report import Bar, Measurement, Verdict

if TYPE_CHECKING:
    from pathlib import Path

PAGE = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"


def measured(work: str, unit: str = "s", **medians: float | str) -> Measurement:
    """Return a measurement; a string is why a competitor has no figure."""
    series = tuple(
        Series(name, failure=value) if isinstance(value, str) else Series(name, (value,))
        for name, value in medians.items()
    )
    return Measurement(work, work.title(), series, "ours", unit)


def verdict(bar: Bar, *measurements: Measurement, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    monkeypatch.setattr(report, "BARS", (bar,))
    return report.judged(measurements)[0].verdict


def test_the_median_is_shown_with_its_ratio_to_ours_and_the_fastest_comes_first() -> None:
    many = Series("b", (4.0, 1.0, 3.0))
    measurement = Measurement("w", "Work", (many, Series("ours", (2.0,))), "ours")
    rows = report.parsed(f"{report.BEGIN}\n{report.table(measurement)}\n{report.END}")["Work"]
    assert rows == [
        ["ours", "2.000", "2.000 to 2.000", "1.00"],
        ["b", "3.000", "1.000 to 4.000", "1.50"],
    ]


def test_a_competitor_that_failed_is_shown_with_the_reason_after_all_others() -> None:
    table = report.table(measured("work", a="a | reason", ours=2.0))
    rows = report.parsed(f"{report.BEGIN}\n{table}\n{report.END}")["Work"]
    assert rows[-1] == ["a", "none", "", "a / reason"]


def test_who_failed_once_has_no_median() -> None:
    assert Series("a", (1.0, 2.0), "then it failed").median is None


@pytest.mark.parametrize(
    ("mine", "expected"), [(1.0, Verdict.HELD), (1.01, Verdict.MISSED), (0.1, Verdict.HELD)]
)
def test_a_bar_is_held_against_the_best_of_its_rivals(
    mine: float, expected: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Bar("work", 0.5, ("slow", "fast", "broken"), ours="ours")
    measurement = measured("work", ours=mine, slow=9.0, fast=2.0, broken="no")
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is expected


@pytest.mark.parametrize(("mine", "expected"), [(300.0, Verdict.HELD), (301.0, Verdict.MISSED)])
def test_a_bar_can_allow_so_much_on_top(
    mine: float, expected: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Bar("memory", 2.0, ("bare",), ours="ours", plus_mb=100.0)
    measurement = measured("memory", "MB", ours=mine, bare=100.0)
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is expected


@pytest.mark.parametrize(("mine", "expected"), [(6.0, Verdict.HELD), (6.1, Verdict.MISSED)])
def test_a_bar_can_be_held_against_other_work(
    mine: float, expected: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Bar("down", 3.0, ("ours",), ours="ours", of="up")
    both = measured("down", ours=mine), measured("up", ours=2.0)
    assert verdict(bar, *both, monkeypatch=monkeypatch) is expected


def test_a_bar_is_missed_when_we_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar("work", 1.0, ("a",), ours="ours")
    measurement = measured("work", ours="fell over", a=1.0)
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is Verdict.MISSED


def test_a_bar_is_open_when_its_rivals_have_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar("work", 1.0, ("a",), ours="ours")
    measurement = measured("work", ours=1.0, a="gone")
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is Verdict.OPEN


def test_a_bar_is_open_when_the_other_work_was_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar = Bar("work", 1.0, ("ours",), ours="ours", of="other")
    assert verdict(bar, measured("work", ours=1.0), monkeypatch=monkeypatch) is Verdict.OPEN


def test_bars_of_what_was_not_measured_are_left_out() -> None:
    assert report.judged([measured("else", ours=1.0)]) == ()


def test_the_missed_ones_are_picked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    held, lost = (Bar("work", factor, ("a",), ours="ours") for factor in (1.0, 0.1))
    monkeypatch.setattr(report, "BARS", (held, lost))
    judgements = report.judged([measured("work", ours=1.0, a=1.0)])
    assert [one.limit for one in report.missed(judgements)] == [judgements[1].limit]


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "1000 files in 2.99 s", Verdict.HELD),
        (0, "1000 files in 3.00 s", Verdict.MISSED),
        (0, "no figure", Verdict.MISSED),
        (1, "1000 files in 1.00 s", Verdict.MISSED),
    ],
)
def test_a_script_is_held_to_its_exit_code_and_its_seconds(
    code: int, output: str, expected: Verdict
) -> None:
    script = scripts.Script("lint.py", seconds=r"in ([\d.]+) s", most=3.0)
    assert scripts.judged(script, code, output).verdict is expected


def test_a_script_without_a_figure_is_held_to_its_exit_code() -> None:
    verdicts = [scripts.judged(scripts.Script("a.py"), code, "").verdict for code in (0, 1)]
    assert verdicts == [Verdict.HELD, Verdict.MISSED]


def test_records_of_many_are_those_of_a_few_with_the_marks_of_others() -> None:
    def record(number: int) -> dict[str, str]:
        checksum = hashlib.sha256(peers.MONGOMIG.migration(number)[1].encode()).hexdigest()
        ids = peers.revision(number), peers.revision(number - 1)
        return {"_id": ids[0], "down_revision": ids[1], "checksum": f"sha256:{checksum}"}

    few = Kept(tuple(record(number) for number in range(1, projects.SAMPLE + 1)), ())
    lock = Kept(({"_id": "lock"},), ())
    sample = {peers.MONGOMIG.records: few, "__mongomig_lock": lock}
    many = projects.grown(sample, peers.MONGOMIG, 9)
    assert many["__mongomig_lock"] == lock
    documents = many[peers.MONGOMIG.records].documents
    assert list(documents) == [record(number) for number in range(1, 10)]


def test_who_could_not_be_installed_is_named() -> None:
    assert "left-pad could not be installed: gone" in report.missing_lines(
        [Missing("left-pad", "gone")]
    )


def test_only_the_generated_section_of_the_page_is_replaced() -> None:
    page = report.written(PAGE, report.table(measured("work", ours=2.0)))
    assert page.startswith(f"before\n{report.BEGIN}\n")
    assert page.endswith(f"{report.END}\nafter\n")
    assert "old" not in page
    assert report.written(page, "old") == report.written(PAGE, "old")


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        report.written("no marks", "section")


def test_no_figure_of_the_page_is_without_its_ratio() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert page.count(report.BEGIN) == page.count(report.END) == 1
    tables = report.parsed(page)
    verdicts = {one.value for one in Verdict}
    for title, rows in tables.items():
        for row in rows:
            assert len(row) == 4, title
            if title == "Bars":
                assert row[-1] in verdicts
                assert len(rows) >= len(report.BARS)
            elif title != "Who" and row[1] != "none":
                assert float(row[1]) > 0
                assert float(row[3]) > 0, f"{title}: {row[0]}"


@pytest.mark.parametrize("arguments", [["--only", "up"], ["--quick"]])
def test_the_page_is_written_from_a_whole_run_only(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--write"])
    assert "one whole run" in capsys.readouterr().err


def test_every_name_of_a_bar_is_one_that_is_measured() -> None:
    ways = {way.name for way in backfills.WAYS}
    known = {peer.name for peer in peers.ALL} | ways | {report.ROUTES, report.BARE}
    assert {name for bar in report.BARS for name in (bar.ours, *bar.rivals)} <= known


def test_competitors_are_timed_in_turn_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    order: list[str] = []
    competitors = [
        Competitor(name, ("true",), tmp_path, {}, prepare=partial(order.append, name))
        for name in "ab"
    ]
    outcomes = measuring.interleaved(competitors, Rounds(fast=2))
    assert order == ["a", "b"] * 3
    assert [len(outcome.runs) for outcome in outcomes] == [2, 2]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exit code 3: it said nothing"),
        ("echo 'RecursionError: deep' ; exit 1", "exit code 1: RecursionError: deep"),
        ("exec sleep 30", "not done after 0 s"),
    ],
)
def test_a_competitor_that_fails_is_left_out_and_the_reason_kept(
    script: str, reason: str, tmp_path: Path
) -> None:
    competitor = Competitor("a", ("sh", "-c", script), tmp_path, {})
    (outcome,) = measuring.interleaved([competitor], Rounds(fast=2, limit=0.4))
    assert outcome.seconds == Series("a", (), reason)


def test_a_run_that_did_not_do_its_work_is_a_failure(tmp_path: Path) -> None:
    competitor = Competitor(
        "a", ("true",), tmp_path, {}, flaw=lambda run: f"no records, {run.code}"
    )
    (outcome,) = measuring.interleaved([competitor], Rounds(fast=2))
    assert outcome.failure == "no records, 0"


def test_the_memory_of_a_process_is_its_own_and_not_that_of_who_started_it(tmp_path: Path) -> None:
    mine = bytearray(200 << 20)
    grow = "import time; kept = bytearray(b'x') * (50 << 20); time.sleep(0.2)"
    command = (sys.executable, "-c", grow)
    run = measuring.process(command, tmp_path, {}, 30, weighed=True)
    assert 50 < run.peak < 150 < len(mine) >> 20


def test_what_goes_through_the_proxy_arrives_as_it_was_sent() -> None:
    sent = bytes(range(256)) * 1_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        with (
            proxy.delaying(listener.getsockname()[1], 1) as port,
            socket.create_connection(("127.0.0.1", port), timeout=10) as client,
        ):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answers:
                assert answers.read() == sent


def echo(listener: socket.socket) -> None:
    """Answer one connection with what it sends, after all of it was sent."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as heard:
        connection.sendall(heard.read())


def test_what_takes_long_is_timed_less_often() -> None:
    rounds = Rounds(fast=9)
    assert [rounds.of(seconds) for seconds in (0.5, 5.0, 15.0)] == [9, 5, 3]
