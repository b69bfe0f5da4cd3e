"""Benchmarks that are scripts of their own: run as they are, and held to what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .environments import ROOT
from .report import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Script:
    """A script, which exits with 0 if it is content; `seconds` are read from what it prints."""

    name: str
    arguments: tuple[str, ...] = ()
    bar: str = "content with itself"
    seconds: str = ""
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Printed:
    """What a script printed, and what came out of its bar."""

    name: str
    output: str
    judgement: Judgement


SCRIPTS = (
    Script("lint.py", bar="1,000 files in less than 3 s", seconds=r"in ([\d.]+) s", most=3.0),
    Script("estimate.py", ("1",), bar="every estimate within a factor of 2"),
)
LARGE = (
    *SCRIPTS,
    Script(
        "memory.py", ("1000000",), bar="at most 100 MB above the application, a million documents"
    ),
)


def printed(scripts: tuple[Script, ...]) -> Iterator[Printed]:
    """Run those that are there."""
    for script in scripts:
        path = ROOT / "benchmarks" / script.name
        if not path.exists():
            continue
        done = subprocess.run(
            [sys.executable, str(path), *script.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        yield Printed(script.name, done.stdout, judged(script, done.returncode, done.stdout))


def judged(script: Script, code: int, output: str) -> Judgement:
    """Hold a script to its bar."""
    title = f"`benchmarks/{script.name}`"
    found = re.search(script.seconds, output) if script.seconds else None
    if code or (script.seconds and found is None):
        return Judgement(title, f"exit code {code}", script.bar, Verdict.MISSED)
    if found is None:
        return Judgement(title, "as it should be", script.bar, Verdict.HELD)
    held = float(found[1]) < script.most
    ratio = f"{float(found[1]) / script.most:.2f} × {script.most:g} s"
    return Judgement(title, ratio, script.bar, Verdict.HELD if held else Verdict.MISSED)
