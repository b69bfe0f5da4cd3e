"""What a reader types next, in the words of the interface that shows it.

A remedy names commands and options in brackets: `[down allow_drift=True]`, or an option alone, `[steps=4]`. Each
wording renders them in its own terms, so that no error below the interfaces knows any of them. The text of an
exception in Python has those of the command line, which has every command.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_TOKEN = re.compile(r"\[([a-z][^\[\]]*)\]")
_WORD = re.compile(r'"[^"]*"|\S+')
_OPTION = re.compile(r"([a-z_]+)=(.+)")

_ENDPOINTS = {
    "status": "GET status",
    "up": "POST up",
    "down": "POST down",
    "history": "GET history",
    "lock-status": "GET lock/status",
    "force-unlock": "POST lock/release",
}


class Invocation(NamedTuple):
    """A command with its arguments and options; without a name, options alone."""

    name: str
    arguments: tuple[str, ...]
    options: tuple[tuple[str, str], ...]


Wording = Callable[[Invocation], str]
"""Renders a command in the terms of one interface."""


def cli(command: Invocation) -> str:
    """Render `flask db-migrate down --allow-drift`."""
    head = (f"flask db-migrate {command.name}", *command.arguments) if command.name else ()
    return " ".join((*head, *(_cli_option(*option) for option in command.options)))


def _cli_option(name: str, value: str) -> str:
    option = name.replace("_", "-")
    flags = {"True": f"--{option}", "False": f"--not-{option}"}
    if value.partition("|")[0] in flags:
        return "|".join(flags[each] for each in value.split("|"))
    return f"--{option} {value}"


def rest(command: Invocation) -> str:
    """Render `POST down?allowDrift=true`, or the CLI's words for a command that REST does not have."""
    if command.name and command.name not in _ENDPOINTS:
        return cli(command)
    flags = {"True": "true", "False": "false"}
    query = "&".join(f"{camel_case(n)}={flags.get(v, v)}" for n, v in command.options)
    return _ENDPOINTS.get(command.name, "") + (f"?{query}" if query else "")


def render(remedy: str, wording: Wording) -> str:
    """Put the wording of each command and option where the remedy names it."""
    return _TOKEN.sub(lambda token: f"`{wording(_parse(token[1]))}`", remedy)


class Advised:
    """What has a remedy that only the command line can carry out."""

    __slots__ = ()

    remedy: str

    @property
    def advice(self) -> str:
        """The remedy in the terms of the command line."""
        return render(self.remedy, cli)


def camel_case(name: str) -> str:
    """Convert `allow_drift` to `allowDrift`, as JSON and query strings spell it."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _parse(token: str) -> Invocation:
    words = _WORD.findall(token)
    name = "" if _OPTION.fullmatch(words[0]) else words.pop(0)
    options = [(o[1], o[2]) for word in words if (o := _OPTION.fullmatch(word))]
    arguments = [word for word in words if not _OPTION.fullmatch(word)]
    return Invocation(name, tuple(arguments), tuple(options))
