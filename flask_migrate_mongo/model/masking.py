"""Fields whose values are never shown, in documents and in texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DEFAULT_NAMES = ("password", "passwd", "secret", "token", "api_key", "authorization")

HIDDEN = "***"

_POSITION = r"\.\d+(?=\.|$)"
_CAMEL_CASE = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
_WORD = r"[^\W\d_]+|\d+"

# A name, quoted or not, what stands between it and its value, and the start of the value. Quotes can be escaped.
_FIELD = (
    r"(?:(?P<quote>['\"])(?P<quoted>[^'\"\n]+)(?P=quote)|(?<![\w$.-])(?P<bare>[\w$][\w$.-]{0,200}))"
    r"\\{0,9}['\"`]?\]?[ \t]*(?:=>|[:=]+)[ \t]*(?=\S)"
)
_PART = r"(?s)(?P<quote>\\{0,9}['\"])(?:\\.|[^\\\n])*?(?P=quote)|[^'\"\\()\[\]{},;&\n]+|."
_REPLY = ", full error: "


@dataclass(frozen=True, slots=True)
class Mask:
    """Hides the values of fields with these names, at any depth.

    A name is found within others: `token` hides `access_token`, `accessToken` and `token.value`. `names` are without
    what separates their words. Upper and lower case are the same.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Mask:
        """Make a mask for these names."""
        return cls(frozenset("".join(_words(name)) for name in names))

    def hides(self, path: str) -> bool:
        """Whether the field at this path is hidden."""
        words, longest = _words(path), max(map(len, self.names), default=0)
        return any(
            "".join(words[start:end]) in self.names
            for start in range(len(words))
            for end in range(start + 1, min(start + longest, len(words)) + 1)
        )

    def __call__(self, path: str, value: object) -> object:
        """Hide the value of the field at this path, or what is hidden within it."""
        if self.hides(path):
            return HIDDEN
        if isinstance(value, Mapping):
            return {key: self(f"{path}.{key}", inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self(path, inner) for inner in value]
        return value

    def document(self, document: Mapping[str, object]) -> dict[str, object]:
        """Hide what is hidden in a document."""
        return {key: self(key, value) for key, value in document.items()}

    def text(self, text: str) -> str:
        """Hide values that follow a hidden name in a text, and whole replies that the driver appends to its errors.

        A value ends with its quote or bracket, or else at a comma or the end of the line: rather too much is hidden.
        """
        shown, at = list[str](), 0
        text = _without_replies(text)
        for found in re.finditer(_FIELD, text):
            if found.start() >= at and self.hides(found["quoted"] or found["bare"]):
                shown += [text[at : found.end()], HIDDEN]
                end = _end_of_value(text, found.end())
                at = found.end() + len(text[found.end() : end].rstrip())
        return "".join((*shown, text[at:]))


def _words(path: str) -> list[str]:
    plain = re.sub(_CAMEL_CASE, " ", re.sub(_POSITION, "", path))
    return re.findall(_WORD, plain.lower())


def _without_replies(text: str) -> str:
    while (start := text.find(_REPLY)) >= 0:
        text = text[:start] + text[_end_of_value(text, start + len(_REPLY)) :]
    return text


def _end_of_value(text: str, start: int) -> int:
    depth = 0
    for part in re.compile(_PART).finditer(text, start):
        first = part.group()[0]
        if first in "([{":
            depth += 1
        elif first in ")]}" and depth:
            depth -= 1
            if depth == 0 and text[start] in "([{":
                return part.end()
        elif depth == 0 and first in ")]},;&\n":
            return part.start()
    # Without an end, or with a bracket that is never closed, the rest of the line.
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


NOTHING_MASKED = Mask()
# Without `Mask.of`, whose patterns every application would compile, though few have errors.
DEFAULT_MASK = Mask(frozenset(name.replace("_", "") for name in DEFAULT_NAMES))
