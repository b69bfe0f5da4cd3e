"""Comments that suppress a finding of lint: `# migrate: allow MM004 because …`."""

from __future__ import annotations

import contextlib
import io
import re
import tokenize
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Suppression

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = b"migrate:"
_CODE = r"MM[0-9]{3}"
_ALLOW = rf"#\s*migrate:\s*allow\b(?P<codes>(?:[\s,]*\b{_CODE}\b)*)(?P<rest>.*)"
_BECAUSE = r"\s+because\s+(?P<reason>\S.*)"


def read(content: bytes) -> tuple[Suppression, ...]:
    """Find every suppression in a file that can be parsed, also those that lack a code or a reason."""
    # Few files have one, and this search costs far less than tokenizing every file.
    return tuple(_suppressions(content)) if _MARK in content else ()


def granted(content: bytes) -> tuple[Suppression, ...]:
    """Find the suppressions that take effect: those with a code and a reason."""
    return tuple(each for each in read(content) if each.code and each.reason)


def _suppressions(content: bytes) -> Iterator[Suppression]:
    for token in _comments(content):
        match = re.fullmatch(_ALLOW, token.string)
        if match is None:
            continue
        because = re.fullmatch(_BECAUSE, match["rest"])
        reason = because["reason"].strip() if because else ""
        for code in re.findall(_CODE, match["codes"]) or [""]:
            yield Suppression(code, reason, token.start[0])


def _comments(content: bytes) -> Iterator[tokenize.TokenInfo]:
    # Some Pythons execute a file with a comment that is not in the file's encoding. Up to Python 3.11, comments
    # after such a one are not found.
    with contextlib.suppress(SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        tokens = tokenize.tokenize(io.BytesIO(content).readline)
        yield from (token for token in tokens if token.type == tokenize.COMMENT)
