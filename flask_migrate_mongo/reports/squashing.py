"""A squashed migration that was written, as text."""

from __future__ import annotations

from flask_migrate_mongo.engine.squashing import Squashed

from . import words
from .console import Text, out


def squashed(found: Squashed) -> None:
    """Print where the file is, what it replaces, and what to do next."""
    console = out()
    console.say(str(found.path))
    console.say(f"It replaces {words.count(len(found.file.replaces))}. Nothing was run.")
    for note in found.notes:
        console.say(Text(note, "yellow"))
    console.say(
        "Read it, and edit it. A database that has all of them only records it; a database that has none runs it."
    )
    console.say("Once each database has all or none of them, their files can be deleted.")
