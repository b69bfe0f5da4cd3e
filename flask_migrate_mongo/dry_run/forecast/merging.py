"""`$out` and `$merge` in a transaction, which has neither: computed there, and written as they would.

The writes are heard, so that they count as the migration's own; what `$out` replaces goes unheard.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.model.reports import Expected

from .foreseen import counted, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import IO

    from flask_migrate_mongo.driver.server import Document

    from .foreseen import Foreseen, Shape

BATCH = 1_000

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_COMBINATIONS = frozenset(
    {
        *(
            (matched, other)
            for matched in ("replace", "merge", "pipeline")
            for other in ("insert", "discard", "fail")
        ),
        ("keepExisting", "insert"),
        ("fail", "insert"),
    }
)


@dataclass(frozen=True, slots=True)
class _Merge:
    """A `$merge` stage, spelled out."""

    into: str
    on: tuple[str, ...]
    matched: str
    unmatched: str
    pipeline: Sequence[Mapping[str, Any]] = ()
    let: Mapping[str, Any] | None = None


def writes(pipeline: object) -> bool:
    """Whether a pipeline writes its results into a collection."""
    return isinstance(pipeline, list) and bool(pipeline) and _stage(pipeline) in ("$out", "$merge")


class Merging:
    """Makes what `$out` and `$merge` would make, by other means."""

    def __init__(self, foreseen: Foreseen) -> None:
        self._foreseen = foreseen

    def run(
        self,
        pipeline: Sequence[Mapping[str, Any]],
        results: Callable[[], Iterable[RawBSONDocument]],
    ) -> None:
        """Write the results of all stages but the last as that stage would."""
        stage = _stage(pipeline)
        target = pipeline[-1][stage]
        if stage == "$out":
            name = self._target(stage, target)
            self._check_out(name, target)
            with _spooled(results()) as spool:
                self._out(name, spool)
        else:
            merge = self._parsed(target)
            self._check_merge(self._foreseen.shape(merge.into), merge)
            with _spooled(results()) as spool:
                self._merge(merge, spool)

    def _target(self, stage: str, target: object) -> str:
        if isinstance(target, str):
            return target
        if isinstance(target, dict) and isinstance(target.get("coll"), str):
            if target.get("db", self._foreseen.plain.name) != self._foreseen.plain.name:
                raise self._foreseen.refuse(
                    stage, target["coll"], f"it writes into another database, {target['db']}"
                )
            return str(target["coll"])
        raise self._foreseen.refuse(stage, "", "its target cannot be read")

    # --- $out

    def _check_out(self, name: str, target: object) -> None:
        shape = self._foreseen.shape(name)
        if isinstance(target, dict) and "timeseries" in target:
            raise self._foreseen.refuse("$out", name, f"{name} would be a time-series collection")
        if shape.type == "view" or shape.unwritable:
            raise self._foreseen.refuse("$out", name, shape.unwritable or f"{name} is a view")

    def _out(self, name: str, results: Iterable[RawBSONDocument]) -> None:
        replaced = self._foreseen.count(name)
        self._foreseen.spend(replaced)
        self._foreseen.clear(name)
        made = self._write(name, (InsertOne(document) for document in results))
        shape = self._foreseen.shape(name)
        shape.exists = True
        self._foreseen.put(shape)
        detail = f"{counted(replaced)} of {name} would be replaced with {made:,}"
        facts = {"replaced": replaced, "documents": made}
        self._foreseen.note("$out", name, Expected.DONE, detail, **facts)

    # --- $merge

    def _parsed(self, stage: Any) -> _Merge:  # noqa: ANN401
        given = stage if isinstance(stage, dict) else {"into": stage}
        matched = given.get("whenMatched", "merge")
        on = given.get("on", "_id")
        return _Merge(
            into=self._target("$merge", given.get("into")),
            on=(on,) if isinstance(on, str) else tuple(on),
            matched="pipeline" if isinstance(matched, list) else matched,
            unmatched=given.get("whenNotMatched", "insert"),
            pipeline=matched if isinstance(matched, list) else (),
            let=given.get("let"),
        )

    def _check_merge(self, shape: Shape, merge: _Merge) -> None:
        name = shape.name
        if shape.type == "view" or shape.unwritable:
            raise self._foreseen.refuse("$merge", name, shape.unwritable or f"{name} is a view")
        if (merge.matched, merge.unmatched) not in _COMBINATIONS:
            message = f"Combination of whenMatched: {merge.matched} and whenNotMatched: {merge.unmatched} is not supported"
            raise self._foreseen.fail("$merge", name, refusal(51181, message), message)
        if merge.matched == "keepExisting" and any("." in path for path in merge.on):
            raise self._foreseen.refuse("$merge", name, "it keeps what is found by a dotted path")
        if merge.let is not None and merge.let != {"new": "$$ROOT"}:
            raise self._foreseen.refuse("$merge", name, "it has variables of its own (let)")
        if merge.on != ("_id",) and not any(
            _identifies(index, merge.on) for index in shape.indexes.values()
        ):
            message = "Cannot find index to verify that join fields will be unique"
            raise self._foreseen.fail(
                "$merge",
                name,
                refusal(51183, message),
                f"{name} has no unique index on {', '.join(merge.on)}",
            )

    def _merge(self, merge: _Merge, results: Iterable[RawBSONDocument]) -> None:
        if merge.matched == "pipeline":
            made = self._by_pipeline(merge, results)
        else:
            strict = merge.unmatched == "fail"
            operations = _operations(merge, results)
            made = self._write(merge.into, operations, all_must_match=strict)
        shape = self._foreseen.shape(merge.into)
        self._foreseen.put(shape)
        rule = f"matched: {merge.matched}, not matched: {merge.unmatched}"
        detail = f"{counted(made)} would be merged into {merge.into} ({rule})"
        self._foreseen.note("$merge", merge.into, Expected.DONE, detail, documents=made)

    def _by_pipeline(self, merge: _Merge, results: Iterable[RawBSONDocument]) -> int:
        # One by one: a bulk has no constants of each update's own, and an upsert would insert
        # what the pipeline makes of nothing, where $merge inserts the document itself.
        made = 0
        for made, document in enumerate(results, start=1):  # noqa: B007
            found = 0
            if (key := _key(merge, document)) is not None:
                update = {"q": key, "u": list(merge.pipeline), "c": {"new": document}}
                found = self._run({"update": merge.into, "updates": [update]})
            if not found and merge.unmatched == "fail":
                raise _no_match()
            if not found and merge.unmatched == "insert":
                self._run({"insert": merge.into, "documents": [document]})
        return made

    def _run(self, command: Document) -> int:
        self._foreseen.written.add(next(iter(command.values())))
        answer = self._foreseen.plain.command(command)
        if answer.get("writeErrors"):
            raise _failure(answer["writeErrors"][0])
        return int(answer["n"])

    def _write(self, name: str, operations: Iterable[Any], *, all_must_match: bool = False) -> int:
        """Write in batches and return how many operations there were."""
        collection = self._foreseen.collection(name)
        self._foreseen.written.add(name)
        rest, made = iter(operations), 0
        while batch := list(islice(rest, BATCH)):
            made += len(batch)
            try:
                done = collection.bulk_write(batch)
            except BulkWriteError as exc:
                self._foreseen.check_failure(name, exc)
                raise _failure(exc.details["writeErrors"][0]) from exc
            reached = done.matched_count + done.upserted_count + done.inserted_count
            if all_must_match and reached < len(batch):
                raise _no_match()
        return made


@contextlib.contextmanager
def _spooled(documents: Iterable[RawBSONDocument]) -> Iterator[Iterator[RawBSONDocument]]:
    """Read to the end before anything is written: the target may be what is read."""
    with tempfile.TemporaryFile() as file:
        for document in documents:
            file.write(document.raw)
        file.seek(0)
        yield _read(file)


def _read(file: IO[bytes]) -> Iterator[RawBSONDocument]:
    return bson.decode_file_iter(file, codec_options=_RAW)


def raw(handle: Any) -> Any:  # noqa: ANN401
    """Return the handle, of a database or a collection, that reads documents as they are stored."""
    codec = handle.codec_options.with_options(document_class=RawBSONDocument)
    return handle.with_options(codec_options=codec)


def copy(foreseen: Foreseen, source: str, target: str) -> None:
    """Copy all documents into another collection, unheard."""
    with wire.unheard(), _spooled(raw(foreseen.collection(source)).find({})) as documents:
        while batch := list(islice(documents, BATCH)):
            raw(foreseen.collection(target)).insert_many(batch, bypass_document_validation=True)


def _stage(pipeline: Sequence[Mapping[str, Any]]) -> str:
    return next(iter(pipeline[-1]), "")


def _identifies(index: Mapping[str, Any], on: Sequence[str]) -> bool:
    return bool(
        index.get("unique")
        and set(index["key"]) == set(on)
        and "partialFilterExpression" not in index
    )


def _operations(
    merge: _Merge, documents: Iterable[RawBSONDocument]
) -> Iterator[InsertOne[Any] | ReplaceOne[Any] | UpdateOne]:
    for document in documents:
        key = _key(merge, document)
        if key is not None and merge.matched != "fail":
            yield _update(merge, key, document)
        elif merge.unmatched == "insert":
            yield InsertOne(document)
        elif merge.unmatched == "fail":
            raise _no_match()


def _update(merge: _Merge, key: Document, document: RawBSONDocument) -> ReplaceOne[Any] | UpdateOne:
    upsert = merge.unmatched == "insert"
    if merge.matched == "replace":
        return ReplaceOne(key, document, upsert=upsert)
    if merge.matched == "keepExisting":
        rest = {name: value for name, value in document.items() if name not in key}
        return UpdateOne(key, {"$setOnInsert": rest}, upsert=upsert)
    return UpdateOne(key, [_merged(document)], upsert=upsert)


def _merged(document: Mapping[str, Any]) -> Document:
    return {"$replaceWith": {"$mergeObjects": ["$$ROOT", {"$literal": document}]}}


def _key(merge: _Merge, document: Mapping[str, Any]) -> Document | None:
    """Return the query for the document's counterpart; None without an _id, to which nothing is equal."""
    key = {path: _at(document, path) for path in merge.on}
    if "_id" in key and key["_id"] is None:
        return None
    if any(value is None or isinstance(value, list) for value in key.values()):
        raise refusal(51132, "$merge write error: 'on' field cannot be missing, null or an array")
    return key


def _at(document: Any, path: str) -> Any:  # noqa: ANN401
    for part in path.split("."):
        document = document.get(part) if hasattr(document, "get") else None
    return document


def _no_match() -> Exception:
    return refusal(13113, "$merge could not find a matching document in the target collection")


def _failure(error: Mapping[str, Any]) -> Exception:
    more = {name: error[name] for name in ("keyPattern", "keyValue") if name in error}
    return refusal(error["code"], error["errmsg"], **more)
