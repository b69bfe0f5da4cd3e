"""Backfills: batched changes of data that go on where they were when they were ended."""
