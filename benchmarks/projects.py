"""Projects of the tools, written to disk, and states of their databases to begin from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bson import ObjectId, json_util

from .measuring import Competitor, FailedError, Run, nothing, process
from .peers import Document, environ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pymongo import MongoClient
    from pymongo.database import Database

    from .peers import Installed, Peer, Site

_SAMPLE_SECONDS = 120.0
SAMPLE = 3
"""So many migrations are really applied, to see what a record looks like."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The documents of a collection, and its indexes."""

    documents: tuple[Document, ...]
    indexes: tuple[Document, ...]


State = dict[str, Kept]


def read_state(db: Database[Document]) -> State:
    """Read all that is in a database."""
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


def restore(db: Database[Document], state: State) -> None:
    """Make a database hold this state, and nothing else."""
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
    """A tool with its project: what can be timed, and the states to begin from."""

    def __init__(
        self, installed: Installed, site: Site, client: MongoClient[Document], sample: State
    ) -> None:
        self.peer = installed.peer
        self.count = site.count
        self._installed = installed
        self._site = site
        self._db = client[site.database]
        self._sample = sample

    def with_applied(self, count: int) -> Callable[[], None]:
        """Prepare the database as it is after the first `count` migrations."""
        state = grown(self._sample, self.peer, count) if count else {}
        return lambda: restore(self._db, state)

    def status(self) -> Competitor:
        """Show what is applied, which is everything."""
        self.with_applied(self.count)()
        return self._competitor(self.peer.status, nothing, self._status_flaw)

    def up(self, applied: int = 0) -> Competitor:
        """Apply what is pending after so many."""
        return self._competitor(self.peer.up, self.with_applied(applied), self._up_flaw)

    def up_with_nothing_pending(self) -> Competitor:
        """Find that there is nothing to do."""
        self.with_applied(self.count)()
        return self._competitor(self.peer.up, nothing, self._up_flaw)

    def down(self) -> Competitor:
        """Roll all of it back."""
        begin = self.with_applied(self.count)
        line = self.peer.down(self._site)
        return self._competitor(line, begin, lambda run: self._record_flaw(run, 0))

    def _competitor(
        self,
        line: Sequence[str],
        prepare: Callable[[], None],
        flaw: Callable[[Run], str | None],
    ) -> Competitor:
        command = self._installed.command(line)
        site = self._site
        return Competitor(self.peer.name, command, site.folder, environ(site), prepare, flaw)

    def _status_flaw(self, run: Run) -> str | None:
        if self.peer.marks(self.count)[0] not in run.output:
            return "does not show the last migration"
        seen = re.search(self.peer.sees_pending, run.output)
        return f"shows {seen[0]!r}, though all is applied" if seen else None

    def _up_flaw(self, run: Run) -> str | None:
        return self._record_flaw(run, self.count)

    def _record_flaw(self, run: Run, count: int) -> str | None:
        if self.peer.has_applied(self._db, count):
            return None
        lines = run.output.strip().splitlines() or ["no output"]
        return f"did not record its work: {lines[-1][:120]}"


def apply_sample(installed: Installed, site: Site, client: MongoClient[Document]) -> State:
    """Apply a few migrations, read what the database holds then, and drop it. Raises FailedError."""
    peer, db = installed.peer, client[site.database]
    lay_out(peer, site)
    client.drop_database(db.name)
    command = installed.command(peer.up)
    run = process(command, site.folder, environ(site), _SAMPLE_SECONDS)
    if run.code or not peer.has_applied(db, site.count):
        msg = f"did not apply {site.count} migrations: {run.output.strip()[-300:]}"
        raise FailedError(msg)
    state = read_state(db)
    client.drop_database(db.name)
    return state


def grown(sample: State, peer: Peer, count: int) -> State:
    """Make the state after `count` migrations from the state after a few.

    A record is that of the last one, with the marks of another migration and the digest of its file.
    """
    kept = sample[peer.records]
    # The first that has its mark: the record of the next migration may name it as its parent.
    real = {
        n: next((d for d in kept.documents if _is_of(d, peer, n)), {}) for n in range(1, SAMPLE + 1)
    }
    others = [document for document in kept.documents if document not in real.values()]
    documents = [real.get(n) or _remarked(real[SAMPLE], peer, n) for n in range(1, count + 1)]
    return {**sample, peer.records: Kept((*others, *documents), kept.indexes)}


def _is_of(document: Mapping[str, object], peer: Peer, number: int) -> bool:
    mark = peer.marks(number)[0]
    return any(str(value).startswith(mark) for value in document.values())


def _remarked(document: Document, peer: Peer, number: int) -> Document:
    marks = dict(zip(_marks(peer, SAMPLE), _marks(peer, number), strict=True))
    # All at once: the mark of one migration may be that of another one's parent.
    text = re.sub("|".join(marks), lambda found: marks[found[0]], json_util.dumps(document))
    copied: Document = json_util.loads(text)
    if isinstance(copied.get("_id"), ObjectId):
        copied["_id"] = ObjectId()
    return copied


def _marks(peer: Peer, number: int) -> tuple[str, ...]:
    text = peer.migration(number)[1]
    return (*peer.marks(number), hashlib.sha256(text.encode()).hexdigest())
