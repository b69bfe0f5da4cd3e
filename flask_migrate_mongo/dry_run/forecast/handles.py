"""The database as a dry run hands it to a migration: what no transaction allows is predicted.

A migration's code works with these handles as with the driver's own, and every handle that it
derives from them is one of these. What a transaction allows goes to the server, in it; what it
does not is answered as the server would answer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo.collation import Collation
from pymongo.collection import Collection
from pymongo.command_cursor import CommandCursor
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure
from pymongo.operations import IndexModel, SearchIndexModel

from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.model.reports import Expected

from .answering import Answering, of_what_is_committed
from .foreseen import Foreseen
from .merging import writes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.reports import Prediction


class Forecast:
    """What the operations would do that a dry run does not make."""

    def __init__(
        self,
        database: Database[Any],
        spend: Callable[[int], None],
        mask: Callable[[str, object], object] = lambda _, value: value,
    ) -> None:
        """Predict for this database.

        `spend(n)` is called before n documents are written unheard, and may raise; `mask(path, value)`
        gives what is shown of a value in a repeated key.
        """
        self._database = database
        self._foreseen = Foreseen(_plain(database), spend, mask)
        self._answering = Answering(self._foreseen)

    @property
    def database(self) -> RehearsedDatabase:
        """The handle for migrations."""
        return RehearsedDatabase(self._answering, self._database)

    @property
    def touched(self) -> set[str]:
        """The collections of which a change is predicted."""
        return self._foreseen.touched

    def settle(self, written: Iterable[str]) -> tuple[Prediction, ...]:
        """Return which rules, predicted themselves, are broken by what was written to these collections.

        To be called at the end of a step, while the transaction is open.
        """
        before = len(self._foreseen.notes)
        self._answering.settle(written)
        return tuple(self._foreseen.notes[before:])

    def take(self) -> tuple[Prediction, ...]:
        """Return what was predicted since the last call."""
        return self._foreseen.take()


class RehearsedDatabase(Database[Any]):
    """A database in a dry run."""

    def __init__(self, answering: Answering, like: Database[Any], **options: Any) -> None:
        super().__init__(like.client, like.name, **_options(like, options))
        self._answering = answering

    def with_options(self, *args: Any, **options: Any) -> RehearsedDatabase:
        """Derive a handle."""
        return RehearsedDatabase(self._answering, self, **_named(args, options))

    def get_collection(self, name: str, *args: Any, **options: Any) -> RehearsedCollection:
        """Derive a handle."""
        return RehearsedCollection(self, name, **_named(args, options))

    def __getitem__(self, name: str) -> RehearsedCollection:
        return RehearsedCollection(self, name)

    def create_collection(
        self,
        name: str,
        *args: Any,
        check_exists: bool | None = True,
        session: ClientSession | None = None,  # noqa: ARG002
        **options: Any,
    ) -> RehearsedCollection:
        """Predict that the collection is made."""
        handle = {key: options.pop(key) for key in _HANDLE if key in options}
        collection = self.get_collection(name, *args[:4], **handle)
        if check_exists and self._answering.foreseen.shape(name).exists:
            message = f"collection {name} already exists"
            raise self._answering.foreseen.fail("create", name, CollectionInvalid(message), message)
        if isinstance(options.get("collation"), Collation):
            options["collation"] = options["collation"].document
        self._answering.shaping.create({"create": name, **options})
        return collection

    def drop_collection(
        self,
        name_or_collection: str | Collection[Any],
        *_: Any,
        **__: Any,
    ) -> dict[str, Any]:
        """Predict that the collection is dropped."""
        name = name_or_collection
        return _allowing_none_such(
            self._answering.shaping.drop, {"drop": getattr(name, "name", name)}
        )

    def list_collections(
        self,
        session: ClientSession | None = None,  # noqa: ARG002
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        comment: Any | None = None,  # noqa: ARG002
        **_: Any,
    ) -> CommandCursor[Any]:
        """List what there would be by now."""
        return _cursor_of(self["$cmd.listCollections"], self._answering.listing(filter))

    def list_collection_names(
        self,
        session: ClientSession | None = None,  # noqa: ARG002
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        comment: Any | None = None,  # noqa: ARG002
        **_: Any,
    ) -> list[str]:
        """List the names of what there would be by now."""
        return [each["name"] for each in self._answering.listing(filter)]

    def validate_collection(
        self, name_or_collection: Any, *args: Any, **options: Any
    ) -> dict[str, Any]:
        """Validate what is committed."""
        name = getattr(name_or_collection, "name", name_or_collection)
        plain = self._answering.foreseen.plain
        return wire.outside(lambda: plain.validate_collection(name, *args, **options))

    def aggregate(self, pipeline: Any, *args: Any, **options: Any) -> CommandCursor[Any]:
        """Aggregate in the transaction; `$out` and `$merge` by other means."""
        if of_what_is_committed(pipeline):
            plain = self._answering.foreseen.plain
            found = wire.outside(lambda: list(plain.aggregate(pipeline, **options)))
            return _cursor_of(self["$cmd.aggregate"], found)
        self._answering.check_pipeline(None, pipeline)
        if not writes(pipeline):
            return super().aggregate(pipeline, *args, **options)
        options.pop("session", None)
        self._answering.write_results(None, pipeline, options)
        return _cursor_of(self["$cmd.aggregate"], [])

    def command(
        self,
        command: str | Mapping[str, Any],
        value: Any = 1,
        check: bool = True,  # noqa: FBT001, FBT002
        allowable_errors: Sequence[str | int] | None = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Send a command, or predict it."""
        try:
            answer = self._answering.answer(_document(command, value, options))
        except OperationFailure as exc:
            if check and exc.code not in (allowable_errors or ()):
                raise
            return dict(exc.details or {})
        if answer is None:
            passed: Any = command
            return super().command(passed, value, check, allowable_errors, *args, **options)
        return answer

    def cursor_command(
        self, command: Any, value: Any = 1, *args: Any, **options: Any
    ) -> CommandCursor[Any]:
        """Send a command whose answer is a cursor, or predict it."""
        answer = self._answering.answer(_document(command, value, options))
        if answer is None:
            return super().cursor_command(command, value, *args, **options)
        return _cursor_of(self["$cmd"], answer["cursor"]["firstBatch"])

    def watch(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise self._answering.foreseen.refuse("watch", "", "no transaction has change streams")


def _answering(handle: RehearsedDatabase | RehearsedCollection) -> Answering:
    # No attribute of a public name: that would be a collection's.
    return vars(handle)["_answering"]  # type: ignore[no-any-return]


def _writing(name: str) -> Any:
    original = getattr(Collection, name)

    @functools.wraps(original)
    def write(collection: RehearsedCollection, *args: Any, **options: Any) -> Any:
        answering = _answering(collection)
        answering.check_write(collection.name)
        try:
            return original(collection, *args, **options)
        except OperationFailure as exc:
            answering.foreseen.check_failure(collection.name, exc)
            raise

    return write


def _reading(name: str) -> Any:
    original = getattr(Collection, name)

    @functools.wraps(original)
    def read(collection: RehearsedCollection, *args: Any, **options: Any) -> Any:
        _answering(collection).check_read(collection.name)
        return original(collection, *args, **options)

    return read


class RehearsedCollection(Collection[Any]):
    """A collection in a dry run."""

    def __init__(self, database: RehearsedDatabase, name: str, **options: Any) -> None:
        super().__init__(database, name, **options)
        self._answering = _answering(database)

    insert_one = _writing("insert_one")
    insert_many = _writing("insert_many")
    bulk_write = _writing("bulk_write")
    replace_one = _writing("replace_one")
    update_one = _writing("update_one")
    update_many = _writing("update_many")
    delete_one = _writing("delete_one")
    delete_many = _writing("delete_many")
    find_one_and_update = _writing("find_one_and_update")
    find_one_and_replace = _writing("find_one_and_replace")
    find_one_and_delete = _writing("find_one_and_delete")
    find = _reading("find")
    find_raw_batches = _reading("find_raw_batches")
    count_documents = _reading("count_documents")
    distinct = _reading("distinct")

    @property
    def database(self) -> RehearsedDatabase:
        """The database that it is a part of."""
        found: Any = super().database
        return found  # type: ignore[no-any-return]

    def with_options(self, *args: Any, **options: Any) -> RehearsedCollection:
        """Derive a handle."""
        return RehearsedCollection(
            self.database, self.name, **_options(self, _named(args, options))
        )

    def __getitem__(self, name: str) -> RehearsedCollection:
        return RehearsedCollection(self.database, f"{self.name}.{name}", **_options(self, {}))

    def aggregate(self, pipeline: Any, *args: Any, **options: Any) -> CommandCursor[Any]:
        """Aggregate in the transaction; `$out` and `$merge` by other means."""
        plain = self._answering.foreseen.collection(self.name)
        if of_what_is_committed(pipeline):
            found = wire.outside(lambda: list(plain.aggregate(pipeline, **options)))
            return _cursor_of(self, found)
        self._answering.check_pipeline(self.name, pipeline)
        if not writes(pipeline):
            return super().aggregate(pipeline, *args, **options)
        options.pop("session", None)
        self._answering.write_results(self.name, pipeline, options)
        return _cursor_of(self, [])

    def aggregate_raw_batches(self, pipeline: Any, *args: Any, **options: Any) -> Any:
        """Aggregate in the transaction."""
        if writes(pipeline):
            return self.aggregate(pipeline, *args, **options)
        self._answering.check_pipeline(self.name, pipeline)
        return super().aggregate_raw_batches(pipeline, *args, **options)

    def estimated_document_count(self, *_: Any, **__: Any) -> int:
        """Count exactly, in the transaction."""
        self._answering.check_read(self.name)
        return self._answering.foreseen.count(self.name)

    def create_index(self, keys: Any, *_: Any, **options: Any) -> str:
        """Predict that the index is built."""
        definition = {key: value for key, value in options.items() if key not in _NOT_OF_AN_INDEX}
        return self.create_indexes([IndexModel(keys, **definition)])[0]

    def create_indexes(self, indexes: Sequence[IndexModel], *_: Any, **__: Any) -> list[str]:
        """Predict that the indexes are built."""
        documents = [index.document for index in indexes]
        self._answering.indexing.create({"createIndexes": self.name, "indexes": documents})
        return [document["name"] for document in documents]

    def drop_indexes(self, *_: Any, **__: Any) -> None:
        """Predict that all indexes are dropped."""
        self.drop_index("*")

    def drop_index(self, index_or_name: Any, *_: Any, **__: Any) -> None:
        """Predict that the index is dropped."""
        named = index_or_name
        if not isinstance(named, str):
            named = IndexModel(named).document["name"]
        command = {"dropIndexes": self.name, "index": named}
        _allowing_none_such(self._answering.indexing.drop, command)

    def list_indexes(self, *_: Any, **__: Any) -> CommandCursor[Any]:
        """List the indexes that there would be by now."""
        return _cursor_of(self, self._answering.indexes(self.name))

    def index_information(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Describe the indexes that there would be by now."""
        return {
            index.pop("name"): {**index, "key": list(index["key"].items())}
            for index in self._answering.indexes(self.name)
        }

    def options(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the options that it would have by now."""
        shape = self._answering.foreseen.shape(self.name)
        return dict(shape.options) if shape.exists else {}

    def drop(self, *_: Any, **__: Any) -> None:
        """Predict that it is dropped."""
        self.database.drop_collection(self.name)

    def rename(self, new_name: str, *_: Any, **options: Any) -> dict[str, Any]:
        """Predict that it is renamed."""
        target = self.database[new_name].name  # Refuses names as the driver does.
        gone = bool(options.get("dropTarget"))
        return self._answering.shaping.rename(self.name, target, drop_target=gone)

    def watch(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise self._answering.foreseen.refuse(
            "watch", self.name, "no transaction has change streams"
        )

    def list_search_indexes(self, *args: Any, **options: Any) -> CommandCursor[Any]:
        """List the search indexes that are committed."""
        options.pop("session", None)
        plain = self._answering.foreseen.collection(self.name)
        found = wire.outside(
            lambda: [dict(each) for each in plain.list_search_indexes(*args, **options)]
        )
        return _cursor_of(self, found)

    def create_search_indexes(
        self, models: Iterable[SearchIndexModel], *_: Any, **__: Any
    ) -> list[str]:
        """Predict nothing certain."""
        names = [str(model.document.get("name", "default")) for model in models]
        return [self._unknown_search_index("createSearchIndexes", name) for name in names]

    def create_search_index(self, model: Any, *_: Any, **__: Any) -> str:
        """Predict nothing certain."""
        made = model if isinstance(model, SearchIndexModel) else SearchIndexModel(**model)
        return self.create_search_indexes([made])[0]

    def drop_search_index(self, name: str, *_: Any, **__: Any) -> None:
        """Predict nothing certain."""
        self._unknown_search_index("dropSearchIndex", name)

    def update_search_index(self, name: str, *_: Any, **__: Any) -> None:
        """Predict nothing certain."""
        self._unknown_search_index("updateSearchIndex", name)

    def _unknown_search_index(self, operation: str, name: str) -> str:
        detail = f"the search index {name}: what the search service does is not known beforehand"
        self._answering.foreseen.note(operation, self.name, Expected.UNKNOWN, detail, index=name)
        return name


_HANDLE = ("codec_options", "read_preference", "write_concern", "read_concern")
_NOT_OF_AN_INDEX = frozenset({"session", "comment", "maxTimeMS"})


def _plain(database: Database[Any]) -> Database[Document]:
    """Return a handle that encodes as the application's does, and decodes whatever is stored."""
    codec: CodecOptions[Document] = CodecOptions(
        document_class=dict,
        uuid_representation=database.codec_options.uuid_representation,
        type_registry=database.codec_options.type_registry,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )
    return Database(database.client, database.name, **_options(database, {"codec_options": codec}))


def _options(handle: Any, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a handle, with those changed that are given."""
    return {name: changed.get(name) or getattr(handle, name) for name in _HANDLE}


def _named(args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_HANDLE, args, strict=False)), **options}


def _document(
    command: str | Mapping[str, Any], value: object, options: Mapping[str, Any]
) -> Document:
    own = {"codec_options", "read_preference", "session", "comment", "max_await_time_ms"}
    given = {name: each for name, each in options.items() if name not in own}
    return {command: value, **given} if isinstance(command, str) else {**command, **given}


def _cursor_of(collection: Collection[Any], documents: Sequence[Document]) -> CommandCursor[Any]:
    batch = {"id": 0, "ns": collection.full_name, "firstBatch": list(documents)}
    return CommandCursor(collection, batch, None)


def _allowing_none_such(
    predict: Callable[[Mapping[str, Any]], Document], command: Mapping[str, Any]
) -> Document:
    """Answer as the driver does, to which a collection that does not exist is no error."""
    try:
        return predict(command)
    except OperationFailure as exc:
        if exc.code != 26:  # noqa: PLR2004
            raise
        return dict(exc.details or {})
