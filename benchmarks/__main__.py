"""Measure this package beside the others, and report every bar that is missed.

    python -m benchmarks [--only WORK,…] [--quick] [--large] [--rounds N]

Exits with 1 when a bar is missed. `--quick` shows that all of it works, on small sizes and without
bars; `--large` backfills ten times the documents, and takes much longer.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from . import backfills, commands, environments, peers, report
from .measuring import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .commands import Bench
    from .report import Measurement

WORKS: Mapping[str, Callable[[Bench], Iterator[Measurement]]] = {
    "start": commands.start,
    "status": commands.status,
    "idle": commands.nothing_pending,
    "up": commands.up,
    "down": commands.down,
    "one": commands.one_new,
    "latency": commands.latency,
    "backfill": backfills.backfill,
    "far": backfills.far_backfill,
}
_LARGE_DOCUMENTS = 200_000


def main(arguments: Sequence[str]) -> int:
    """Measure the chosen works; return 1 if a bar is missed."""
    wanted = _parse(arguments)
    (ours,), _ = peers.install([peers.OURS])
    others, missing = peers.install(peers.OTHERS)
    tools = report.tools_table((ours, *others))
    print("\n\n".join(filter(None, (_machine(), tools, report.missing_lines(missing)))), "\n")
    with tempfile.TemporaryDirectory(prefix="run-", dir=environments.HOME) as folder:
        bench = commands.Bench(
            ours=ours,
            others=others,
            bare=environments.python_environment("bare", "flask", "flask-pymongo"),
            cities=backfills.load_cities(),
            folder=Path(folder),
            rounds=Rounds(wanted.rounds or (2 if wanted.quick else 7)),
            sizes=_sizes(wanted),
        )
        measurements = list(_measure(bench, wanted.only))
    judgements = () if wanted.quick else report.judge(measurements)
    if judgements:
        print(report.bars_table(judgements))
    return int(any(one.verdict is report.Verdict.MISSED for one in judgements))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(WORKS), metavar="WORK,…"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, no bars")
    parser.add_argument("--large", action="store_true", help="backfills of 200,000 documents")
    parser.add_argument("--rounds", type=int, metavar="N", help="time each so often, at most")
    wanted = parser.parse_args(arguments)
    if unknown := set(wanted.only) - set(WORKS):
        parser.error(f"There is no {', '.join(sorted(unknown))}. Choose from {', '.join(WORKS)}.")
    return wanted


def _sizes(wanted: argparse.Namespace) -> commands.Sizes:
    sizes = commands.QUICK if wanted.quick else commands.Sizes()
    return replace(sizes, documents=_LARGE_DOCUMENTS) if wanted.large else sizes


def _measure(bench: Bench, only: Sequence[str]) -> Iterator[Measurement]:
    for name, work in WORKS.items():
        for measurement in work(bench) if name in only else ():
            print(f"{report.table(measurement)}\n", flush=True)
            yield measurement


def _machine() -> str:
    python = subprocess.run(
        [environments.newest_python(), "--version"], capture_output=True, text=True, check=True
    )
    return (
        f"Measured on {datetime.now().astimezone():%d %B %Y} with {os.cpu_count()} cores of {_processor()}, "
        f"{platform.system()} {platform.release()}, {python.stdout.strip()} for all, "
        f"on SecantusDB {version('SecantusDB')}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
