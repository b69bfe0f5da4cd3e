"""Shows what a migration logs, where the application's own logging does not take it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator


class _Screen(logging.Handler):
    """Shows records as text."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, unless it is the progress of a backfill, which is shown anyway."""
        if hasattr(record, "progress"):
            return
        try:
            is_plain = record.levelno == logging.INFO
            prefix = "" if is_plain else f"{record.levelname.capitalize()}: "
            self._show(prefix + self.format(record))
        except Exception:  # noqa: BLE001  (as every handler does: what is logged may have no text)
            self.handleError(record)


class _Untaken(logging.Filter):
    """Passes to a screen what the handlers of the application would not get or not show."""

    def __init__(self, logger: logging.Logger, screen: _Screen) -> None:
        super().__init__()
        self._screen = screen
        self._level = logger.getEffectiveLevel()
        self._has_handlers = logger.hasHandlers()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the application's handlers take the record; else it is shown."""
        is_taken = self._has_handlers and record.levelno >= self._level
        if not is_taken:
            self._screen.handle(record)
        return is_taken


@contextlib.contextmanager
def shown(logger: logging.Logger, show: Callable[[str], None]) -> Iterator[None]:
    """Show in the block what this logger logs, from INFO on; the application's handlers get what they get otherwise."""
    before, untaken = logger.level, _Untaken(logger, _Screen(show))
    logger.addFilter(untaken)
    if not _has_level(logger):
        logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeFilter(untaken)


def _has_level(logger: logging.Logger) -> bool:
    """Whether the application has set a level for this logger, or one above it, but for the root."""
    return any(each.level for each in _up_to_root(logger))


def _up_to_root(logger: logging.Logger) -> Iterator[logging.Logger]:
    while logger.parent is not None:
        yield logger
        logger = logger.parent
