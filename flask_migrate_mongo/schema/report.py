"""The comparison as a report: what counts, and what a saved diff has too."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from flask_migrate_mongo.driver.server import DocumentView
from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.errors import CheckFailedError, InvalidRequestError, MigrateError

from .comparison import UNDECLARED, DifferenceKind, SchemaDiff, SchemaDifference
from .identity import identity, other_options
from .inventory import InventoryCollection
from .meanings import sentence
from .normal_forms import by_value
from .search import search_form


@dataclass(frozen=True, slots=True)
class SchemaReport(Report):
    """What differs. `saved` holds the fingerprints of differences that were known before; they do not count.

    With `strict`, what nobody declared counts, too. `inventory` lists everything, if that was wanted.
    """

    _document = "schema-diff"

    diff: SchemaDiff
    strict: bool = False
    saved: frozenset[str] = frozenset()
    inventory: tuple[InventoryCollection, ...] | None = None

    @property
    def differences(self) -> tuple[SchemaDifference, ...]:
        """What is declared, and missing or different."""
        return self._new(self.diff.differences)

    @property
    def notes(self) -> tuple[SchemaDifference, ...]:
        """What is no difference, but worth knowing."""
        return self._new(self.diff.notes)

    @property
    def known(self) -> tuple[SchemaDifference, ...]:
        """What the saved diff has too."""
        return tuple(each for each in self.diff.found if fingerprint(each) in self.saved)

    @property
    def counted(self) -> tuple[SchemaDifference, ...]:
        """What makes the comparison fail."""
        undeclared = (each for each in self.notes if self.strict and each.kind in UNDECLARED)
        return (*self.differences, *undeclared)

    @property
    def messages(self) -> list[str]:
        """What counts, in a line each."""
        return list(map(sentence, self.counted))

    @property
    def known_messages(self) -> list[str]:
        """What would count if it were not known, in a line each."""
        return [sentence(each) for each in self.known if not each.is_note]

    @property
    def failure(self) -> MigrateError | None:
        """The error that names what counts; None if nothing does."""
        lines = self.messages
        return CheckFailedError("The database differs from its schema:", lines) if lines else None

    def _new(self, found: tuple[SchemaDifference, ...]) -> tuple[SchemaDifference, ...]:
        return tuple(each for each in found if fingerprint(each) not in self.saved)


def fingerprint(found: SchemaDifference) -> str:
    """Make a text that two comparisons share only if they find the same difference: both sides are as before."""
    changes = tuple((c.option, by_value(c.declared), by_value(c.live)) for c in found.changes)
    sides = (_spec_form(each.spec) for each in (found.index, found.live_index) if each)
    searches = _search_forms(found)
    whole = _collection_form(found) if found.kind is DifferenceKind.MISSING_COLLECTION else ()
    form = (found.kind.value, found.collection, *sides, *searches, *whole, changes)
    return hashlib.sha256(_written(form).encode()).hexdigest()[:16]


def _search_forms(found: SchemaDifference) -> Iterator[Hashable]:
    if found.search:
        yield found.search.name, found.search.kind, search_form(found.search.definition)
    if live := found.live_search:
        definition = None if live.definition is None else search_form(live.definition)
        yield live.name, live.kind, definition, live.has_failed


def _collection_form(found: SchemaDifference) -> Iterator[Hashable]:
    if declared := found.declared:
        yield by_value(declared.create_options)
        yield frozenset(_spec_form(declared.spec_of(each)) for each in declared.indexes)
        searches = (_search_forms(replace(found, search=each)) for each in declared.search_indexes)
        yield frozenset(map(tuple, searches))


def _spec_form(spec: DocumentView) -> Hashable:
    return spec["name"], identity(spec), frozenset(other_options(spec).items())


def _written(form: Hashable) -> str:
    """Write a form as text, the same in every process."""
    if isinstance(form, frozenset):
        return f"{{{','.join(sorted(map(_written, form)))}}}"
    if isinstance(form, float | Decimal) and math.isfinite(form) and form == int(form):
        # As 1 and 1.0 are equal, so is what is written.
        return repr(int(form))
    if isinstance(form, tuple):
        return f"({','.join(map(_written, form))})"
    return repr(form)


def fingerprints(saved: DocumentView) -> frozenset[str]:
    """Read the fingerprints in the document of a saved report. Raises InvalidRequestError."""
    parts = ("differences", "notes", "known")
    try:
        return frozenset(str(each["fingerprint"]) for part in parts for each in saved[part])
    except (KeyError, TypeError) as exc:
        msg = "This is no saved diff of a schema."
        raise InvalidRequestError(msg, "Save one: [schema diff save=FILE].") from exc
