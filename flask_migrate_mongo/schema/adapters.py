"""Makes declarations from the models of other libraries. None of them is imported unless an application uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from flask_migrate_mongo.driver.server import Document

from .declared import INDEX_PARAMETERS, Collection, Index
from .identity import IGNORED_OPTIONS, Identity, identity, is_id
from .normal_forms import TTL

_DEFAULT_SIZE = 10 * 1024 * 1024
"""mongoengine's, of a capped collection, in bytes."""

_NOT_SENT = frozenset({"fields", "cls", "types", *IGNORED_OPTIONS} - {"name"})


def json_schema(model: type, *, by_alias: bool = True) -> Document:
    """Make a validator from a Pydantic model, a dataclass or a TypedDict.

    It has the BSON types in which pymongo stores `model_dump()`. A field with a default is not required.
    """
    # An application without Pydantic imports this module, too.
    from .pydantic_types import schema_of  # noqa: PLC0415

    return {"$jsonSchema": schema_of(model, by_alias=by_alias)}


class MongoengineDocument(Protocol):
    """A document class of mongoengine."""

    _meta: Document

    @classmethod
    def _get_collection_name(cls) -> str: ...


def from_mongoengine(*documents: type[MongoengineDocument]) -> list[Collection]:
    """Make the collections of mongoengine's document classes and their subclasses, as mongoengine creates them."""
    classes = dict.fromkeys(each for base in documents for each in _family(base))
    families: dict[str, list[Document]] = {}
    for each in classes:
        if not (meta := _meta_of(each)).get("abstract"):
            families.setdefault(_name_of(each), []).append(meta)
    return [_collection(name, metas) for name, metas in families.items()]


def _family(document: type[MongoengineDocument]) -> Iterator[type[MongoengineDocument]]:
    yield document
    for below in document.__subclasses__():
        yield from _family(below)


def _meta_of(document: type[MongoengineDocument]) -> Document:
    return document._meta  # noqa: SLF001  (mongoengine has no public name for it)


def _name_of(document: type[MongoengineDocument]) -> str:
    return document._get_collection_name()  # noqa: SLF001  (nor for it)


def _collection(name: str, metas: list[Document]) -> Collection:
    """Make the collection of a family of classes, which may have indexes in common."""
    created: Document = {}
    indexes: dict[Identity, Index] = {}
    for meta in metas:
        created |= _options(meta)
        for index in _indexes(meta):
            indexes.setdefault(identity(index.spec), index)
    period = created.pop(TTL, None)
    return Collection(name, list(indexes.values()), expire_after=period, options=created)


def _indexes(meta: Document) -> Iterator[Index]:
    defaults: Document = meta.get("index_opts") or {}
    specs = [{**defaults, **spec} for spec in meta["index_specs"]]
    starts_with_class = [spec["fields"][0][0] == "_cls" for spec in specs if spec["fields"]]
    for spec in specs:
        index = _index(spec["fields"], spec)
        if not is_id(index.spec):
            yield index
    if meta.get("index_cls", True) and meta.get("allow_inheritance") and not any(starts_with_class):
        yield _index("_cls", defaults)


def _index(keys: Any, options: Document) -> Index:  # noqa: ANN401  (as mongoengine writes them)
    given = {n: v for n, v in options.items() if n not in _NOT_SENT and v is not None}
    if "collation" in given:
        # It may be pymongo's Collation.
        given["collation"] = getattr(given["collation"], "document", given["collation"])
    known = {INDEX_PARAMETERS[n]: v for n, v in given.items() if n in INDEX_PARAMETERS}
    others = {n: v for n, v in given.items() if n not in INDEX_PARAMETERS}
    return Index(keys, **known, options=others)


def _options(meta: Document) -> Document:
    if series := meta.get("timeseries"):
        rest = {name: value for name, value in series.items() if name != TTL}
        return {"timeseries": rest, TTL: series.get(TTL)}
    size, most = meta.get("max_size"), meta.get("max_documents")
    if not size and not most:
        return {}
    limit = {"max": most} if most else {}
    return {"capped": True, "size": size or _DEFAULT_SIZE, **limit}
