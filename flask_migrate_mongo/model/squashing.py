"""Which records count as parts of a squashed migration, and the history that says so.

With files 1, 2 and 3, where 3 replaces 1 and 2, and all three in the folder:

| database | `Record.replaced_by` of 1 and 2 | `History.replaced` | `planning.squashing.replaced_by` | `up` |
|---|---|---|---|---|
| new | no records | none | 1 and 2, by 3 | runs 3 |
| 1 and 2 are applied | None | none | 1 and 2, by 3 | records 3, marks 1 and 2 |
| 1 is applied | None | none | 1 and 2, by 3 | is refused |
| 3 was recorded | 3 | 1 and 2, by 3 | 1 and 2, by 3 | has nothing to do |
| 3 ran | no records | 1 and 2, by 3 | 1 and 2, by 3 | has nothing to do |
| 3 was recorded and rolled back | 3 | none | 1 and 2, by 3 | runs 3 |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .values import History, MigrationFile, Record


def parts_of(squashed: MigrationFile | Record, records: Iterable[Record]) -> tuple[Record, ...]:
    """Find the records of what a squashed migration replaces, and of the squashed ones that it absorbs."""
    versions = frozenset(squashed.replaces)
    return tuple(r for r in records if r.version in versions or absorbs(squashed, r))


def absorbs(squashed: MigrationFile | Record, other: MigrationFile | Record) -> bool:
    """Whether a squashed migration replaces everything that another one replaces.

    Of two that replace the same, the one with the higher number absorbs the other.
    """
    if not other.replaces:
        return False
    whole, part = frozenset(squashed.replaces), frozenset(other.replaces)
    return part < whole or (part == whole and other.version < squashed.version)


def history_of(records: Sequence[Record]) -> History:
    """Make a history in which every part of a squashed migration is marked.

    A run that crashed after it recorded a squashed one, has not marked its parts in the database: these are the
    `unmarked`.
    """
    squashed = sorted(
        (record for record in records if record.replaces and record.is_open),
        # A squashed one comes after those that it absorbs.
        key=lambda record: (len(record.replaces), record.version),
    )
    marks: dict[int, int] = {}
    for each in squashed:
        parts = (record for record in parts_of(each, records) if record.is_open)
        marks |= dict.fromkeys((record.version for record in parts), each.version)
    unmarked: defaultdict[int, tuple[int, ...]] = defaultdict(tuple)
    for part, owner in sorted(marks.items()):
        unmarked[owner] += (part,)
    marked = (
        replace(record, replaced_by=marks[record.version]) if record.version in marks else record
        for record in records
    )
    return History(tuple(marked), tuple(unmarked.items()))
