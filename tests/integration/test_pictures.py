"""The pictures of the documents: what a command prints in a terminal, drawn as SVG."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET

import pytest

from benchmarks import pictures

PROGRAM = r"""
import sys
from rich.console import Console
from rich.live import Live

console = Console(force_terminal=True, color_system="standard", stderr=True)
with Live("drawn and\nerased again", console=console, transient=True):
    pass
console.print("[red]✗ 2 索引[/red]  failed after 9 ms")
print("a" * 92)
sys.exit(1)
"""


def drawn() -> str:
    environ = {"TERM": "xterm-256color", "PYTHONUTF8": "1", "PATH": "/usr/bin:/bin"}
    shown = pictures.left_on_screen(pictures.run((sys.executable, "-c", PROGRAM), environ))
    return pictures.picture("flask db-migrate up", shown)


@pytest.fixture(scope="module")
def svg() -> str:
    return drawn()


def text_of(svg: str) -> str:
    return "".join(ET.fromstring(svg).itertext()).replace("\N{NO-BREAK SPACE}", " ")


def test_a_picture_has_what_a_terminal_shows_with_its_colours_and_not_what_was_erased(
    svg: str,
) -> None:
    assert "✗ 2 索引" in text_of(svg)
    assert "failed after 9 ms" in text_of(svg)
    assert "a" * 92 in text_of(svg)
    assert "flask db-migrate up" in text_of(svg)
    assert "erased" not in text_of(svg)
    assert "#cc555a" in svg


def test_a_picture_loads_nothing_from_the_web(svg: str) -> None:
    assert "@font-face" not in svg
    assert re.findall(r"(?:src|href|url)\W+https?:", svg) == []
    assert "monospace" in svg


def test_the_same_output_is_the_same_picture_and_small(svg: str) -> None:
    assert drawn() == svg
    assert len(svg) < 10_000


def test_each_picture_is_one_that_the_script_draws() -> None:
    names = {path.stem for path in pictures.PICTURES.glob("*.svg")}
    assert names == {"dry-run", "run", "failure", "status", "history"}
    for path in pictures.PICTURES.glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert "@font-face" not in svg
        assert "flights on localhost:27017" in text_of(svg)
        assert len(svg) < 40_000
