"""What differs between the declared schema and the database, as text: one line for each difference."""

from __future__ import annotations

from flask_migrate_mongo.schema.comparison import DifferenceKind, SchemaDifference
from flask_migrate_mongo.schema.meanings import number, sentence
from flask_migrate_mongo.schema.report import SchemaReport

from .console import Text, out

_LABELS = {
    **dict.fromkeys(
        (
            DifferenceKind.MISSING_COLLECTION,
            DifferenceKind.MISSING_INDEX,
            DifferenceKind.MISSING_SEARCH_INDEX,
        ),
        Text("missing", "red"),
    ),
    **dict.fromkeys(
        (DifferenceKind.BUILDING_INDEX, DifferenceKind.UNREADY_SEARCH_INDEX),
        Text("building", "cyan"),
    ),
}
_DIFFERENT, _NOTE, _KNOWN = Text("different", "red"), Text("note", "dim"), Text("known", "dim")


def schema_diff(report: SchemaReport) -> None:
    """Print the differences, then the notes, then what was known, then how much was compared."""
    for each in report.differences:
        _say(_LABELS.get(each.kind, _DIFFERENT), each)
    for each in report.notes:
        _say(_NOTE, each)
    for each in report.known:
        _say(_KNOWN, each)
    known = f", {len(report.known):,} known" if report.known else ""
    found = f"{number(len(report.differences), 'difference')}, {number(len(report.notes), 'note')}{known}"
    compared = f"{number(report.diff.collections, 'declared collection')} with {number(report.diff.indexes, 'index', 'indexes')}"
    out().say(f"{found}. Compared {compared}.")


def _say(label: Text, found: SchemaDifference) -> None:
    out().say(Text(f"{label.plain:<11}", label.style), sentence(found))
