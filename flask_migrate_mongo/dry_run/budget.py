"""How long a dry run may take, and how much it may write."""

from __future__ import annotations

from flask_migrate_mongo.process import elapsed

DOCUMENTS_LIMIT = 100_000
"""Documents that a dry run may write: a server keeps the changes of an open transaction in memory."""

BYTES_LIMIT = 16 * 1024 * 1024
"""Bytes of them: WiredTiger's smallest cache is 256 MB, and 10% of changed data slows every writer."""


class EndOfStep(BaseException):
    """Raised in a migration's code when the dry run executes no more of the step; says why.

    Not an Exception, so that a migration's `except Exception` does not catch it.
    """


class Budget:
    """The limits of one dry run. `refusal` says which one was reached, even if the migration caught the error."""

    def __init__(
        self, seconds: float, *, documents: int = DOCUMENTS_LIMIT, size: int = BYTES_LIMIT
    ) -> None:
        self.documents_left = documents
        self.refusal: str | None = None
        self._seconds = seconds
        self._deadline = elapsed() + seconds
        self._documents = documents
        self._size = self._bytes_left = size

    @property
    def seconds_left(self) -> float:
        """Seconds until the dry run has to end; 0 when it is over."""
        return max(0.0, self._deadline - elapsed())

    @property
    def is_nearly_over(self) -> bool:
        """Whether a command that timed out reached our limit: the driver subtracts the round trip from it."""
        return self.seconds_left < max(0.1 * self._seconds, 0.1)

    def time_out(self) -> None:
        """Note that the time is over."""
        self._refuse(f"it takes longer than {self._seconds:g} s")

    def admit(self, documents: int, size: int = 0) -> None:
        """Raise EndOfStep when this many more are too much."""
        if documents > self.documents_left:
            raise self._refuse(f"it would write more than {self._documents:,} documents")
        if size > self._bytes_left:
            raise self._refuse(f"it would write more than {self._size // 1024**2} MB")

    def spend(self, documents: int, size: int = 0) -> None:
        """Count what is written."""
        self.documents_left -= documents
        self._bytes_left -= size

    def _refuse(self, why: str) -> EndOfStep:
        self.refusal = self.refusal or why
        return EndOfStep(self.refusal)
