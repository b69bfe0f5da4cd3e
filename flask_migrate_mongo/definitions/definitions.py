"""`ctx.create_index()` and its neighbours, of a step and of a dry run."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

from flask_migrate_mongo.driver.server import (
    EXACT,
    Document,
    DocumentView,
    code_of,
    failure_of,
    server_of,
    translated,
)
from flask_migrate_mongo.model.errors import DatabaseError, DefinitionError
from flask_migrate_mongo.model.values import INDEX_CREATED, INDEX_DROPPED
from flask_migrate_mongo.process import elapsed
from flask_migrate_mongo.schema.identity import Answer, answer, has_same_key
from flask_migrate_mongo.schema.live import SchemaReader
from flask_migrate_mongo.schema.meanings import number
from flask_migrate_mongo.schema.normal_forms import conditions
from flask_migrate_mongo.schema.search import LiveSearchIndex

from .waiting import Waiting

Keys = str | Sequence[str | tuple[str, int | str]]
"""As pymongo takes them: a field, or pairs of a field and 1, -1, "text", "2dsphere" or another kind."""

SHOWN = 10
"""How many documents an error names."""

COUNTED = 1_000
"""Violators are counted up to here."""

SEARCH_POLL_SECONDS = 1

_NO_COLLECTION, _NO_INDEX, _OF_SHARD_KEY = 26, 27, 370
_TAKEN = frozenset({Answer.OTHER_NAME_OR_OPTIONS.value, Answer.NAME_TAKEN.value})
_DUPLICATE_KEY, _CANNOT_CREATE = 11000, 67
_CANNOT_CONVERT = 359
_UNKNOWN_FIELDS = frozenset({9, 72, 40415})
"""FailedToParse, InvalidOptions and an unknown field: how servers before 6.0 refuse `prepareUnique`."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Definitions:
    """Defines indexes and validators in one database; without `waiting`, as in a dry run, it only sends.

    Each method can be repeated: it does what is left to do.
    """

    database: Database[Document]
    log: logging.Logger
    waiting: Waiting | None = None

    # --- indexes

    def create_index(
        self, collection: str, keys: Keys, commit_quorum: int | str | None, options: DocumentView
    ) -> str:
        """Build an index, and return its name."""
        model = IndexModel(keys, **options)
        name: str = model.document["name"]
        quorum: Document = {} if commit_quorum is None else {"commitQuorum": commit_quorum}
        try:
            self._build(
                collection, name, lambda db: db[collection].create_indexes([model], **quorum)
            )
        except DatabaseError as exc:
            name = self._existing(collection, model.document, exc)
        self._note(INDEX_CREATED, collection, name)
        return name

    def drop_index(self, collection: str, index: str | Keys) -> None:
        """Drop an index, by its name or its keys, if it is there."""
        name = index if isinstance(index, str) else self._name_of(collection, index)
        try:
            self._send(lambda: self.database[collection].drop_index(name))
        except DatabaseError as exc:
            if code_of(exc) == _OF_SHARD_KEY:
                raise DefinitionError(
                    f"The index {index} was not dropped, because no other index of {collection} supports the shard key.",
                    "Leave it out of the migration, or create another index that begins with the shard key first.",
                ) from exc
            if code_of(exc) not in (_NO_COLLECTION, _NO_INDEX) and not _is_missing_in_mock(exc):
                raise
            self.log.warning("%s has no index %s to drop", collection, name)
        # Also if an earlier run dropped it, and crashed before this.
        self._note(INDEX_DROPPED, collection, name)

    def _name_of(self, collection: str, keys: Keys) -> str:
        """Find the name of the index with these keys. Raises DefinitionError if there are several.

        Not by the driver, which takes the name that it would have chosen, and knows no list of plain names.
        """
        wanted = IndexModel(keys).document
        default: str = wanted["name"]
        found = self._read(lambda: self._with_key(collection, wanted))
        if len(found) > 1 and default not in found:
            raise DefinitionError(
                f"{collection} has several indexes with the keys {list(wanted['key'].items())}: {', '.join(found)}. None was dropped.",
                "Name the one to drop.",
            )
        return default if default in found or not found else found[0]

    def _with_key(self, collection: str, wanted: DocumentView) -> list[str]:
        if not server_of(self.database).sends_commands:
            return []
        try:
            present = SchemaReader(self.database).indexes(collection)
        except OperationFailure as exc:
            if code_of(exc) != _NO_COLLECTION:
                raise
            return []
        return [each.name for each in present if has_same_key(each.spec, wanted)]

    def _note(self, kind: str, collection: str, index: str) -> None:
        if self.waiting is not None:
            self.waiting.note(kind, collection, index)

    def make_unique(self, collection: str, name: str) -> None:
        """Convert an index to a unique one."""
        try:
            # From now on no duplicate is added, so those that are found are all.
            self._change_index(collection, name, {"prepareUnique": True})
        except DatabaseError as exc:
            if code_of(exc) not in _UNKNOWN_FIELDS:
                raise
            raise DefinitionError(
                f"The server cannot make the index {name} of {collection} unique: that needs MongoDB 6.0 with the feature compatibility version 6.0.",
                "Build a unique index beside it: ctx.create_index(…, unique=True, name=…).",
            ) from exc
        try:
            self._change_index(collection, name, {"unique": True})
        except DatabaseError as exc:
            if code_of(exc) != _CANNOT_CONVERT:
                raise
            groups = [each["ids"] for each in failure_of(exc).get("violations", ())]
            raise DefinitionError(
                f"The index {name} of {collection} cannot be made unique: {number(len(groups), 'key')} "
                f"{'has' if len(groups) == 1 else 'have'} several documents. Their `_id`s: {_shown(groups)}. "
                "From now on the server accepts no new duplicates.",
                "Change these documents in a migration before this one, then run [up]. To accept duplicates again: "
                f'db.command("collMod", {collection!r}, index={{"name": {name!r}, "prepareUnique": False}}).',
            ) from exc

    def _change_index(self, collection: str, name: str, change: DocumentView) -> None:
        index = {"name": name, **change}
        self._send(lambda: self.database.command("collMod", collection, index=index))

    def _existing(self, collection: str, wanted: DocumentView, refusal: DatabaseError) -> str:
        """Find the wanted index under another name. Raises DefinitionError if the server has none such."""
        name, code = wanted["name"], code_of(refusal)
        if code == _DUPLICATE_KEY:
            raise DefinitionError(
                f"The unique index {name} of {collection} was not built, because documents have the same key: "
                f"{failure_of(refusal).get('errmsg')}.",
                "Change these documents in a migration before this one, then run [up].",
            ) from refusal
        if code == _CANNOT_CREATE and wanted.get("unique"):
            raise DefinitionError(
                f"The unique index {name} of {collection} was not built: {failure_of(refusal).get('errmsg')}.",
                "On a sharded collection, let its keys begin with the shard key, or leave out unique=True.",
            ) from refusal
        if code not in _TAKEN:
            raise refusal
        present = self._read(lambda: SchemaReader(self.database).indexes(collection))
        inherited = self._read(self.database[collection].options).get("collation")
        same = [
            each.name
            for each in present
            if not each.building
            and answer(each.spec, {**wanted, "name": each.name}, inherited) is Answer.EXISTS
        ]
        if not same:
            raise DefinitionError(
                f"The index {name} of {collection} was not built, because another index has its name, or its keys with "
                f"other options: {[each.spec for each in present]}.",
                "Build it under another name (name=…), and drop the other one in a later migration.",
            ) from refusal
        self.log.warning("%s has this index as %s, so %s was not built", collection, same[0], name)
        return same[0]

    # --- validators

    def validate(
        self, collection: str, validator: DocumentView, *, level: str, action: str, replace: bool
    ) -> None:
        """Set the validator of a collection, once all documents match it."""
        options = self._read(lambda: self._options(collection))
        present = options.get("validator", {})
        is_other = present and conditions(present) != conditions(validator)
        if not replace and is_other:
            raise DefinitionError(
                f"{collection} has another validator: {present}. It was not changed.",
                "Add its rules to the new one, and pass replace=True.",
            )
        if validator and (level, action) == ("strict", "error"):
            self._refuse_violators(collection, validator)
        rules: Document = {
            "validator": validator,
            "validationLevel": level,
            "validationAction": action,
        }
        try:
            self._send(lambda: self.database.command("collMod", collection, **rules))
        except DatabaseError as exc:
            if code_of(exc) != _NO_COLLECTION:
                raise
            raise DefinitionError(
                f"There is no collection {collection} whose validator could be set.",
                f"Create it first: db.create_collection({collection!r}).",
            ) from exc

    def _options(self, collection: str) -> Document:
        if not server_of(self.database).sends_commands:
            return dict(self.database[collection].options())
        # Not by `options()`, which fails at dates that Python does not have.
        command = {"listCollections": 1, "filter": {"name": collection}}
        found = self.database.cursor_command(command, codec_options=EXACT)
        return next((dict(each.get("options", {})) for each in found), {})

    def _refuse_violators(self, collection: str, validator: DocumentView) -> None:
        violators = {"$nor": [validator]}
        found = self._send(
            lambda: list(self.database[collection].find(violators, {"_id": 1}).limit(COUNTED))
        )
        if not found:
            return
        is_more = " or more" if len(found) == COUNTED else ""
        raise DefinitionError(
            f"{collection} has {number(len(found), 'document')}{is_more} whose next update the server would refuse, because the "
            f"validator does not match. Their `_id`s: {_shown([each['_id'] for each in found])}. The validator was not changed.",
            'Set it with action="warn", change the documents with ctx.backfill(), then set it with action="error".',
        )

    # --- search indexes

    def create_search_index(
        self,
        collection: str,
        definition: DocumentView,
        *,
        name: str,
        kind: str,
        wait: float,
        replace: bool,
    ) -> None:
        """Create a search index, or give an existing one this definition, and wait until queries use it."""
        live = self._search_index(collection, name)
        if live is None:
            model = SearchIndexModel(dict(definition), name, kind)
            self._send(lambda: self.database[collection].create_search_index(model))
        elif live.differs_from(definition):
            if not replace:
                raise DefinitionError(
                    f"{collection} has the search index {name} with another definition: {live.definition}. It was not changed.",
                    "Pass replace=True, or choose another name (name=…).",
                )
            self._send(lambda: self.database[collection].update_search_index(name, definition))

        def is_over(found: LiveSearchIndex | None) -> bool:
            # At first, a new index may not be listed, or the old definition may be.
            return found is not None and found.is_ready and not found.differs_from(definition)

        self._wait_for_search(collection, name, wait, is_over)

    def drop_search_index(self, collection: str, name: str, *, wait: float) -> None:
        """Drop a search index if it is there, and wait until it is gone: until then, its name is taken."""
        if self._search_index(collection, name) is None:
            self.log.warning("%s has no search index %s to drop", collection, name)
            return
        self._send(lambda: self.database[collection].drop_search_index(name))
        self._wait_for_search(collection, name, wait, lambda found: found is None)

    def _wait_for_search(
        self,
        collection: str,
        name: str,
        wait: float,
        is_over: Callable[[LiveSearchIndex | None], bool],
    ) -> None:
        waiting, until = self.waiting, elapsed() + wait
        while waiting is not None:
            waiting.check()
            found = self._search_index(collection, name)
            if is_over(found):
                return
            if found is not None and found.has_failed:
                raise DefinitionError(
                    f"The server could not build the search index {name} of {collection}: it is FAILED.",
                    f"Correct the definition. Drop the index first: ctx.drop_search_index({collection!r}, {name!r}).",
                )
            if elapsed() >= until:
                state = "not listed" if found is None else found.status
                raise DefinitionError(
                    f"The search index {name} of {collection} is not finished: it is {state}. The server continues.",
                    "To wait for it again: [up]. To wait longer, pass wait=SECONDS.",
                )
            waiting.sleep(SEARCH_POLL_SECONDS)

    def _search_index(self, collection: str, name: str) -> LiveSearchIndex | None:
        """Find a search index. Raises DefinitionError if the server has none."""
        found = self._read(lambda: SchemaReader(self.database).search_indexes(collection))
        if found is None:
            raise DefinitionError(
                f"This deployment has no search indexes, so {name} of {collection} was neither created nor dropped.",
                "Use one that has them, for example Atlas, or leave this migration out.",
            )
        return next((each for each in found if each.name == name), None)

    # --- sending

    def _build(
        self, collection: str, name: str, send: Callable[[Database[Document]], object]
    ) -> None:
        if self.waiting is not None:
            self.waiting.build(collection, name, send)
        else:
            self._send(lambda: send(self.database))

    def _send(self, command: Callable[[], _T]) -> _T:
        with translated():
            return command()

    def _read(self, command: Callable[[], _T]) -> _T:
        """Read what no transaction can, such as a dry run's: in an empty context, outside of its session."""
        return contextvars.Context().run(self._send, command)


def _is_missing_in_mock(exc: DatabaseError) -> bool:
    # mongomock has no codes.
    return code_of(exc) is None and "index not found" in str(exc.__cause__)


def _shown(values: Sequence[object]) -> str:
    more = ", …" if len(values) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN])) + more
