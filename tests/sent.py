"""Records what a client sends."""

from __future__ import annotations

from typing import Any

from pymongo import monitoring


class Sent(monitoring.CommandListener):
    """The commands of a client, in order: MongoClient(uri, event_listeners=[Sent()])."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def names(self) -> list[str]:
        return [next(iter(command)) for command in self.commands]

    def of(self, name: str, collection: str | None = None) -> list[dict[str, Any]]:
        """Return the commands of a name, and on a collection."""
        return [
            command
            for command in self.commands
            if name in command and collection in (None, command[name])
        ]

    def taken(self) -> list[str]:
        """Return the names of the commands since the last time, in order."""
        names = self.names()
        self.commands.clear()
        return names

    @property
    def killed(self) -> list[bytes]:
        return [bytes(each["id"]) for c in self.of("killSessions") for each in c["killSessions"]]
