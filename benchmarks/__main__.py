"""Measure ourselves beside the others, and say where a bar is missed.

    python -m benchmarks [--only WORK,…] [--quick] [--large] [--rounds N] [--write]

Exits with 1 when a bar is missed. `--quick` shows that all of it works, on small sizes and without
judging; `--large` takes ten times the documents, and much longer.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from . import backfills, commands, environments, peers, report, scripts
from .measuring import Rounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .commands import Bench
    from .peers import Installed, Missing
    from .report import Judgement, Measurement
    from .scripts import Printed

WORKS = {
    "start": commands.start,
    "status": commands.status,
    "idle": commands.nothing_pending,
    "up": commands.up,
    "down": commands.down,
    "one": commands.one_new,
    "latency": commands.latency,
    "backfill": backfills.backfill,
    "far": backfills.far_backfill,
    "growing": backfills.growing_backfill,
}
_LARGE_DOCUMENTS = 200_000


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for; return 1 if a bar is missed."""
    wanted = _arguments(arguments)
    own = tuple(peer.install() for peer in peers.OWN)
    others, missing = peers.installed(peers.OTHERS)
    if missing:
        print(f"{report.missing_lines(missing)}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=environments.HOME) as folder:
        bench = _bench(wanted, own, others, Path(folder))
        measurements = list(_measured(bench, wanted.only))
    printed = list(_printed(wanted))
    judgements = [] if wanted.quick else list(report.judged(measurements))
    judgements += [one.judgement for one in printed]
    if judgements:
        print(report.bars_table(judgements))
    if wanted.write:
        section = _section((own[0], *others), missing, measurements, judgements, printed)
        page = report.written(report.PAGE.read_text(encoding="utf-8"), section)
        report.PAGE.write_text(page, encoding="utf-8")
    return _verdict(judgements)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*WORKS, "scripts")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(names), metavar="WORK,…"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, no bars")
    parser.add_argument("--large", action="store_true", help="backfills of 200,000 documents")
    parser.add_argument("--rounds", type=int, metavar="N", help="time so often, at most")
    parser.add_argument("--write", action="store_true", help=f"rewrite {report.PAGE.name}")
    wanted = parser.parse_args(arguments)
    if unknown := set(wanted.only) - set(names):
        parser.error(f"There is no {', '.join(sorted(unknown))}. Choose from {', '.join(names)}.")
    if wanted.write and (wanted.quick or set(wanted.only) != set(names)):
        parser.error("The page shows one whole run: leave out --only and --quick.")
    return wanted


def _bench(
    wanted: argparse.Namespace,
    own: Sequence[Installed],
    others: tuple[Installed, ...],
    folder: Path,
) -> Bench:
    sizes = commands.QUICK if wanted.quick else commands.Sizes()
    if wanted.large:
        sizes = replace(sizes, documents=_LARGE_DOCUMENTS)
    ours, *variants = own
    return commands.Bench(
        ours=ours,
        variants=tuple(variants),
        others=others,
        bare=environments.python_environment("bare", "flask", "flask-pymongo"),
        cities=backfills.load_cities(),
        folder=folder,
        rounds=Rounds(wanted.rounds or (2 if wanted.quick else 7)),
        sizes=sizes,
    )


def _measured(bench: Bench, only: Sequence[str]) -> Iterator[Measurement]:
    for name, work in WORKS.items():
        for measurement in work(bench) if name in only else ():
            print(f"{report.table(measurement)}\n", flush=True)
            yield measurement


def _printed(wanted: argparse.Namespace) -> Iterator[Printed]:
    if wanted.quick or "scripts" not in wanted.only:
        return
    for one in scripts.printed(scripts.LARGE if wanted.large else scripts.SCRIPTS):
        print(f"### `benchmarks/{one.name}`\n\n{one.output}", flush=True)
        yield one


def _section(
    there: Sequence[Installed],
    missing: Sequence[Missing],
    measurements: Sequence[Measurement],
    judgements: Sequence[Judgement],
    printed: Sequence[Printed],
) -> str:
    parts = [_machine(), _who(there), report.missing_lines(missing)]
    parts += [report.bars_table(judgements)] if judgements else []
    parts += map(report.table, measurements)
    parts += [f"### `benchmarks/{one.name}`\n\n```text\n{one.output}```" for one in printed]
    return "\n\n".join(filter(None, parts))


def _machine() -> str:
    python = Path(environments.newest_python())
    told = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
    return (
        f"Measured on {date.today():%d %B %Y} with {os.cpu_count()} cores of {_processor()}, "  # noqa: DTZ011
        f"{platform.system()} {platform.release()}, {told.stdout.strip()} for everybody, "
        f"on SecantusDB {version('SecantusDB')}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _who(there: Sequence[Installed]) -> str:
    rows = (
        f"| {one.peer.name} | {one.version} | {_driver(one)} | {one.peer.keeps} |" for one in there
    )
    head = ("| | version | driver | what it keeps, and how it locks |", "|---|---|---|---|")
    return "\n".join(("### Who", "", *head, *rows))


def _driver(one: Installed) -> str:
    name = "mongodb" if one.peer.by_npm else "pymongo"
    return f"{name} {environments.versions(one.program)[name]}"


def _verdict(judgements: Sequence[Judgement]) -> int:
    missed = report.missed(judgements)
    for one in missed:
        print(f"Missed: {one.work}: {one.found}, {one.limit}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
