"""What each operation of the REST API accepts and answers, and its description in OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Request
from marshmallow import RAISE, Schema, ValidationError, fields, missing, validate
from webargs.flaskparser import FlaskParser

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.interfaces.schemas import ClosedSchema
from flask_migrate_mongo.model.errors import InvalidRequestError, NotJsonError
from flask_migrate_mongo.model.reports import LONGEST_DRY_RUN, MOST_SAMPLES
from flask_migrate_mongo.model.values import APPLIED, Direction, Status

from .routes import ROUTES, Route

NAME = r"[0-9A-Za-z_-]{1,100}"
"""A version: its number, the beginning of it, or its slug."""

RUN_ID = r"[0-9a-f]{32}"
MOST_RECORDS = 1_000
MOST_LISTED = 100
MOST_SKIPPED = 1_000_000_000
MOST_STEPS = 10_000
LONGEST_WAIT = 300
"""Seconds: a waiting request occupies a worker of the web server."""

# --- parameters and bodies

_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")


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


class _StatusWord(fields.String):
    """A state: by the word that people read, or by the one that is stored and answered."""

    def _deserialize(self, value: object, *_: object, **__: object) -> Any:  # noqa: ANN401  (marshmallow's)
        try:
            return Status.named(str(value))
        except ValueError:
            msg = f"Must be one of: {', '.join(self.metadata['enum'])}."
            raise ValidationError(msg) from None


def _flag(description: str) -> fields.Boolean:
    """Make a parameter that is `true` or `false`, in this spelling alone."""
    about = {"description": description}
    return fields.Boolean(truthy={"true"}, falsy={"false"}, load_default=False, metadata=about)


def _whole(least: int, most: float, description: str, default: object = missing) -> _Whole:
    bounds, about = validate.Range(least, most), {"description": description}
    return _Whole(validate=bounds, metadata=about, load_default=default)


class NoQuery(ClosedSchema):
    """No parameters."""


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
    steps = _whole(1, MOST_STEPS, "Run this many migrations; `down` rolls back one by default.")
    to = fields.String(
        validate=validate.Regexp(f"^{NAME}$"),
        metadata={"description": "The last version that `up` applies, or that stays after `down`."},
    )


class DownQuery(UpQuery):
    """How `down` runs."""

    batch = _flag("Roll back all that the last `up` applied.")


class PlanQuery(NoQuery):
    """Which run."""

    direction = fields.Enum(Direction, by_value=True, load_default=Direction.UP)
    allow_drift = _flag("Use the file as it is now, even if it has changed.")
    batch = _flag("With `direction=down`: all that the last `up` applied.")
    steps = _whole(1, MOST_STEPS, "This many migrations; `down` rolls back one by default.")
    to = fields.String(
        validate=validate.Regexp(f"^{NAME}$"),
        metadata={"description": "The last version that `up` applies, or that stays after `down`."},
    )


class RunsQuery(NoQuery):
    """How many runs."""

    limit = _whole(1, MOST_LISTED, "Show at most this many runs.", default=20)


class HistoryQuery(NoQuery):
    """Which records."""

    limit = _whole(1, MOST_RECORDS, "Show at most this many records.", default=50)
    skip = _whole(0, MOST_SKIPPED, "Leave out this many of the newest records.", default=0)
    status = _StatusWord(metadata={"enum": sorted({*(s.value for s in Status), APPLIED})})


class CheckQuery(NoQuery):
    """What to compare."""

    quick = _flag("Leave out lint and the declared schema, which take longer.")


class ShowQuery(NoQuery):
    """What to show."""

    source = _flag("Show the text of the file, too.")


class SchemaQuery(NoQuery):
    """What to list."""

    inventory = _flag(
        "List every collection and index, too, as declared and as live, with its use."
    )


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


def parse(schema: type[Schema], request: Request, location: str = "query") -> dict[str, Any]:
    """Read the parameters in the query string, or those in a body of `json`.

    Raises InvalidRequestError, or NotJsonError.
    """
    found: dict[str, Any] = _PARSER.parse(schema(), request, location=location)
    return found


class _Parser(FlaskParser):
    """Refuses unknown parameters, and raises errors of ours instead of aborting."""

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
            remedy = 'Send an object: {"name": "add user index"}.'
            raise InvalidRequestError("The body is not valid JSON.", remedy) from exc

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


_PARSER = _Parser(unknown=RAISE)


def _lines(messages: object, name: str = "") -> Iterator[str]:
    """Yield each message of marshmallow's tree, with the name of its field."""
    if isinstance(messages, dict):
        for key, below in messages.items():
            yield from _lines(below, str(key)[:50])
    elif isinstance(messages, list):
        yield f"{name!r}: {' '.join(map(str, messages))}"


# --- the description

QUERIES: Mapping[str, type[Schema]] = {
    "up": UpQuery,
    "down": DownQuery,
    "check": CheckQuery,
    "show": ShowQuery,
    "schema": SchemaQuery,
    "history": HistoryQuery,
    "plan": PlanQuery,
    "runs": RunsQuery,
    "lock-release": ReleaseQuery,
}
"""The parameters of each action that takes some."""

_CONFLICTS = {"status", "plan", "up", "down", "lock-release", "health", "run-pause", "run-resume"}
_DEFERRABLE = {"up", "down"}
_PROBLEMS = {
    400: "The request cannot be understood.",
    401: "There is no token, or an unknown one.",
    403: "This is not allowed.",
    404: "There is no such version, no such run, or no declared schema.",
    409: "The lock is held, or the request could do harm.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    429: "Too many asynchronous runs have not ended, or this process has as many streams of events as it may have.",
    500: "A migration failed, or the configuration is wrong.",
    503: "The database does not answer, or not everything is applied.",
}
_TEXT = {"type": "string"}
_SERVER_SENT_EVENT = {
    "type": "object",
    "properties": dict.fromkeys(("id", "event", "data"), _TEXT),
    "required": ["event", "data"],
}


def openapi(server: str) -> Document:
    """Describe the API that is found under the path `server`."""
    spec = APISpec(
        title="Flask-Migrate-Mongo",
        version="1",
        openapi_version="3.1.0",
        info={"description": "The migrations of an application's database."},
        plugins=[MarshmallowPlugin(schema_name_resolver=_component)],
        servers=[{"url": server or "/"}],
        security=[{"token": []}],
    )
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
    for route in ROUTES:
        path = route.path.replace("<", "{").replace(">", "}")
        spec.path(path=path, operations={route.method.lower(): _operation(route)})
    return spec.to_dict()


def _component(schema: type[Schema] | Schema | str) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.strip("_").removesuffix("Document")


def _operation(route: Route) -> Document:
    operation: Document = {
        "operationId": route.action,
        "summary": route.summary,
        "description": f"Needs the scope `{route.scope.value}`.",
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.action == "create":
        content = {"application/json": {"schema": NewMigration()}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.action == "health":
        operation["security"] = [{}, {"token": []}]
    return operation


def _parameters(route: Route) -> list[Document]:
    query = QUERIES.get(route.action, NoQuery)
    found: list[Document] = [{"in": "query", "schema": query()}]
    for name, pattern in (("version", NAME), ("run_id", RUN_ID)):
        if f"<{name}>" in route.path:
            schema = {**_TEXT, "pattern": f"^{pattern}$"}
            found.append({"in": "path", "name": name, "required": True, "schema": schema})
    if route.action in _DEFERRABLE:
        # An example, not an enumeration: a server ignores preferences that it does not know (RFC 7240).
        preference = {**_TEXT, "examples": ["respond-async"]}
        found.append({"in": "header", "name": "Prefer", "schema": preference})
    return found


def _responses(route: Route) -> Document:
    action = route.action
    done = _answer("Done.", schemas.DOCUMENTS[action]())
    if action == "run-events":
        done = _answer("Done.", _SERVER_SENT_EVENT, "text/event-stream")
    responses = {"201" if action == "create" else "200": done}
    if action == "run-events":
        responses["204"] = {
            "description": "The run is over, and the reader has received everything."
        }
    if action in _DEFERRABLE:
        accepted = "The run continues in the background; Location is its address."
        responses["202"] = _answer(accepted, schemas.StoredRunDocument(), header="Location")
    possible = {
        404: "<" in route.path or action in _DEFERRABLE or action in {"check", "plan", "schema"},
        409: action in _CONFLICTS,
        413: route.method == "POST",
        415: action == "create",
        429: action == "run-events" or action in _DEFERRABLE,
    }
    for code, why in _PROBLEMS.items():
        if possible.get(code, True):
            header = {401: "WWW-Authenticate"}.get(code)
            problem = schemas.ProblemDocument()
            responses[str(code)] = _answer(why, problem, "application/problem+json", header=header)
    return responses


def _answer(
    description: str, schema: object, kind: str = "application/json", *, header: str | None = None
) -> Document:
    answer: Document = {"description": description, "content": {kind: {"schema": schema}}}
    if header:
        answer["headers"] = {header: {"required": True, "schema": _TEXT}}
    return answer
