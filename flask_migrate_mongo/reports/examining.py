"""What `doctor` found, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import Text, out

if TYPE_CHECKING:
    from flask_migrate_mongo.planning.diagnosis import DoctorReport

_GRADES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(report: DoctorReport) -> None:
    """Print one line for each check, then the settings."""
    console = out()
    for name, found in report.checks.items():
        grade = Text(f"{found.grade.value:<9}", _GRADES[found.grade.value])
        console.say(grade, f"{name:<14}{found.message} {found.advice}".rstrip())
    rows = ((each.name, each.value, each.source) for each in report.settings)
    console.table(("Setting", "Value", "From"), rows)
    number = report.problems
    console.say(f"{number or 'No'} problem{'s' * (number > 1)} found.")
