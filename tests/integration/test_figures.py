"""The figures of a run: `up` with one empty migration is executed and its calls are counted."""

from __future__ import annotations

from benchmarks import figures
from benchmarks.environments import ROOT
from tests.server.launcher import TestServer


def test_a_run_calls_many_functions_in_several_files() -> None:
    with TestServer() as server:
        counted = figures.count_calls(ROOT, server.uri)
    assert counted.calls > counted.functions > 50
    assert counted.calls > counted.file_changes > 10
