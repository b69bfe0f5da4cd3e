# SPDX-License-Identifier: GPL-2.0-only
"""How the other modules change SecantusDB: what they replace must be there."""

from __future__ import annotations

import functools

from secantus import commands

"""The corrections that are made only on request: see the launcher."""


def replacement(owner, name):
    """Put the decorated function in place of `owner.name`; its first argument is what was there."""
    assert hasattr(owner, name), f"{owner} has no {name} any more: look at this correction again"
    replaced = getattr(owner, name)

    def decorate(function):
        @functools.wraps(function)
        def replacing(*args, **kwargs):
            return function(replaced, *args, **kwargs)

        setattr(owner, name, replacing)
        return function

    return decorate


def answer_to(*names):
    """Let the decorated function answer these commands; its first argument is the old handler."""

    def decorate(function):
        for name in names:
            handler = commands._HANDLERS[name]
            commands._HANDLERS[name] = functools.partial(_answer, function, handler)
        return function

    return decorate


def _answer(function, handler, doc, ctx):
    try:
        return function(handler, doc, ctx)
    except Refused as exc:
        return exc.reply


def add(owner, name, *values):
    """Add values to a frozen set of the server."""
    present = getattr(owner, name)
    assert isinstance(present, frozenset), f"{name} is no set any more: look at this again"
    setattr(owner, name, present | set(values))


class Refused(Exception):
    """Ends a function that answers to a command, with this reply."""

    def __init__(self, reply):
        super().__init__(reply["errmsg"])
        self.reply = reply


def refuse(code, name, message):
    """End the command with an error."""
    raise Refused(refusal(code, name, message))


def refusal(code, name, message):
    """A command that failed."""
    return {"ok": 0.0, "errmsg": message, "code": code, "codeName": name}


def options_of(ctx, collection):
    """The options of a collection of the command's database; empty if there is no such."""
    if not isinstance(collection, str):
        return {}
    return ctx.storage.get_collection_options(ctx.db_name, collection) or {}


def is_view(ctx, collection):
    """Whether the name is that of a view."""
    return "viewOn" in options_of(ctx, collection)


def in_transaction(doc):
    """Whether the command is a statement of a transaction."""
    return doc.get("autocommit") is False
