"""Exceptions as they are recorded: with their causes, without secrets, bounded."""

from __future__ import annotations

import traceback

from .errors import message_of, redact
from .values import ErrorInfo

TRACEBACK_LIMIT = 16_000
"""Bytes of a traceback that are kept, so that a record stays far below MongoDB's 16 MB."""

_TAIL_SHARE = 3 / 4
_CUT = b"\n ... cut ...\n"


def capture(exc: BaseException) -> ErrorInfo:
    """Convert an exception and its causes to the form that is recorded.

    Message and traceback are bounded to TRACEBACK_LIMIT bytes each.
    """
    return ErrorInfo(
        type=type(exc).__qualname__,
        message=_bounded(message_of(exc)),
        traceback=_bounded(redact(_trace(exc))),
    )


def _trace(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001  (a SyntaxError of odd parts, say, cannot be formatted)
        frames = "".join(traceback.format_tb(exc.__traceback__))
        return f"{frames}{type(exc).__qualname__}: {message_of(exc)}\n"


def _bounded(text: str) -> str:
    # Both ends matter: a chained traceback begins with the first cause and ends with the last.
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= TRACEBACK_LIMIT:
        return raw.decode()
    tail = int((TRACEBACK_LIMIT - len(_CUT)) * _TAIL_SHARE)
    head = TRACEBACK_LIMIT - len(_CUT) - tail
    # "ignore" drops the halves of a character that was cut in two.
    return (raw[:head] + _CUT + raw[-tail:]).decode("utf-8", "ignore")
