"""What becomes of a collection that would be made, changed, renamed or dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.model.reports import Expected

from .foreseen import Shape, counted, refusal, view_refusal
from .merging import copy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.errors import OperationFailure

    from flask_migrate_mongo.driver.server import Document

    from .foreseen import Foreseen
    from .indexing import Indexing

_RENAME = "renameCollection"
_OK: Document = {"ok": 1.0}
_NOT_OPTIONS = frozenset(
    ["create", "comment", "writeConcern", "maxTimeMS", "lsid", "apiVersion", "apiStrict"]
)
_RULES = ("validator", "validationLevel", "validationAction")


class Shaping:
    """The predictions about collections as a whole."""

    def __init__(self, foreseen: Foreseen, indexing: Indexing) -> None:
        self._foreseen = foreseen
        self._indexing = indexing

    def create(self, command: Mapping[str, Any]) -> Document:
        """Predict `create`, and answer as the server would."""
        name = command["create"]
        options = {key: value for key, value in command.items() if key not in _NOT_OPTIONS}
        there = self._foreseen.shape(name)
        if there.exists:
            if options == there.options:
                self._note(
                    "create", name, Expected.NO_OP, f"{name} is there already, with these options"
                )
                return dict(_OK)
            raise self._fails(
                "create", name, refusal(48, f"Collection {self._full(name)} already exists.")
            )
        self._check_rule("create", name, options.get("validator"))
        self._foreseen.put(_made(name, options))
        with_options = f" with {', '.join(options)}" if options else ""
        self._note(
            "create", name, Expected.DONE, f"{name} would be made{with_options}", options=options
        )
        return dict(_OK)

    def drop(self, command: Mapping[str, Any]) -> Document:
        """Predict `drop`, delete the documents in the transaction, and answer as the server would."""
        name = command["drop"]
        shape = self._foreseen.shape(name)
        if not shape.exists:
            self._note("drop", name, Expected.NO_OP, f"{name} does not exist")
            if self._foreseen.tolerates_missing():
                return dict(_OK)
            raise refusal(26, "ns not found")
        if shape.type == "view":
            self._put_away(shape, "it is a view that this dry run would have dropped")
            self._note("drop", name, Expected.DONE, f"the view {name} would be dropped")
            return {"ns": self._full(name), **_OK}
        documents, indexes = self._foreseen.count(name), sorted(shape.indexes)
        self._empty(shape, documents)
        detail = f"{name} would be dropped, with {counted(documents)} and {counted(len(indexes), 'index', 'indexes')}"
        self._note("drop", name, Expected.DONE, detail, documents=documents, indexes=indexes)
        return {"nIndexesWas": len(indexes), "ns": self._full(name), **_OK}

    def rename(self, source: str, target: str, *, drop_target: bool) -> Document:
        """Predict `renameCollection`, move the documents in the transaction, and answer as the server would."""
        old, new = self._foreseen.shape(source), self._foreseen.shape(target)
        if source == target:
            raise self._fails(_RENAME, source, refusal(20, "Can't rename a collection to itself"))
        if not old.exists:
            message = f"Source collection {self._full(source)} does not exist"
            raise self._fails(_RENAME, source, refusal(26, message))
        if old.type == "view":
            raise self._fails(_RENAME, source, view_refusal(self._full(source)))
        if new.exists and not drop_target:
            raise self._fails(_RENAME, source, refusal(48, "target namespace exists"))
        for each in (old, new):
            if each.unwritable:
                raise self._foreseen.refuse(_RENAME, source, each.unwritable)
        self._move(old, new)
        return dict(_OK)

    def modify(self, command: Mapping[str, Any]) -> Document:
        """Predict `collMod`, and answer as the server would."""
        name = command["collMod"]
        shape = self._foreseen.shape(name)
        if not shape.exists:
            raise self._fails(
                "collMod", name, refusal(26, f"ns does not exist: {self._full(name)}")
            )
        known = {"collMod", "index", "viewOn", "pipeline", *_RULES, *_NOT_OPTIONS}
        if other := sorted(set(command) - known):
            detail = f"{name} would be changed: {', '.join(other)}; what comes of it is not known"
            self._note("collMod", name, Expected.UNKNOWN, detail, options=other)
        if rules := {key: command[key] for key in _RULES if key in command}:
            self._modify_rules(shape, rules)
        if view := {key: command[key] for key in ("viewOn", "pipeline") if key in command}:
            self._put_away(shape, "it is a view that this dry run would have changed", exists=True)
            shape.options |= view
            self._note("collMod", name, Expected.DONE, f"the view {name} would be redefined")
        if "index" in command:
            self._indexing.modify(shape, command["index"])
        return dict(_OK)

    def broken(self, shape: Shape) -> None:
        """Note how many documents a validator would have refused that the server does not apply yet."""
        rule = shape.validator
        violations = self._violations(shape.name, rule) if rule else 0
        if violations:
            detail = f"{counted(violations)} of {shape.name} would not pass its new validator, which this dry run does not apply"
            self._note(
                "insert or update", shape.name, Expected.UNKNOWN, detail, violations=violations
            )

    # --- how

    def _modify_rules(self, shape: Shape, rules: Mapping[str, Any]) -> None:
        name, validator = shape.name, rules.get("validator", shape.options.get("validator"))
        if all(shape.options.get(key) == value for key, value in rules.items()):
            self._note("collMod", name, Expected.NO_OP, f"{name} has this validation already")
            return
        self._check_rule("collMod", name, rules.get("validator"))
        violations = self._violations(name, validator) if validator else 0
        documents = self._foreseen.count(name)
        facts = {"documents": documents, "violations": violations}
        shape.options |= rules
        shape.validator = _binding(shape.options)
        self._foreseen.put(shape)
        told = (
            f"{counted(violations)} of {documents:,} would not pass it"
            if validator
            else "none is left"
        )
        self._note(
            "collMod",
            name,
            Expected.DONE,
            f"the validation of {name} would change: {told}",
            **facts,
        )

    def _violations(self, name: str, validator: Mapping[str, Any]) -> int:
        return self._foreseen.count(name, {"$nor": [validator]})

    def _check_rule(self, operation: str, name: str, rule: Mapping[str, Any] | None) -> None:
        if rule and (failure := self._foreseen.unreadable(name, rule)):
            raise self._fails(operation, name, failure)

    def _empty(self, shape: Shape, documents: int) -> None:
        if shape.unwritable:
            self._put_away(shape, f"{shape.unwritable} that this dry run would have dropped")
            return
        self._foreseen.spend(documents)
        self._foreseen.clear(shape.name)
        self._foreseen.put(Shape(shape.name, exists=False))

    def _put_away(self, shape: Shape, why: str, *, exists: bool = False) -> None:
        """Have it that the documents which the server still shows are not those of the real run."""
        kept = shape if exists else Shape(shape.name, exists=False)
        kept.misleading = why
        self._foreseen.put(kept)

    def _move(self, old: Shape, new: Shape) -> None:
        self._check_move(old, new)
        moved, gone = self._foreseen.count(old.name), self._foreseen.count(new.name)
        self._foreseen.spend(2 * moved + gone)
        self._foreseen.clear(new.name)
        copy(self._foreseen, old.name, new.name)
        self._foreseen.clear(old.name)
        unique = {name: index for name, index in old.indexes.items() if index.get("unique")}
        validator = _binding(old.options)
        self._foreseen.put(replace(old, name=new.name, unique=unique, validator=validator))
        self._foreseen.put(Shape(old.name, exists=False))
        self._foreseen.touched.add(new.name)
        instead = f", in the place of {counted(gone)}" if new.exists else ""
        detail = f"{old.name} would become {new.name}, with {counted(moved)}{instead}"
        facts = {"to": new.name, "documents": moved, "replaced": gone}
        self._note(_RENAME, old.name, Expected.DONE, detail, **facts)

    def _check_move(self, old: Shape, new: Shape) -> None:
        """Refuse to copy what the server would not take where another collection is still committed."""
        for index in self._foreseen.held(new.name).indexes.values():
            if index.get("unique") and self._indexing.is_broken(old.name, index):
                cause = f"{old.name} would not fit the unique index {index['name']} of {new.name}, which the server holds until then"
                raise self._foreseen.refuse(_RENAME, old.name, cause)

    # --- words

    def _full(self, name: str) -> str:
        return f"{self._foreseen.plain.name}.{name}"

    def _note(
        self, operation: str, name: str, expected: Expected, detail: str, **facts: object
    ) -> None:
        self._foreseen.note(operation, name, expected, detail, **facts)

    def _fails(self, operation: str, name: str, failure: OperationFailure) -> OperationFailure:
        message = (failure.details or {})["errmsg"]
        return self._foreseen.fail(operation, name, failure, message)


def _made(name: str, options: Document) -> Shape:
    shape = Shape(name, exists=True, options=options)
    if "viewOn" in options:
        shape.type = "view"
        shape.misleading = "it is a view that this dry run would have made"
    elif "timeseries" in options:
        shape.type = "timeseries"
        shape.misleading = "it is a time-series collection that this dry run would have made"
    else:
        shape.validator = _binding(options)
    return shape


def _binding(options: Mapping[str, Any]) -> Document | None:
    """Return the validator that refuses documents, if there is one."""
    warns = options.get("validationAction") == "warn" or options.get("validationLevel") == "off"
    return None if warns else options.get("validator") or None
