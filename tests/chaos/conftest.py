"""How long the rounds are, and what they found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = os.environ.get("CHAOS") == "full"

Tally = "Callable[..., None]"

_LINES: list[str] = []


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """Choose between the short and the long form."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Note figures, which are printed at the end."""

    def note(**figures: object) -> None:
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        _LINES.append(f"{request.node.name}: {listed}")

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was counted."""
    if _LINES:
        terminalreporter.section("races, kills and faults")
        for line in _LINES:
            terminalreporter.write_line(line)
