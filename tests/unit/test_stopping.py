"""The stop switch, with real signals sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo import process
from flask_migrate_mongo.model.errors import RunStoppedError
from flask_migrate_mongo.process import SIGNALS, Stopped, StopSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the handlers of the test runner, even after a failing test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    """Send a signal to this process and let its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0)


def in_a_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_a_migrations_code_at_once(number: signal.Signals) -> None:
    switch = StopSwitch()
    with switch.installed():
        with pytest.raises(Stopped, match=number.name), switch.interruptible():  # noqa: PT012
            send(number)
            pytest.fail("continued")
        assert switch.requested_by


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_it_a_signal_takes_effect_before_the_next_step(number: signal.Signals) -> None:
    switch = StopSwitch()
    with switch.installed():
        send(number)
        assert switch.requested_by
        with pytest.raises(RunStoppedError, match=f"Stopped by {number.name}.*`flask db-migrate"):
            switch.check()


def test_code_does_not_begin_after_a_signal() -> None:
    switch = StopSwitch()
    with switch.installed():
        send(signal.SIGTERM)
        with pytest.raises(Stopped), switch.interruptible():
            pytest.fail("began")


def test_a_migrations_except_exception_does_not_swallow_a_stop() -> None:
    switch = StopSwitch()
    with switch.installed(), pytest.raises(Stopped), switch.interruptible():  # noqa: PT012
        try:
            send(signal.SIGTERM)
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")


def test_a_second_signal_interrupts_outside_of_a_migrations_code() -> None:
    switch = StopSwitch()
    with switch.installed():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_a_second_signal_interrupts_after_a_migrations_code_was_stopped() -> None:
    switch = StopSwitch()
    with switch.installed():
        with pytest.raises(Stopped), switch.interruptible():
            send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_without_a_signal_nothing_is_stopped() -> None:
    switch = StopSwitch()
    with switch.installed(), switch.interruptible():
        switch.check()
    assert not switch.requested_by


def test_the_applications_handlers_are_restored_even_after_an_error() -> None:
    def ours(*_: object) -> None: ...

    for number in SIGNALS:
        signal.signal(number, ours)
    with pytest.raises(ValueError, match="boom"), StopSwitch().installed():  # noqa: PT012
        assert signal.getsignal(signal.SIGTERM) is not ours
        raise ValueError("boom")
    assert {signal.getsignal(number) for number in SIGNALS} == {ours}


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_handler_that_is_no_function_is_restored_too(handler: signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, handler)
    with StopSwitch().installed():
        pass
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_after_the_run_is_the_applications_again() -> None:
    got: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    switch = StopSwitch()
    with switch.installed():
        pass
    send(signal.SIGTERM)
    assert (got, switch.requested_by) == ([signal.SIGTERM], None)


def test_the_applications_handler_gets_the_signal_after_the_block() -> None:
    got: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    switch = StopSwitch()
    with switch.installed():
        with switch.installed():
            send(signal.SIGTERM)
        assert got == []
    assert (got, switch.requested_by) == ([signal.SIGTERM], "SIGTERM")


def test_an_outer_switch_gets_the_signal_after_the_block_of_an_inner_one() -> None:
    outer = StopSwitch()
    with outer.installed():
        with StopSwitch().installed():
            send(signal.SIGTERM)
            assert outer.requested_by is None
        assert outer.requested_by == "SIGTERM"


def test_a_caller_that_raises_the_signal_itself_prevents_that() -> None:
    got: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    with StopSwitch().installed(redeliver=False):
        send(signal.SIGTERM)
    assert got == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    switch = StopSwitch()
    with switch.installed(), switch.interruptible():
        send(number)
    assert switch.requested_by is None


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(process, "CHECK_SECONDS", 0.05)


def test_what_hangs_after_a_signal_is_interrupted_and_what_follows_too(hasty: None) -> None:
    switch = StopSwitch()
    with switch.installed():
        with switch.installed():
            pass
        send(signal.SIGTERM)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                time.sleep(30)


def test_a_batch_is_not_interrupted_and_what_follows_it_has_its_time(hasty: None) -> None:
    switch = StopSwitch()
    with switch.installed():
        with switch.deferred():
            send(signal.SIGTERM)
            time.sleep(0.5)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)
        assert time.monotonic() - began >= 0.15


# --- child processes


def ended_with(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_has_the_handlers_of_before() -> None:
    def ours(*_: object) -> None: ...

    signal.signal(signal.SIGINT, ours)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with StopSwitch().installed():
        during = signal.getsignal(signal.SIGINT)
        pid = os.fork()
        if pid == 0:
            restored = (
                signal.getsignal(signal.SIGINT) is ours,
                signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
                signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask,
            )
            os._exit(0 if all(restored) else 1)
        assert ended_with(pid) == 0
        assert signal.getsignal(signal.SIGINT) == during
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_a_child_that_is_ended_right_after_the_fork_ends() -> None:
    with StopSwitch().installed():
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                time.sleep(5)
                os._exit(1)
            os.kill(pid, signal.SIGTERM)
            assert ended_with(pid) == -signal.SIGTERM


def test_a_signal_during_a_fork_stops_the_run_before_the_next_step() -> None:
    # The only way to hit these microseconds.
    switch = StopSwitch()
    survived: list[str | None] = []
    with switch.installed(), pytest.raises(Stopped), switch.interruptible():  # noqa: PT012
        process._before_fork()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            process._after_in_parent()
        survived.append(switch.requested_by)
        send(signal.SIGTERM)
    assert survived == ["SIGTERM"]


def test_a_switch_in_another_thread_leaves_the_signals_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    during: list[object] = []

    def run() -> None:
        switch = StopSwitch()
        with switch.installed() as same, switch.interruptible():
            switch.check()
            during.append(same is switch)
            during.extend(signal.getsignal(number) for number in SIGNALS)

    in_a_thread(run)
    assert during == [True, *before]


def test_other_threads_are_not_stopped() -> None:
    done = threading.Event()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        if done.wait(5):
            finished.append("work")

    finished: list[str] = []
    worker = threading.Thread(target=work)
    switch = StopSwitch()
    with switch.installed():
        worker.start()
        begun.wait(5)
        with pytest.raises(Stopped), switch.interruptible():
            send(signal.SIGTERM)
        done.set()
        worker.join()
    assert finished == ["work"]


def test_a_sleep_lasts_as_long_as_requested() -> None:
    slept: list[float] = []
    StopSwitch(slept.append).sleep(1.5)
    assert slept == [1.5]


def test_a_signal_ends_a_sleep_with_an_error() -> None:
    def sleep(seconds: float) -> None:
        send(signal.SIGTERM)
        pytest.fail("did not end")

    switch = StopSwitch(sleep)
    with switch.installed(), pytest.raises(RunStoppedError):
        switch.sleep(60)


def test_after_a_request_to_stop_there_is_no_sleep() -> None:
    switch = StopSwitch(lambda _: pytest.fail("slept"))
    with switch.installed():
        send(signal.SIGTERM)
        with pytest.raises(RunStoppedError):
            switch.sleep(60)
