"""The source of a migration, line by line, each with what lint finds there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flask_migrate_mongo.driver.server import Document

# As Python counts lines: `splitlines()` would divide texts at more characters.
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line, with the findings that begin there; those that are suppressed have a reason."""

    number: int
    text: str
    findings: tuple[Document, ...]


def lines(source: str, findings: Iterable[Document]) -> tuple[SourceLine, ...]:
    """Divide a source into lines, and put each finding below its line. One beyond the end is at the last line."""
    texts = _LINE_END.split(source.removesuffix("\n").removesuffix("\r"))
    at = [(min(each["line"], len(texts)), each) for each in findings]
    return tuple(
        SourceLine(number, text, _of(number, at)) for number, text in enumerate(texts, start=1)
    )


def _of(number: int, at: Sequence[tuple[int, Document]]) -> tuple[Document, ...]:
    return tuple(finding for line, finding in at if line == number)


def findings_of(file: Document, details: Document) -> list[Document]:
    """Choose what lint found in one of the files of a migration: paths of findings can be relative."""
    found = [*details["findings"], *details["suppressed"]]
    return [each for each in found if file["path"].endswith(each["path"])]
