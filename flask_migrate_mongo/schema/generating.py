"""Writes the differences between declared and live collections as migrations, purely: differences in, source text out.

There are one or two: the second finishes what has to wait, such as dropping an index that the first one replaced.
What a person has to decide is a `raise NotImplementedError` with the question, before anything else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

from flask_migrate_mongo.driver.server import Document, DocumentView

from .comparison import Change, DifferenceKind, SchemaDiff, SchemaDifference, Way, changed_paths
from .counting import Counts
from .declared import Collection, Index, name_of
from .dumping import given_key, given_options, imports, search_options
from .identity import is_id, is_text
from .layout import WIDTH, Node, Writer, call, lay_out, quoted
from .live import LiveCollection, LiveIndex
from .meanings import all_said, purpose, said, sentence, sharding
from .normal_forms import TTL, VALIDATION, validation
from .search import LiveSearchIndex, SearchIndex

_STORED = CodecOptions[Document](
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
)
_SENT = CodecOptions[Document](uuid_representation=UuidRepresentation.STANDARD)

ADDS_TTL, CONVERTS_TO_UNIQUE = 14, 17
"""The wire versions, of MongoDB 5.1 and 6.0, from which `collMod` can do this."""

_IMAGES = "changeStreamPreAndPostImages"
_WARNING = {"validationLevel": "strict", "validationAction": "warn"}
_GAP = "Until it is built again, queries scan the collection."
_NO_DOWN = "Write down(), or delete it when up() cannot be rolled back."
_TITLES = (
    "Change what differs from the declared schema.",
    "Finish the change to the declared schema, once nothing uses what was replaced.",
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A migration that is not numbered yet: its name, its source, and how many questions it asks."""

    name: str
    source: str
    questions: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the server and the documents: the wire version says what a command can do."""

    wire_version: int
    counts: Counts = field(default_factory=Counts)
    has_search: bool = False


def generate(diff: SchemaDiff, name: str, known: Known) -> tuple[Draft, ...]:
    """Write the migrations that make the live collections as declared; none if nothing has to be done.

    What nobody declared is left as it is.
    """
    parts = _DraftPart(), _DraftPart()
    # What nobody declared stays, also if a migration dropped it.
    found = [each for each in diff.differences if each.kind is not DifferenceKind.RETURNED_INDEX]
    for _, group in groupby(found, key=lambda each: each.collection):
        _CollectionWriter(*parts, list(group), known).write()
    used = [part for part in parts if part.questions or part.up]
    names = [name, f"{name} (part 2)"]
    return tuple(
        Draft(own, part.source(own, title), len(part.questions))
        for own, title, part in zip(names, _TITLES, used, strict=False)
    )


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A statement under a condition: a value, and what holds for it."""

    value: str
    test: str
    body: Node


_Statement = Node | _Guarded


class _DraftPart(Writer):
    """One file while it is written: the questions, and the blocks of `up` and `down`, each the lines of one change."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[list[str]] = []
        self.up: list[list[str]] = []
        self.down: list[list[str]] = []

    def ask(self, question: str, facts: str) -> None:
        """Ask before anything runs."""
        node = call("raise NotImplementedError", quoted(question))
        self.questions.append([*_comment(facts), *lay_out(node, 4)])

    def add(
        self,
        up: Sequence[_Statement],
        down: Sequence[_Statement] = (),
        why: str = "",
        why_down: str = "",
    ) -> None:
        """Add a change and its reverse, each with a comment. The changes are reversed in reverse order."""
        self.up.append([*_comment(why), *_lines(up)])
        if down:
            self.down.insert(0, [*_comment(why_down), *_lines(down)])

    def source(self, name: str, title: str) -> str:
        """Write the file."""
        head = [f'"""{title}"""', *map("\n".join, imports(self.names))]
        # With a question answered, it may hold more than this module wrote.
        repeatable = [] if self.questions else ["idempotent = True"]
        head.append("\n".join([f"name = {quoted(name)}", *repeatable]))
        down = self.down or [list(lay_out(call("raise NotImplementedError", quoted(_NO_DOWN)), 4))]
        functions = [("up", [*self.questions, *self.up]), ("down", down)]
        bodies = [
            f"def {each}(db, ctx):\n" + "\n\n".join(map("\n".join, blocks))
            for each, blocks in functions
        ]
        return "\n\n\n".join(["\n\n".join(head), *bodies]) + "\n"

    # --- statements

    def create_index(
        self, collection: str, spec: DocumentView, inherited: DocumentView | None
    ) -> Node:
        """Write `ctx.create_index(…)`; the index inherits this collation if it names none."""
        whole = _stored(spec)
        key, options = given_key(whole), given_options(whole, inherited)
        if whole["name"] != name_of(key):
            options = {"name": whole["name"], **options}
        named = {option: self.value(value) for option, value in options.items()}
        return call("ctx.create_index", quoted(collection), self.keys(key), **named)

    def create_search_index(
        self,
        collection: str,
        index: SearchIndex | LiveSearchIndex,
        *,
        replace: bool = False,
    ) -> Node:
        """Write `ctx.create_search_index(…)`."""
        named = search_options(index.name, index.kind)
        if replace:
            named["replace"] = "True"
        definition = self.value(_stored(index.definition or {}))
        return call("ctx.create_search_index", quoted(collection), definition, **named)

    def coll_mod(self, collection: str, changes: DocumentView) -> Node:
        """Write `db.command("collMod", …)`."""
        named = {option: self.value(value) for option, value in _stored(changes).items()}
        return call("db.command", '"collMod"', quoted(collection), **named)

    def validate(self, declared: Collection, action: str, before: DocumentView) -> Node:
        """Write `ctx.validate(…)`; `before` is the validator that it replaces."""
        validator = _stored(declared.validator or {})
        options = {"level": declared.level, "action": action}
        named: dict[str, Node] = {
            option: quoted(value)
            for option, value in options.items()
            if value not in VALIDATION.values()
        }
        if before not in ({}, validator):
            named["replace"] = "True"
        return call("ctx.validate", quoted(declared.name), self.value(validator), **named)

    def create_collection(self, declared: Collection) -> _Guarded:
        """Write `db.create_collection(…)`, for a database that does not have it."""
        given = _stored(declared.create_options)
        named = {option: self.value(value) for option, value in given.items()}
        name = quoted(declared.name)
        node = call("db.create_collection", name, **named)
        return _Guarded(name, "not in db.list_collection_names()", node)


def _drop_index(collection: str, name: str) -> Node:
    return call("ctx.drop_index", quoted(collection), quoted(name))


class _CollectionWriter:
    """Writes the differences of one collection into the two parts."""

    def __init__(
        self,
        first: _DraftPart,
        second: _DraftPart,
        differences: Sequence[SchemaDifference],
        known: Known,
    ) -> None:
        self._first, self._second, self._known = first, second, known
        self._differences = differences
        self._name = differences[0].collection
        self._declared = differences[0].declared or Collection(self._name)
        self._live = differences[0].live or LiveCollection(self._name)
        self._taken = {each.name for each in self._live.indexes}
        self._text = [each for each in self._live.own_indexes if is_text(each.spec)]
        is_text_replaced = any(map(_is_new_text, differences))
        self._dropped = {each.name for each in self._text} if is_text_replaced else set()

    def write(self) -> None:
        """Write them all."""
        options = [change for each in self._differences for change in _of_validator(each)]
        if options:
            self._validator(options)
        for found in self._differences:
            if found.kind is DifferenceKind.MISSING_COLLECTION:
                self._missing_collection()
            elif found.kind is DifferenceKind.FIXED_OPTION:
                self._fixed_option(*found.changes)
            elif found.search is not None:
                self._search_index(found, found.search)
            elif found.index is None:
                self._collection_option(*found.changes)
            elif found.kind is not DifferenceKind.BUILDING_INDEX:
                self._index(found, found.index)

    # --- the collection

    def _missing_collection(self) -> None:
        part, name = self._first, quoted(self._name)
        drop = call("db.drop_collection", name)
        part.add(
            [part.create_collection(self._declared)],
            [_Guarded(f"db[{name}].find_one()", "is None", drop)],
            why_down="A collection with documents stays, with its indexes.",
        )
        for index in self._declared.indexes:
            if not is_id(index.spec):
                part.add([self._created(index, index.label)], why=purpose(index))
        for search in self._declared.search_indexes if self._known.has_search else ():
            part.add([part.create_search_index(self._name, search)], why=purpose(search))

    def _fixed_option(self, change: Change) -> None:
        self._first.ask(
            f"How are the documents of {self._name} copied into a new collection?",
            f"{self._name}: {said(change)}. It can be set only when a collection is created.",
        )

    def _collection_option(self, change: Change) -> None:
        if change.option in VALIDATION:
            return
        if change.option == TTL:
            self._ask_about_expired(None)
        unset = {"enabled": False} if change.option == _IMAGES else "off"
        new, old = (
            self._first.coll_mod(self._name, {change.option: unset if value is None else value})
            for value in (change.declared, change.live)
        )
        self._first.add([new], [old], why=f"{said(change)}.")

    def _validator(self, changes: Sequence[Change]) -> None:
        first, declared, old = self._first, self._declared, _stored(validation(self._live.options))
        why = _replaced_rules(changes)
        if old["validator"] and not declared.validator:
            facts = f"{self._name} has a validator that is not declared."
            first.ask(
                f"May the validator of {self._name} be removed? If so, delete this `raise`.", facts
            )
        if self._known.counts.violators.get(self._name):
            self._validator_in_two_parts(old, why)
        else:
            node = first.validate(declared, declared.action, old["validator"])
            first.add([node], [first.coll_mod(self._name, old)], why=why)

    def _validator_in_two_parts(self, old: Document, why: str) -> None:
        """Let the server warn, until the documents are changed; but for rules that it enforces already."""
        first, second, declared = self._first, self._second, self._declared
        number = self._known.counts.violators[self._name]
        facts = f"Documents of {self._name} that do not match the validator: {number:,}."
        new = {**_stored({"validator": declared.validator}), **_WARNING}
        before = old
        if not _enforces(old) and old["validator"] != new["validator"]:
            before = new
            node = first.validate(declared, "warn", old["validator"])
            first.add([node], [first.coll_mod(self._name, old)], why=f"{facts} {why}")
        second.ask(
            f"How are these documents of {self._name} changed? Write it here, for example with ctx.backfill().",
            facts,
        )
        node = second.validate(declared, declared.action, before["validator"])
        second.add([node], [second.coll_mod(self._name, before)], why=why if before is old else "")

    # --- indexes

    def _index(self, found: SchemaDifference, index: Index) -> None:
        old = found.live_index
        if found.is_refused:
            question = f"Which unique index does {self._name} get instead of {index.label}?"
            self._first.ask(question, sharding(found))
        elif self._text and _is_new_text(found):
            # A collection has at most one.
            self._rebuild(found, index, self._text[0])
        elif old is None or old.building or old.name in self._dropped:
            self._missing_index(index)
        else:
            self._changed_index(found, index, old)

    def _missing_index(self, index: Index, note: str = "") -> None:
        self._ask_about_expired(index)
        name = self._free_name(index.label)
        self._first.add(
            [self._created(index, name)],
            [_drop_index(self._name, name)],
            why=f"{purpose(index)} {note} {_renamed(index, name)}",
        )

    def _changed_index(self, found: SchemaDifference, index: Index, old: LiveIndex) -> None:
        """Choose the way: in place, beside the old index, or with a gap."""
        is_in_place = found.kind is DifferenceKind.INDEX_OPTION
        can_add_period = self._known.wire_version >= ADDS_TTL
        is_rebuilt = any(each.way is Way.REBUILD for each in found.changes) or (
            _adds_period(found) and is_in_place and not can_add_period
        )
        if found.keeps_live_index and not is_in_place:
            self._missing_index(index, f"{all_said(found)} {sharding(found)}")
        elif found.keeps_live_index and (is_rebuilt or _is_irreversible(found)):
            question = f"How is {old.name} of {self._name} changed?"
            self._first.ask(question, f"{all_said(found)} {sharding(found)}")
        elif is_rebuilt:
            self._rebuild(found, index, old)
        elif is_in_place:
            self._option(found, index, old)
        elif _is_made_unique(found) and self._known.wire_version >= CONVERTS_TO_UNIQUE:
            self._make_unique(index, old)
        else:
            self._replace(found, index, old)

    def _option(self, found: SchemaDifference, index: Index, old: LiveIndex) -> None:
        self._ask_about_expired(index)
        new = [self._set(old, each.option, to=each.declared) for each in found.changes]
        before = [self._set(old, each.option, to=each.live) for each in found.changes]
        why_down = ""
        if _adds_period(found):
            before = [_drop_index(self._name, old.name), self._recreated(self._first, old)]
            why_down = f"No command removes a period. {_GAP}"
        self._first.add(new, before, why=all_said(found), why_down=why_down)

    def _make_unique(self, index: Index, old: LiveIndex) -> None:
        name = self._name
        self._first.add(
            [call("ctx.make_unique", quoted(name), quoted(old.name))],
            [_drop_index(name, old.name), self._recreated(self._first, old)],
            why=f"{purpose(index)} If documents have the same key, the error names them.",
            why_down=f"No command lets an index accept duplicates again. {_GAP}",
        )

    def _replace(self, found: SchemaDifference, index: Index, old: LiveIndex) -> None:
        """Build the new index beside the old one, and hide that; the second part drops it."""
        self._ask_about_expired(index)
        first, second, new = self._first, self._second, self._free_name(index.label)
        hide, show = [self._set(old, "hidden", to=True)], [self._set(old, "hidden", to=False)]
        if old.spec.get("hidden"):
            hide, show = [], []
        first.add(
            [self._created(index, new), *hide],
            [*show, _drop_index(self._name, new)],
            why=f"{purpose(index)} It replaces {old.name}: {all_said(found)} {_renamed(index, new)} {_in_force(old)}",
        )
        second.add(
            [_drop_index(self._name, old.name)],
            [self._recreated(second, old, hidden=True)],
            why=f"{new} replaces it.",
        )

    def _rebuild(self, found: SchemaDifference, index: Index, old: LiveIndex) -> None:
        """Drop the old index and build the new one, which cannot exist beside it."""
        self._ask_about_expired(index)
        effect = "duplicates are accepted" if old.spec.get("unique") else "there is none"
        self._first.ask(
            f"May {self._name} be without {old.name} while {index.label} is built? If so, delete this `raise`.",
            f"{old.name} has to be dropped first, and in between {effect}. {all_said(found)}",
        )
        self._taken.discard(old.name)
        new = self._free_name(index.label)
        self._first.add(
            [_drop_index(self._name, old.name), self._created(index, new)],
            [_drop_index(self._name, new), self._recreated(self._first, old)],
            why=f"{purpose(index)} {_renamed(index, new)}",
        )

    def _set(self, old: LiveIndex, option: str, *, to: object) -> Node:
        # A period of 0 seconds is one; a flag that is not set is False.
        given = False if to is None else to
        return self._first.coll_mod(self._name, {"index": {"name": old.name, option: given}})

    def _created(self, index: Index, name: str) -> Node:
        declared = self._declared
        spec = {**declared.spec_of(index), "name": name}
        return self._first.create_index(self._name, spec, declared.collation)

    def _recreated(self, part: _DraftPart, old: LiveIndex, **changed: bool) -> Node:
        spec = {**old.spec, **changed}
        return part.create_index(self._name, spec, self._live.options.get("collation"))

    def _free_name(self, wanted: str) -> str:
        """Choose the name, or a variant of it that no index has, and take it."""
        number, name = 1, wanted
        while name in self._taken:
            number += 1
            name = f"{wanted}_v{number}"
        self._taken.add(name)
        return name

    def _search_index(self, found: SchemaDifference, index: SearchIndex) -> None:
        first, name, live = self._first, self._name, found.live_search
        if live is None:
            drop = call("ctx.drop_search_index", quoted(name), quoted(index.name))
            first.add([first.create_search_index(name, index)], [drop], why=purpose(index))
        elif any(each.way is Way.BESIDE for each in found.changes):
            first.ask(
                f"Under which name is the search index {index.name} of {name} built?",
                sentence(found),
            )
        elif found.changes:
            new, old = (
                first.create_search_index(name, each, replace=True) for each in (index, live)
            )
            first.add([new], [old], why=f"{purpose(index)} {all_said(found)}")

    def _ask_about_expired(self, index: Index | None) -> None:
        """Ask if a period deletes documents at once: that of an index, or of the collection."""
        label = None if index is None else index.label
        if number := self._known.counts.expired.get((self._name, label)):
            place = self._name if label is None else f"{self._name} by {label}"
            self._first.ask(
                f"May these documents of {self._name} be deleted? If so, delete this `raise`.",
                f"Documents of {place} that are older than the declared period, and deleted at once: {number:,}.",
            )


# --- decisions


def _of_validator(found: SchemaDifference) -> Iterator[Change]:
    if found.kind is DifferenceKind.COLLECTION_OPTION:
        yield from (each for each in found.changes if each.option in VALIDATION)


def _is_new_text(found: SchemaDifference) -> bool:
    is_new = found.kind in {DifferenceKind.MISSING_INDEX, DifferenceKind.OTHER_INDEX}
    return is_new and found.index is not None and is_text(found.index.spec)


def _adds_period(found: SchemaDifference) -> bool:
    return any(each.option == TTL and each.live is None for each in found.changes)


def _is_irreversible(found: SchemaDifference) -> bool:
    """Whether a change in place hides an index, or only dropping the index reverses it."""
    hides = any(each.option == "hidden" and each.declared for each in found.changes)
    return hides or _adds_period(found)


def _is_made_unique(found: SchemaDifference) -> bool:
    # A conversion that found duplicates leaves the index prepared.
    changes = [each for each in found.changes if each.option != "prepareUnique"]
    return [(each.option, each.declared) for each in changes] == [("unique", True)]


def _enforces(validation: DocumentView) -> bool:
    is_off = validation["validationLevel"] == "off" or validation["validationAction"] == "warn"
    return bool(validation["validator"]) and not is_off


# --- comments


def _renamed(index: Index, name: str) -> str:
    if name == index.label:
        return ""
    return f"Another index has the name {index.label}, so declare name={quoted(name)}."


def _in_force(old: LiveIndex) -> str:
    effects = [("unique", "refuses duplicates"), (TTL, "deletes what expires")]
    found = " and ".join(effect for option, effect in effects if old.spec.get(option) is not None)
    still = f", and it still {found}" if found else ""
    return f"Once {old.name} is hidden, a hint() that names it fails{still}."


def _replaced_rules(changes: Sequence[Change]) -> str:
    """Say where the validators differ: the server replaces them as a whole."""
    both = [
        (each.declared, each.live)
        for each in changes
        if isinstance(each.declared, dict) and isinstance(each.live, dict)
    ]
    paths = [path for new, old in both for path in changed_paths(new, old)]
    return f"It replaces a validator that differs at {', '.join(paths)}." if paths else ""


def _comment(text: str) -> list[str]:
    shown = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return [f"    # {line}" for line in textwrap.wrap(shown, WIDTH - 6)]


# --- layout


def _lines(statements: Iterable[_Statement]) -> Iterator[str]:
    for each in statements:
        if isinstance(each, _Guarded):
            yield from _condition(each)
            yield from lay_out(each.body, 8)
        else:
            yield from lay_out(each, 4)


def _condition(guarded: _Guarded) -> Iterator[str]:
    line = f"{guarded.value} {guarded.test}"
    if len(line) <= WIDTH - len("    if :"):
        yield f"    if {line}:"
        return
    lines = [line] if len(line) <= WIDTH - 8 else [guarded.value, guarded.test]
    yield from ("    if (", *(f"        {each}" for each in lines), "    ):")


def _stored(values: DocumentView) -> Document:
    """Read values as the server stores them: a declaration may hold other types of the same values."""
    return bson.decode(bson.encode(values, codec_options=_SENT), codec_options=_STORED)
