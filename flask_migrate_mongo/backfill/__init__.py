"""Backfills: batched changes of data that go on where they were when they were ended."""

from __future__ import annotations

from typing import NamedTuple


class Defaults(NamedTuple):
    """What a call does not say."""

    batch_size: int = 1_000
    workers: int = 1
    max_per_second: float | None = None
    on_error: str = "stop"
