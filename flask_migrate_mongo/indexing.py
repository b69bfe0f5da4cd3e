"""What becomes of an index that would be made, changed or dropped."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from . import wire
from .definitions import already, as_kept, check, ordered, special
from .duplicates import FIRST, Duplicates, KeySpace
from .foreseen import counted, json_ready, refusal, shown, view_refusal
from .model import Expected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .foreseen import Foreseen, Shape
    from .server import Document

_CREATE = "createIndexes"
_DROP = "dropIndexes"


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
            raise self._fails("collMod", shape.name, refusal(27, message))
        changed = {key: change[key] for key in change if key not in ("name", "keyPattern")}
        if changed.get("unique") and not index.get("unique"):
            self._check_convertible(shape, {**index, "unique": True})
        same = all(index.get(key, False) == value for key, value in changed.items())
        facts = {**self._facts(index), **self._expiring(shape.name, {**index, **changed})}
        detail = (
            f"{index['name']} is {shown(changed)} already"
            if same
            else _changed(index, changed, facts)
        )
        self._foreseen.note(
            "collMod", shape.name, Expected.NO_OP if same else Expected.DONE, detail, **facts
        )
        shape.indexes[index["name"]] = {**index, **changed}
        self._foreseen.put(shape)

    def broken(self, shape: Shape) -> None:
        """Note which predicted unique indexes do not allow what has been written since."""
        for index in shape.unapplied.values():
            if index.get("key") is None:
                continue
            space = KeySpace(self._foreseen.collection(shape.name), index)
            with wire.unheard():
                survey = space.survey()
                found = Duplicates(0, 0, ()) if space.unclear(survey) else space.duplicates(survey)
            if found.keys:
                repeated = self._repeated(found)
                detail = f"what was written breaks the unique index {index['name']}, which would be there by then: {_told(repeated, found)}"
                failure = self._duplicate_key(shape, index, repeated)
                facts = {**self._facts(index), **_figures(repeated, found)}
                self._foreseen.fail("insert or update", shape.name, failure, detail, **facts)

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
        space = KeySpace(self._foreseen.collection(shape.name), index)
        with wire.unheard():
            survey = space.survey()
        if index.get("sparse") or "partialFilterExpression" in index:
            facts["covered"] = survey.covered
        if cause := space.unclear(survey):
            return cause, facts
        with wire.unheard():
            parallel = space.parallel_arrays(survey)
        if parallel:
            message = f"cannot index parallel arrays [{parallel[1]}] [{parallel[0]}]"
            raise self._fails(_CREATE, shape.name, refusal(171, message), index=index)
        if index.get("unique"):
            self._check_unique(_CREATE, shape, index, space)
        return None, facts

    def _check_unique(self, operation: str, shape: Shape, index: Document, space: KeySpace) -> None:
        with wire.unheard():
            found = space.duplicates(space.survey())
        if found.keys:
            repeated = self._repeated(found)
            failure = self._duplicate_key(shape, index, repeated)
            facts = {**self._facts(index), **_figures(repeated, found)}
            raise self._foreseen.fail(
                operation, shape.name, failure, _told(repeated, found), **facts
            )

    def _check_convertible(self, shape: Shape, index: Document) -> None:
        space = KeySpace(self._foreseen.collection(shape.name), index)
        with wire.unheard():
            survey = space.survey()
            found = space.duplicates(survey)
        if cause := space.unclear(survey):
            raise self._foreseen.refuse("collMod", shape.name, cause)
        if found.keys:
            repeated = self._repeated(found)
            message = "Cannot convert the index to unique. Please resolve conflicting documents before running collMod again."
            facts = {**self._facts(index), **_figures(repeated, found)}
            detail = _told(repeated, found)
            raise self._foreseen.fail("collMod", shape.name, refusal(359, message), detail, **facts)
        shape.unapplied[index["name"]] = index

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
                shape.unapplied[index["name"]] = index
        if fresh:
            shape.exists = True
            self._foreseen.put(shape)

    def _duplicate_key(
        self, shape: Shape, index: Document, repeated: Sequence[Document]
    ) -> OperationFailure:
        key = repeated[0]["key"]
        message = f"E11000 duplicate key error collection: {self._full(shape.name)} index: {index['name']} dup key: {shown(key)}"
        return refusal(11000, message, keyPattern=dict(index["key"]), keyValue=key)

    def _repeated(self, found: Duplicates) -> list[Document]:
        mask = self._foreseen.mask
        return [
            {
                "key": {path: mask(path, value) for path, value in each.key.items()},
                "count": each.count,
            }
            for each in found.first
        ]

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
        held = index.get("unique") and shape.unapplied.pop(name, None) is None
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


def _changed(index: Document, changed: Document, facts: Document) -> str:
    return f"{index['name']} would become {shown(changed)}{_expiry(facts)}"


def _expiry(facts: Mapping[str, Any]) -> str:
    if "expiring" not in facts:
        return ""
    return f"; {counted(facts['expiring'])} would expire at once"


def _covering(facts: Mapping[str, Any]) -> str:
    return f", {facts['covered']:,} of which it covers" if "covered" in facts else ""


def _told(repeated: Sequence[Document], found: Duplicates) -> str:
    keys = "1 key occurs" if found.keys == 1 else f"{found.keys:,} keys occur"
    first = ", ".join(f"{shown(each['key'])} {each['count']} times" for each in repeated)
    more = ", …" if found.keys > FIRST else ""
    return f"{keys} more than once ({counted(found.documents)}): {first}{more}"


def _figures(repeated: Sequence[Document], found: Duplicates) -> Document:
    return {
        "duplicateKeys": found.keys,
        "duplicateDocuments": found.documents,
        "duplicates": json_ready(repeated),
    }
