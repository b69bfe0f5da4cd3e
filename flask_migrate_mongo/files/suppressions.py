"""Comments that allow a finding of lint: `# migrate: allow MM004 because …`."""

from __future__ import annotations

import contextlib
import io
import re
import tokenize
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Allowance

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = r"MM[0-9]{3}"
"""What the code of a rule looks like."""

_MARK = b"migrate:"
_ALLOW = r"#\s*migrate:\s*allow\b(?P<codes>(?:[\s,]*\bMM[0-9]{3}\b)*)(?P<rest>.*)"
_BECAUSE = r"\s+because\s+(?P<reason>\S.*)"


def read(content: bytes) -> tuple[Allowance, ...]:
    """Return every allowance in a file that can be parsed, also those that lack code or reason."""
    # Few files have one, and to look for it costs far less than to take all of them to tokens.
    return tuple(_allowances(content)) if _MARK in content else ()


def granted(content: bytes) -> tuple[Allowance, ...]:
    """Return the allowances that count: those with a code and a reason."""
    return tuple(each for each in read(content) if each.code and each.reason)


def _comments(content: bytes) -> Iterator[tokenize.TokenInfo]:
    # Some Pythons execute a file with a comment that is not in its encoding; up to 3.11, what comes
    # after such a comment allows nothing.
    with contextlib.suppress(SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        tokens = tokenize.tokenize(io.BytesIO(content).readline)
        yield from (token for token in tokens if token.type == tokenize.COMMENT)


def _allowances(content: bytes) -> Iterator[Allowance]:
    for token in _comments(content):
        match = re.fullmatch(_ALLOW, token.string)
        if match is None:
            continue
        because = re.fullmatch(_BECAUSE, match["rest"])
        reason = because["reason"].strip() if because else ""
        for code in re.findall(CODE, match["codes"]) or [""]:
            yield Allowance(code, reason, token.start[0])
