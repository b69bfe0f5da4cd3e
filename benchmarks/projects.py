"""Projects of the competitors, laid out on disk, and states of their databases to begin from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import ObjectId, json_util

from .measuring import Competitor, FailedError, Run, nothing, process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo import MongoClient
    from pymongo.database import Database

    from .peers import Installed, Peer, Site

Document = dict[str, Any]

_LAYING_OUT_SECONDS = 120.0
SAMPLE = 3
"""So many migrations are really applied, to see what a record looks like."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a collection holds, and its indexes."""

    documents: tuple[Document, ...]
    indexes: tuple[Document, ...]


State = dict[str, Kept]


def taken(db: Database[Document]) -> State:
    """Return all that is in a database."""
    return {
        name: Kept(
            tuple(db[name].find()),
            tuple(
                {key: value for key, value in index.items() if key not in {"v", "ns"}}
                for index in db[name].list_indexes()
                if index["name"] != "_id_"
            ),
        )
        for name in db.list_collection_names()
    }


def put_back(db: Database[Document], state: State) -> None:
    """Make a database hold this, and nothing else."""
    db.client.drop_database(db.name)
    for name, kept in state.items():
        if kept.documents:
            db[name].insert_many(kept.documents, ordered=False)
        if kept.indexes:
            db.command("createIndexes", name, indexes=list(kept.indexes))


def lay_out(peer: Peer, site: Site) -> None:
    """Write the settings and the migrations of a project."""
    files = dict(peer.settings(site))
    files.update(peer.migration(number) for number in range(1, site.count + 1))
    for name, text in files.items():
        path = site.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class Project:
    """A competitor with its project: what can be timed of it, and the states to begin from."""

    def __init__(
        self, competitor: Installed, site: Site, client: MongoClient[Document], sample: State
    ) -> None:
        self.peer = competitor.peer
        self.name = competitor.peer.name
        self._competitor = competitor
        self._site = site
        self._db = client[site.database]
        self._sample = sample

    @property
    def fresh(self) -> Callable[[], None]:
        """Empty the database, but for what the competitor's own `init` makes."""
        if not self.peer.init:
            return lambda: put_back(self._db, {})
        return lambda: _begin(self._competitor, self._site, self._db)

    def with_applied(self, count: int) -> Callable[[], None]:
        """Make the database what it is after the first `count` migrations."""
        state = grown(self._sample, self.peer, count)
        return lambda: put_back(self._db, state)

    def status(self, applied: int) -> Competitor:
        """Show what is applied, which is everything."""
        self.with_applied(applied)()
        return self._competitor_for(self.peer.status(self._site), nothing, self._sees(applied))

    def up(self, begin: Callable[[], None]) -> Competitor:
        """Apply what is pending."""
        return self._competitor_for(
            self.peer.up(self._site), begin, self._has_applied(self._site.count)
        )

    def up_with_nothing_pending(self) -> Competitor:
        """Find that there is nothing to do."""
        self.with_applied(self._site.count)()
        return self._competitor_for(
            self.peer.up(self._site), nothing, self._has_applied(self._site.count)
        )

    def down(self) -> Competitor:
        """Undo all of it."""
        begin = self.with_applied(self._site.count)
        return self._competitor_for(self.peer.down(self._site), begin, self._has_applied(0))

    def _competitor_for(
        self,
        line: tuple[str, ...],
        prepare: Callable[[], None],
        flaw: Callable[[Run], str | None],
    ) -> Competitor:
        command, environ = self._competitor.command(line), self.peer.environ(self._site)
        return Competitor(self.name, command, self._site.folder, environ, prepare, flaw)

    def _sees(self, count: int) -> Callable[[Run], str | None]:
        def flaw(run: Run) -> str | None:
            if "recursion" in run.output:
                return "RecursionError"
            if self.peer.marks(count)[0] not in run.output:
                return "does not show the last migration"
            seen = re.search(self.peer.sees_pending, run.output)
            return f"says {seen[0]!r}, though all is applied" if seen else None

        return flaw

    def _has_applied(self, count: int) -> Callable[[Run], str | None]:
        def flaw(run: Run) -> str | None:
            if self.peer.applied(self._db, count):
                return None
            lines = run.output.strip().splitlines() or ["it said nothing"]
            return f"did not record what it did: {lines[-1][:120]}"

        return flaw


def sampled(competitor: Installed, site: Site, client: MongoClient[Document]) -> State:
    """Apply a few migrations for real and return what is in the database then. Raises FailedError."""
    peer, db = competitor.peer, client[site.database]
    lay_out(peer, site)
    _begin(competitor, site, db)
    run = _run(competitor, site, peer.up(site))
    if run.code or not peer.applied(db, site.count):
        msg = f"did not apply {site.count} migrations: {run.output.strip()[-300:]}"
        raise FailedError(msg)
    state = taken(db)
    client.drop_database(db.name)
    return state


def grown(sample: State, peer: Peer, count: int) -> State:
    """Return the state after `count` migrations, from that after a few.

    A record is that of the last but with the marks of another migration, and the checksum of its file.
    """
    kept = sample[peer.records]
    # The first that bears its mark: the one after it may name it as its parent.
    real = {
        n: next((d for d in kept.documents if _is_of(d, peer, n)), {}) for n in range(1, SAMPLE + 1)
    }
    others = [document for document in kept.documents if document not in real.values()]
    numbers = [count] if peer.head_only else range(1, count + 1)
    documents = [real.get(n) or _remarked(real[SAMPLE], peer, n) for n in numbers]
    return {**sample, peer.records: Kept((*others, *documents), kept.indexes)}


def _is_of(document: Mapping[str, Any], peer: Peer, number: int) -> bool:
    mark = peer.marks(number)[0]
    return any(str(value).startswith(mark) for value in document.values())


def _remarked(document: Document, peer: Peer, number: int) -> Document:
    marks = dict(zip(_marks(peer, SAMPLE), _marks(peer, number), strict=True))
    # All at once: one's own mark may be that of another's parent.
    text = re.sub("|".join(marks), lambda found: marks[found[0]], json_util.dumps(document))
    copied: Document = json_util.loads(text)
    if isinstance(copied.get("_id"), ObjectId):
        copied["_id"] = ObjectId()
    return copied


def _marks(peer: Peer, number: int) -> tuple[str, ...]:
    text = peer.migration(number)[1]
    return (*peer.marks(number), hashlib.sha256(text.encode()).hexdigest())


def _begin(competitor: Installed, site: Site, db: Database[Document]) -> None:
    put_back(db, {})
    if competitor.peer.init:
        _run(competitor, site, competitor.peer.init)


def _run(competitor: Installed, site: Site, line: tuple[str, ...]) -> Run:
    environ = competitor.peer.environ(site)
    return process(competitor.command(line), site.folder, environ, _LAYING_OUT_SECONDS)
