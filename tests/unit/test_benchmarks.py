"""The benchmarks: ratios, bars, and how competitors are timed."""

from __future__ import annotations

import hashlib
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from benchmarks import backfills, floor, measuring, peers, projects, proxy, report
from benchmarks.__main__ import WORKS, main
from benchmarks.measuring import Competitor, Rounds, Series
from benchmarks.peers import Missing
from benchmarks.projects import Kept
from benchmarks.report import Bar, Measurement, Verdict

if TYPE_CHECKING:
    from pathlib import Path


def measured(work: str, **medians: float | str) -> Measurement:
    """Make a measurement; a string is the reason why a competitor has no figure."""
    series = tuple(
        Series(name, failure=value) if isinstance(value, str) else Series(name, (value,))
        for name, value in medians.items()
    )
    return Measurement(work, work.title(), series, "ours")


def verdict(bar: Bar, *measurements: Measurement, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    monkeypatch.setattr(report, "BARS", (bar,))
    return report.judge(measurements)[0].verdict


def test_the_median_is_shown_with_its_ratio_to_ours_and_the_fastest_comes_first() -> None:
    many = Series("b", (4.0, 1.0, 3.0))
    measurement = Measurement("w", "Work", (many, Series("ours", (2.0,))), "ours")
    assert report.table(measurement).splitlines()[-2:] == [
        "| ours | 2.000 | 2.000 to 2.000 | 1.00 |",
        "| b | 3.000 | 1.000 to 4.000 | 1.50 |",
    ]


def test_a_competitor_that_failed_is_shown_with_the_reason_after_all_others() -> None:
    table = report.table(measured("work", a="a | reason", ours=2.0))
    assert table.splitlines()[-1] == "| a | none | | a / reason |"


def test_a_competitor_that_failed_once_has_no_median() -> None:
    assert Series("a", (1.0, 2.0), "then it failed").median is None


@pytest.mark.parametrize(
    ("mine", "expected"), [(1.0, Verdict.HELD), (1.01, Verdict.MISSED), (0.1, Verdict.HELD)]
)
def test_a_bar_is_held_up_to_its_ratio(
    mine: float, expected: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Bar("work", 0.5, "rival", ours="ours")
    assert verdict(bar, measured("work", ours=mine, rival=2.0), monkeypatch=monkeypatch) is expected


def test_a_bar_is_missed_when_we_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar("work", 1.0, "a", ours="ours")
    measurement = measured("work", ours="crashed", a=1.0)
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is Verdict.MISSED


def test_a_bar_is_open_when_its_rival_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar("work", 1.0, "a", ours="ours")
    measurement = measured("work", ours=1.0, a="gone")
    assert verdict(bar, measurement, monkeypatch=monkeypatch) is Verdict.OPEN


def test_bars_of_work_that_was_not_measured_are_left_out() -> None:
    assert report.judge([measured("else", ours=1.0)]) == ()


def test_every_name_of_a_bar_is_one_that_is_measured() -> None:
    ways = {way.name for way in backfills.WAYS}
    tools = {peer.name for peer in (peers.OURS, *peers.OTHERS)}
    known = tools | ways | {floor.NAME, report.BARE}
    assert {name for bar in report.BARS for name in (bar.ours, bar.rival)} <= known


def test_work_that_does_not_exist_is_refused_with_the_names_of_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "sideways"])
    assert f"Choose from {', '.join(WORKS)}" in capsys.readouterr().err


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


def test_a_tool_that_could_not_be_installed_is_named() -> None:
    assert "left-pad could not be installed: gone" in report.missing_lines(
        [Missing("left-pad", "gone")]
    )


def test_competitors_are_timed_in_turn_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    order: list[str] = []
    competitors = [
        Competitor(name, ("true",), tmp_path, {}, prepare=partial(order.append, name))
        for name in "ab"
    ]
    series = measuring.interleaved(competitors, Rounds(fast=2))
    assert order == ["a", "b"] * 3
    assert [len(one.seconds) for one in series] == [2, 2]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exit code 3: no output"),
        ("echo 'RecursionError: deep' ; exit 1", "exit code 1: RecursionError: deep"),
        ("exec sleep 30", "not done after 0 s"),
    ],
)
def test_a_competitor_that_fails_is_left_out_and_the_reason_kept(
    script: str, reason: str, tmp_path: Path
) -> None:
    competitor = Competitor("a", ("sh", "-c", script), tmp_path, {})
    (series,) = measuring.interleaved([competitor], Rounds(fast=2, limit=0.4))
    assert series == Series("a", (), reason)


def test_a_run_that_did_not_do_its_work_is_a_failure(tmp_path: Path) -> None:
    competitor = Competitor(
        "a", ("true",), tmp_path, {}, flaw=lambda run: f"no records, {run.code}"
    )
    (series,) = measuring.interleaved([competitor], Rounds(fast=2))
    assert series.failure == "no records, 0"


def test_bytes_arrive_behind_the_proxy_as_they_were_sent() -> None:
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
    """Answer one connection with the bytes that it sends, after all of them were sent."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as heard:
        connection.sendall(heard.read())


def test_a_command_that_takes_long_is_timed_less_often() -> None:
    rounds = Rounds(fast=9)
    assert [rounds.for_seconds(seconds) for seconds in (0.5, 5.0, 15.0)] == [9, 5, 3]
