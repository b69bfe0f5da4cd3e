"""What becomes of an index that would be made, changed or dropped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.model.reports import Expected

from .definitions import already, as_kept, check, ordered, special
from .duplicates import FIRST, Duplicates, KeySpace, Survey
from .foreseen import counted, refusal, shown, view_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask_migrate_mongo.driver.server import Document

    from .foreseen import Foreseen, Shape

_CREATE = "createIndexes"
_DROP = "dropIndexes"
_MODIFY = "collMod"


@dataclass(frozen=True, slots=True)
class _Repeats:
    """The keys that occur more than once, as they may be shown."""

    keys: int
    documents: int
    first: Sequence[Document]

    @property
    def told(self) -> str:
        """The sentence about them."""
        keys = "1 key occurs" if self.keys == 1 else f"{self.keys:,} keys occur"
        first = ", ".join(f"{shown(each['key'])} {each['count']} times" for each in self.first)
        more = ", …" if self.keys > FIRST else ""
        return f"{keys} more than once ({counted(self.documents)}): {first}{more}"

    @property
    def facts(self) -> Document:
        """The figures about them."""
        return {
            "duplicateKeys": self.keys,
            "duplicateDocuments": self.documents,
            "duplicates": self.first,
        }


class Indexing:
    """The predictions about indexes."""

    def __init__(self, foreseen: Foreseen) -> None:
        self._foreseen = foreseen

    def create(self, command: Mapping[str, Any]) -> Document:
        """Predict `createIndexes`, and answer as the server would."""
        name = command[_CREATE]
        shape = self._foreseen.shape(name)
        self._check_kind(shape)
        before = len(shape.indexes) or 1
        fresh: dict[str, Document] = {}
        for given in command["indexes"]:
            index = as_kept(given, shape.options.get("collation"))
            if (made := self._there(shape, fresh, index)) is None:
                fresh[index["name"]] = index
            else:
                facts = self._facts(made)
                detail = f"{made['name']} on {shown(made['key'])} is there already"
                self._foreseen.note(_CREATE, name, Expected.NO_OP, detail, **facts)
        built = [self._build(shape, index) for index in fresh.values()]
        self._keep(shape, fresh, built)
        after = before + len(fresh)
        answer = {"numIndexesBefore": before, "numIndexesAfter": after, "ok": 1.0}
        return answer if fresh else {**answer, "note": "all indexes already exist"}

    def drop(self, command: Mapping[str, Any]) -> Document:
        """Predict `dropIndexes`, and answer as the server would."""
        name, wanted = command[_DROP], command.get("index")
        shape = self._foreseen.shape(name)
        if not shape.exists:
            raise self._fails(_DROP, name, refusal(26, f"ns not found {self._full(name)}"))
        if shape.type == "view":
            raise self._fails(_DROP, name, view_refusal(self._full(name)))
        before = len(shape.indexes)
        for index in self._dropped(shape, wanted):
            self._drop_one(shape, index)
        return {"nIndexesWas": before, "ok": 1.0}

    def modify(self, shape: Shape, change: Mapping[str, Any]) -> None:
        """Predict what `collMod` does to an index."""
        index = self._found(shape, change.get("name") or change.get("keyPattern"))
        if index is None:
            wanted = change.get("name") or shown(change.get("keyPattern", {}))
            message = f"cannot find index {wanted} for ns {self._full(shape.name)}"
            raise self._fails(_MODIFY, shape.name, refusal(27, message))
        changed = {key: change[key] for key in change if key not in ("name", "keyPattern")}
        facts = self._facts(index)
        if all(index.get(key, False) == value for key, value in changed.items()):
            detail = f"{index['name']} is {shown(changed)} already"
            self._foreseen.note(_MODIFY, shape.name, Expected.NO_OP, detail, **facts)
            return
        if changed.get("unique") and not index.get("unique"):
            self._check_convertible(shape, index)
        if "expireAfterSeconds" in changed:
            facts |= self._expiring(shape.name, {**index, **changed})
        detail = f"{index['name']} would become {shown(changed)}{_expiry(facts)}"
        self._foreseen.note(_MODIFY, shape.name, Expected.DONE, detail, **facts)
        shape.indexes[index["name"]] = {**index, **changed}
        self._foreseen.put(shape)

    def is_broken(self, name: str, index: Mapping[str, Any]) -> bool:
        """Whether a collection's documents would not fit a unique index, or may not."""
        space, survey = self._space(name, index)
        return bool(space.unclear(survey)) or bool(self._duplicates(space, survey).keys)

    def broken(self, shape: Shape) -> None:
        """Note which predicted unique indexes do not allow what has been written since."""
        for index in shape.unique.values():
            space, survey = self._space(shape.name, index)
            if space.unclear(survey):
                continue
            if found := self._repeats(space, survey):
                told = f"what was written breaks the unique index {index['name']}, which would be there by then: {found.told}"
                failure = self._duplicate_key(shape, index, found)
                facts = {**self._facts(index), **found.facts}
                self._foreseen.fail("insert or update", shape.name, failure, told, **facts)

    # --- making

    def _check_kind(self, shape: Shape) -> None:
        if shape.type == "view":
            raise self._fails(_CREATE, shape.name, view_refusal(self._full(shape.name)))
        if shape.type == "timeseries":
            raise self._foreseen.refuse(
                _CREATE, shape.name, f"{shape.name} is a time-series collection"
            )

    def _there(
        self, shape: Shape, fresh: Mapping[str, Document], wanted: Document
    ) -> Document | None:
        """Return the index that is there already, or raise what the server has against this one."""
        query = wanted.get("partialFilterExpression")
        try:
            check(wanted)
            found = already({**shape.indexes, **fresh}, wanted)
        except OperationFailure as exc:
            raise self._fails(_CREATE, shape.name, exc, index=wanted) from None
        if query and not found and (failure := self._foreseen.unreadable(shape.name, query)):
            raise self._fails(_CREATE, shape.name, failure, index=wanted)
        return found

    def _build(self, shape: Shape, index: Document) -> tuple[Expected, str, Document]:
        """Return what would come of building it; raise when that fails."""
        label = f"{index['name']} on {shown(index['key'])}"
        facts = self._facts(index)
        if not shape.exists:
            return (
                Expected.DONE,
                f"{label} would make the collection, which is not there yet",
                {**facts, "documents": 0},
            )
        documents = self._foreseen.count(shape.name)
        facts["documents"] = documents
        if not documents:
            return Expected.DONE, f"{label} would be built over an empty collection", facts
        if kind := special(index):
            why = f"{label} would be built over {counted(documents)}; whether the server takes each value for a {kind} index is not known beforehand"
            return Expected.UNKNOWN, why, facts
        cause, more = self._inspect(shape, index)
        facts |= more
        if cause:
            return (
                Expected.UNKNOWN,
                f"{label} would be built over {counted(documents)}; whether that works is not known: {cause}",
                facts,
            )
        told = f"{label} would be built over {counted(documents)}"
        return Expected.DONE, told + _covering(facts) + _expiry(facts), facts

    def _inspect(self, shape: Shape, index: Document) -> tuple[str | None, Document]:
        """Return why it is not known whether the keys can be indexed, and figures; raise when they cannot."""
        facts = self._expiring(shape.name, index)
        if not (index.get("unique") or len(index["key"]) > 1 or "partialFilterExpression" in index):
            return None, facts
        space, survey = self._space(shape.name, index)
        if index.get("sparse") or "partialFilterExpression" in index:
            facts["covered"] = survey.covered
        if cause := space.unclear(survey):
            return cause, facts
        with wire.unheard():
            parallel = space.parallel_arrays(survey)
        if parallel:
            message = f"cannot index parallel arrays [{parallel[1]}] [{parallel[0]}]"
            raise self._fails(_CREATE, shape.name, refusal(171, message), index=index)
        if index.get("unique") and (found := self._repeats(space, survey)):
            failure = self._duplicate_key(shape, index, found)
            facts = {**self._facts(index), **found.facts}
            raise self._foreseen.fail(_CREATE, shape.name, failure, found.told, **facts)
        return None, facts

    def _check_convertible(self, shape: Shape, index: Document) -> None:
        if not index.get("prepareUnique"):
            message = (
                "Cannot make index unique with 'prepareUnique=false'. Run collMod to set it first."
            )
            raise self._fails(_MODIFY, shape.name, refusal(72, message), index=index)
        space, survey = self._space(shape.name, index)
        if cause := space.unclear(survey):
            raise self._foreseen.refuse(_MODIFY, shape.name, cause)
        if found := self._repeats(space, survey):
            message = "Cannot convert the index to unique. Please resolve conflicting documents before running collMod again."
            facts = {**self._facts(index), **found.facts}
            raise self._foreseen.fail(
                _MODIFY, shape.name, refusal(359, message), found.told, **facts
            )
        shape.unique[index["name"]] = {**index, "unique": True}

    def _space(self, name: str, index: Mapping[str, Any]) -> tuple[KeySpace, Survey]:
        space = KeySpace(self._foreseen.collection(name), index)
        with wire.unheard():
            return space, space.survey()

    def _duplicates(self, space: KeySpace, survey: Survey) -> Duplicates:
        with wire.unheard():
            return space.duplicates(survey)

    def _repeats(self, space: KeySpace, survey: Survey) -> _Repeats | None:
        """Return the keys that occur more than once, with their values masked."""
        found, mask = self._duplicates(space, survey), self._foreseen.mask
        shown_keys = [
            {
                "key": {path: mask(path, value) for path, value in each.key.items()},
                "count": each.count,
            }
            for each in found.first
        ]
        return _Repeats(found.keys, found.documents, shown_keys) if found.keys else None

    def _keep(
        self,
        shape: Shape,
        fresh: Mapping[str, Document],
        built: Sequence[tuple[Expected, str, Document]],
    ) -> None:
        for index, (expected, detail, facts) in zip(fresh.values(), built, strict=True):
            self._foreseen.note(_CREATE, shape.name, expected, detail, **facts)
            shape.indexes[index["name"]] = index
            if index.get("unique"):
                shape.unique[index["name"]] = index
        if fresh:
            shape.exists = True
            self._foreseen.put(shape)

    def _duplicate_key(self, shape: Shape, index: Document, found: _Repeats) -> OperationFailure:
        key = found.first[0]["key"]
        message = f"E11000 duplicate key error collection: {self._full(shape.name)} index: {index['name']} dup key: {shown(key)}"
        return refusal(11000, message, keyPattern=dict(index["key"]), keyValue=key)

    # --- dropping

    def _dropped(self, shape: Shape, wanted: object) -> list[Document]:
        if wanted == "*":
            return [index for name, index in shape.indexes.items() if name != "_id_"]
        named = (
            wanted
            if isinstance(wanted, list) and all(isinstance(n, str) for n in wanted)
            else [wanted]
        )
        found = []
        for each in named:
            index = self._found(shape, each)
            if index is None:
                what = f"name [{each}]" if isinstance(each, str) else f"key {each}"
                message = f"index not found with {what}"
                raise self._fails(_DROP, shape.name, refusal(27, message))
            if index["name"] == "_id_":
                raise self._fails(_DROP, shape.name, refusal(72, "cannot drop _id index"))
            found.append(index)
        return found

    def _found(self, shape: Shape, wanted: object) -> Document | None:
        if isinstance(wanted, str):
            return shape.indexes.get(wanted)
        key = ordered(wanted)  # type: ignore[arg-type]
        return next((each for each in shape.indexes.values() if ordered(each["key"]) == key), None)

    def _drop_one(self, shape: Shape, index: Document) -> None:
        name = index["name"]
        del shape.indexes[name]
        held = index.get("unique") and shape.unique.pop(name, None) is None
        tail = "; until then the server holds it, in this dry run too" if held else ""
        detail = f"{name} on {shown(index['key'])} would be dropped{tail}"
        self._foreseen.note(_DROP, shape.name, Expected.DONE, detail, **self._facts(index))
        self._foreseen.put(shape)

    # --- words and figures

    def _expiring(self, name: str, index: Mapping[str, Any]) -> Document:
        if "expireAfterSeconds" not in index:
            return {}
        path = next(iter(index["key"]))
        hello = wire.outside(lambda: self._foreseen.plain.client.admin.command("hello"))
        limit = hello["localTime"] - timedelta(seconds=index["expireAfterSeconds"])
        query = {"$and": [{path: {"$lt": limit}}, index.get("partialFilterExpression") or {}]}
        return {"expiring": self._foreseen.count(name, query)}

    def _facts(self, index: Mapping[str, Any]) -> Document:
        return {"index": index["name"], "keys": dict(index["key"])}

    def _full(self, name: str) -> str:
        return f"{self._foreseen.plain.name}.{name}"

    def _fails(
        self,
        operation: str,
        name: str,
        failure: OperationFailure,
        *,
        index: Mapping[str, Any] | None = None,
    ) -> OperationFailure:
        message = (failure.details or {})["errmsg"]
        facts = self._facts(index) if index else {}
        return self._foreseen.fail(operation, name, failure, message, **facts)


def _expiry(facts: Mapping[str, Any]) -> str:
    if "expiring" not in facts:
        return ""
    return f"; {counted(facts['expiring'])} would expire at once"


def _covering(facts: Mapping[str, Any]) -> str:
    return f", {facts['covered']:,} of which it covers" if "covered" in facts else ""
