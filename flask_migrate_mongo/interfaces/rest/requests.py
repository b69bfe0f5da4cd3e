"""What the REST API accepts: query parameters and bodies, read by `query` and `body`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from marshmallow import RAISE, Schema, ValidationError, fields, missing, validate
from webargs.flaskparser import FlaskParser

from flask_migrate_mongo.interfaces.schemas import VERSION
from flask_migrate_mongo.model.errors import InvalidRequestError, NotJsonError
from flask_migrate_mongo.model.reports import LONGEST_DRY_RUN, MOST_SAMPLES
from flask_migrate_mongo.model.values import Status
from flask_migrate_mongo.model.wording import camel_case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Request

RUN_ID = r"[0-9a-f]{32}"
MOST_RECORDS = 1_000
MOST_SKIPPED = 1_000_000_000
MOST_STEPS = 10_000
LONGEST_WAIT = 300
"""Seconds: a waiting request occupies a worker of the web server."""

_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")


class _Flag(fields.Boolean):
    """`true` or `false` in a query string, in this spelling alone."""

    truthy = {"true"}  # noqa: RUF012  (marshmallow's own way)
    falsy = {"false"}  # noqa: RUF012


class _JsonFlag(fields.Boolean):
    """A boolean of JSON: 1 and "true" are none."""

    def _deserialize(self, value: object, *_: object, **__: object) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class _Whole(fields.Integer):
    """Digits of ASCII: int() would accept blanks, underscores and other scripts too."""

    def _validated(self, value: object) -> int:
        if not isinstance(value, str) or not _WHOLE.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return int(value)


def _flag(description: str) -> _Flag:
    return _Flag(load_default=False, metadata={"description": description})


def _whole(least: int, most: float, description: str, default: object = missing) -> _Whole:
    bounds, about = validate.Range(least, most), {"description": description}
    return _Whole(validate=bounds, metadata=about, load_default=default)


class NoQuery(Schema):
    """No parameters."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Spell the parameter in camelCase."""
        field_obj.data_key = camel_case(field_name)


class UpQuery(NoQuery):
    """How `up` runs."""

    dry_run = _flag(
        "Execute everything in a transaction that is rolled back, and report the effects."
    )
    dry_run_limit = _whole(1, LONGEST_DRY_RUN, "With `dryRun`: stop after this many seconds.")
    samples = _whole(0, MOST_SAMPLES, "With `dryRun`: show this many documents of each migration.")
    continue_on_error = _flag("Continue with the next migration when one fails.")
    wait = _whole(0, LONGEST_WAIT, "Seconds to wait for a lock that another process holds.")
    allow_drift = _flag("Use the file as it is now, even if it has changed.")


class DownQuery(UpQuery):
    """How `down` runs."""

    steps = _whole(1, MOST_STEPS, "How many migrations to roll back.", default=1)


class HistoryQuery(NoQuery):
    """Which records."""

    limit = _whole(1, MOST_RECORDS, "Show at most this many records.", default=50)
    skip = _whole(0, MOST_SKIPPED, "Leave out this many of the newest records.", default=0)
    status = fields.Enum(Status, by_value=True)


class ReleaseQuery(NoQuery):
    """Whether the release is confirmed."""

    confirm = _flag("Confirm that the process that holds the lock is dead.")


class NewMigration(Schema):
    """The name of a new migration."""

    name = fields.String(
        required=True,
        validate=[validate.Length(1, 1_000), validate.Regexp(r"[\s\S]*\S")],
    )
    transactional = _JsonFlag(load_default=False)


def is_version(text: str) -> bool:
    """Whether the text can be a version at all."""
    return re.fullmatch(VERSION, text) is not None


def query(schema: type[Schema], request: Request) -> dict[str, Any]:
    """Read the parameters in the query string. Raises InvalidRequestError."""
    found: dict[str, Any] = _PARSER.parse(schema(), request, location="query")
    return found


def body(schema: type[Schema], request: Request) -> dict[str, Any]:
    """Read the fields of a JSON body. Raises NotJsonError or InvalidRequestError."""
    found: dict[str, Any] = _PARSER.parse(schema(), request, location="json")
    return found


class _Parser(FlaskParser):
    """Refuses unknown parameters, and raises errors of ours instead of aborting."""

    DEFAULT_UNKNOWN_BY_LOCATION = {"query": RAISE, "json": RAISE}  # noqa: RUF012  (webargs' own way)

    def load_querystring(self, req: Request, schema: Schema) -> object:
        twice = [name for name, given in req.args.lists() if len(given) > 1]
        if twice:
            msg = f"{twice[0][:50]!r} is given more than once."
            raise InvalidRequestError(msg, "Give each parameter once.")
        return super().load_querystring(req, schema)

    def load_json(self, req: Request, schema: Schema) -> object:  # noqa: ARG002
        if not req.is_json:
            raise NotJsonError
        try:
            return json.loads(req.get_data())
        # Besides bad syntax: bytes of no encoding, a number of too many digits, too many brackets.
        except (ValueError, RecursionError) as exc:
            msg = "The body is not valid JSON."
            raise InvalidRequestError(msg, 'Send an object: {"name": "add user index"}.') from exc

    def handle_error(  # webargs' signature
        self,
        error: ValidationError,
        req: Request,  # noqa: ARG002
        schema: Schema,
        **_: object,
    ) -> NoReturn:
        known = [field.data_key or name for name, field in schema.fields.items()]
        remedy = f"Accepted: {', '.join(known)}." if known else "Leave the parameters out."
        raise InvalidRequestError("; ".join(_lines(error.messages)), remedy) from error


_PARSER = _Parser()


def _lines(messages: object, name: str = "") -> Iterator[str]:
    """Yield each message of marshmallow's tree, with the name of its field."""
    if isinstance(messages, dict):
        for key, below in messages.items():
            yield from _lines(below, str(key)[:50])
    elif isinstance(messages, list):
        yield f"{name!r}: {' '.join(map(str, messages))}"
