"""The recorded cases that the tests' own server answers otherwise, by the reason why.

The list only shrinks: a case in it that no longer differs fails its test.
"""

from __future__ import annotations

DIFFERENCES: dict[str, tuple[str, ...]] = {}
"""Titles of cases, "<subject>: <name>"."""
