"""All commands, those of a group under the group's name and their own."""

from __future__ import annotations

from collections.abc import Iterator

import click

from flask_migrate_mongo.interfaces.cli import db_migrate


def all_commands() -> dict[str, click.Command]:
    """Import every command: `status`, `schema diff`, ..."""
    return dict(_within(db_migrate, ""))


def _within(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _within(command, f"{prefix}{name} ")
        elif command is not None:
            yield f"{prefix}{name}", command
