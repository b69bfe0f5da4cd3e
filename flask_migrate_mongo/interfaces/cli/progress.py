"""Shows the steps of a command while they run."""

from __future__ import annotations

import click

from flask_migrate_mongo.reports.runs import ProgressReporter


def progress() -> ProgressReporter:
    """Show the steps of this command while they run."""
    shown = ProgressReporter()
    click.get_current_context().call_on_close(shown.close)
    return shown
