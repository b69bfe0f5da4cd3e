"""What the REST door takes and gives: parameters, documents, and their description in OpenAPI."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import (
    INCLUDE,
    RAISE,
    Schema,
    ValidationError,
    fields,
    validate,
)
from webargs.flaskparser import FlaskParser

from flask_migrate_mongo.model.errors import InvalidRequestError, NotJsonError
from flask_migrate_mongo.model.limits import LONGEST_DRY_RUN, MOST_SAMPLES
from flask_migrate_mongo.model.reports import StepState, Verdict
from flask_migrate_mongo.model.values import Direction, Status
from flask_migrate_mongo.store.runs import RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flask import Request

    from flask_migrate_mongo.interfaces.rest.routes import Route

VERSION = r"[0-9]{1,30}"
RUN_ID = r"[0-9a-f]{32}"
MOST_RECORDS = 1_000
MOST_SKIPPED = 1_000_000_000
MOST_STEPS = 10_000
LONGEST_WAIT = 300
"""Seconds: a worker of the web server is taken as long."""

_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")


# --- parameters


class _Flag(fields.Boolean):
    """`true` or `false` in a query string, and nothing that would only look like one of them."""

    truthy = {"true"}
    falsy = {"false"}


class _JsonFlag(fields.Boolean):
    """A boolean of JSON: 1 and "true" are none."""

    def _deserialize(self, value: object, *args: Any, **more: Any) -> bool:  # noqa: ANN401, ARG002
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class _Whole(fields.Integer):
    """Digits of ASCII: int() would take blanks, underscores and other scripts too."""

    def _validated(self, value: Any) -> int:  # noqa: ANN401  (marshmallow's own signature)
        if not isinstance(value, str) or not _WHOLE.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return int(value)


class NoQuery(Schema):
    """No parameters."""


class UpQuery(Schema):
    """How `up` goes about it."""

    dry_run = _Flag(
        data_key="dryRun",
        load_default=False,
        metadata={
            "description": "Execute the plan in a transaction that is rolled back, and say what it changes."
        },
    )
    dry_run_limit = _Whole(
        data_key="dryRunLimit",
        validate=validate.Range(1, LONGEST_DRY_RUN),
        metadata={"description": "With `dryRun`: seconds after which to give up."},
    )
    samples = _Whole(
        validate=validate.Range(0, MOST_SAMPLES),
        metadata={"description": "With `dryRun`: documents of each migration to show."},
    )
    continue_on_error = _Flag(
        data_key="continueOnError",
        load_default=False,
        metadata={"description": "Go on with the next migration when one fails."},
    )
    wait = _Whole(
        validate=validate.Range(0, LONGEST_WAIT),
        metadata={"description": "Seconds to wait for somebody else's lock."},
    )

    allow_drift = _Flag(
        data_key="allowDrift",
        load_default=False,
        metadata={"description": "Go on with the file as it is now, though it has changed."},
    )


class DownQuery(UpQuery):
    """How `down` goes about it."""

    steps = _Whole(
        load_default=1,
        validate=validate.Range(1, MOST_STEPS),
        metadata={"description": "How many migrations to undo."},
    )


class HistoryQuery(Schema):
    """Which records."""

    limit = _Whole(load_default=50, validate=validate.Range(1, MOST_RECORDS))
    skip = _Whole(load_default=0, validate=validate.Range(0, MOST_SKIPPED))
    status = fields.Enum(Status, by_value=True)


class ReleaseQuery(Schema):
    """That the release is meant."""

    confirm = _Flag(
        load_default=False,
        metadata={"description": "Yes, the process that holds it is dead."},
    )


class NewMigration(Schema):
    """What a new migration is called."""

    name = fields.String(
        required=True,
        validate=[validate.Length(1, 1_000), validate.Regexp(r"[\s\S]*\S")],
    )
    transactional = _JsonFlag(load_default=False)


def is_version(text: str) -> bool:
    """Whether the text can be a version at all."""
    return re.fullmatch(VERSION, text) is not None


def query(schema: type[Schema], request: Request) -> dict[str, Any]:
    """Return the parameters in the query string. Raises InvalidRequestError."""
    found: dict[str, Any] = _PARSER.parse(schema(), request, location="query")
    return found


def body(schema: type[Schema], request: Request) -> dict[str, Any]:
    """Return the fields of a JSON body. Raises NotJsonError or InvalidRequestError."""
    found: dict[str, Any] = _PARSER.parse(schema(), request, location="json")
    return found


class _Parser(FlaskParser):
    """Refuses what it does not know, and raises errors of ours instead of aborting."""

    DEFAULT_UNKNOWN_BY_LOCATION = {"query": RAISE, "json": RAISE}

    def load_querystring(self, req: Request, schema: Schema) -> Any:  # noqa: ANN401
        twice = [name for name, given in req.args.lists() if len(given) > 1]
        if twice:
            msg = f"{twice[0][:50]!r} is given more than once. Give each parameter once."
            raise InvalidRequestError(msg)
        return super().load_querystring(req, schema)

    def load_json(self, req: Request, schema: Schema) -> Any:  # noqa: ANN401, ARG002
        if not req.is_json:
            raise NotJsonError
        try:
            return json.loads(req.get_data())
        # Besides bad syntax: bytes of no encoding, a number of too many digits, too many brackets.
        except (ValueError, RecursionError) as exc:
            msg = (
                'The body is not JSON that can be read. Send an object: {"name": "add user index"}.'
            )
            raise InvalidRequestError(msg) from exc

    def handle_error(
        self,
        error: ValidationError,
        req: Request,  # noqa: ARG002
        schema: Schema,
        *,
        error_status_code: int | None,  # noqa: ARG002
        error_headers: Mapping[str, str] | None,  # noqa: ARG002
    ) -> NoReturn:
        said = "; ".join(_said(error.messages))
        known = [field.data_key or name for name, field in schema.fields.items()]
        remedy = f"What is taken: {', '.join(known)}." if known else "Leave the parameters out."
        raise InvalidRequestError(f"{said} {remedy}") from error


_PARSER = _Parser()


def _said(messages: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401  (marshmallow's tree)
    if isinstance(messages, dict):
        for key, below in messages.items():
            yield from _said(below, str(key)[:50])
    else:
        yield f"{name!r}: {' '.join(map(str, messages))}"


# --- documents


class _Document(Schema):
    """A document of which every field is always there."""

    class Meta:
        """Nothing else is in it."""

        unknown = RAISE


class _OpenDocument(Schema):
    """A document that may have more fields."""

    class Meta:
        """More may be in it."""

        unknown = INCLUDE


def _text(**more: Any) -> fields.String:  # noqa: ANN401
    return fields.String(required=True, **more)


def _maybe_text(**more: Any) -> fields.String:  # noqa: ANN401
    return fields.String(required=True, allow_none=True, **more)


def _version(**more: Any) -> fields.String:  # noqa: ANN401
    return _text(validate=validate.Regexp(f"^{VERSION}$"), **more)


def _moment() -> fields.String:
    return _maybe_text(metadata={"format": "date-time"})


def _flag() -> fields.Boolean:
    return fields.Boolean(required=True)


def _count() -> fields.Integer:
    return fields.Integer(required=True, validate=validate.Range(0))


def _maybe_count() -> fields.Integer:
    return fields.Integer(required=True, allow_none=True, validate=validate.Range(0))


def _one_of(values: Iterable[str]) -> fields.String:
    return _text(validate=validate.OneOf(list(values)))


def _list(schema: type[Schema]) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), required=True)


def _maybe(schema: type[Schema], *, required: bool = True) -> fields.Nested:
    return fields.Nested(schema, required=required, allow_none=True)


class ErrorInfo(_Document):
    """An exception as it was recorded."""

    type = _text()
    message = _text()
    traceback = _maybe_text()


class Lock(_Document):
    """Who holds, or held, the lock."""

    lockedBy = _text()
    host = _text()
    pid = fields.Integer(required=True)
    runId = _text()
    reason = _text()
    fence = fields.Integer(required=True)
    lockedAt = _moment()
    heartbeatAt = _moment()
    expiresAt = _moment()
    expired = _flag()


class _Entry(_Document):
    """A version in the status."""

    version = _version()
    name = _text()
    reversible = _flag()


class Applied(_Entry):
    """An applied version."""

    appliedAt = _moment()
    executionTime = _maybe_count()
    batch = _maybe_count()
    drifted = _flag()
    missing = _flag()


class Pending(_Entry):
    """A pending version."""

    transactional = _flag()
    outOfOrder = _flag()


class Failed(Pending):
    """A failed version."""

    error = _maybe(ErrorInfo)


class ProgressDocument(_Document):
    """How far a backfill is; the total is an estimate."""

    collection = _text()
    done = _count()
    total = _maybe_count()
    perSecond = fields.Float(required=True, allow_none=True)
    secondsLeft = fields.Float(required=True, allow_none=True)


class Running(_Entry):
    """A version whose up() or down() runs, or was interrupted."""

    direction = fields.String(required=True, allow_none=True)
    progress = _maybe(ProgressDocument, required=False)


class Summary(_Document):
    """How many there are of each."""

    total = _count()
    applied = _count()
    pending = _count()
    failed = _count()
    running = _count()
    drifted = _count()
    missing = _count()
    outOfOrder = _count()


class StatusDocument(_Document):
    """What `status` gives."""

    applied = _list(Applied)
    pending = _list(Pending)
    failed = _list(Failed)
    running = _list(Running)
    locked = _maybe(Lock)
    summary = fields.Nested(Summary, required=True)
    ignored = fields.List(fields.String(), required=True)


class Record(_Document):
    """What is recorded of a version."""

    version = _version()
    name = _text()
    description = _text()
    status = _one_of(status.value for status in Status)
    appliedAt = _moment()
    rolledBackAt = _moment()
    executionTime = _maybe_count()
    error = _maybe(ErrorInfo)
    reversible = _flag()
    batch = _maybe_count()
    updatedAt = _moment()


class HistoryDocument(_Document):
    """A page of the history."""

    history = _list(Record)


class Event(_OpenDocument):
    """Something that happened; which more fields there are depends on the kind."""

    version = _maybe_text()
    event = _text()
    at = _moment()
    error = _maybe(ErrorInfo)


class EventsDocument(_Document):
    """A trail."""

    events = _list(Event)


class LockStatusDocument(_Document):
    """The lock, and whether it holds anyone off."""

    locked = _flag()
    lock = _maybe(Lock)


class ReleasedDocument(_Document):
    """The lock that was released."""

    released = _maybe(Lock)


class CreatedDocument(_Document):
    """Where the new file is."""

    path = _text()


class HealthDocument(_Document):
    """Whether everything is applied; the figures are for those who may read."""

    ready = _flag()
    summary = fields.Nested(Summary)


class EffectsDocument(_Document):
    """How many documents of a collection would be changed."""

    inserted = _count()
    matched = _count()
    modified = _count()
    deleted = _count()
    upserted = _count()


class ViolationDocument(_Document):
    """A key that several documents have."""

    key = fields.Dict(required=True)
    count = _count()


class NotExecutedDocument(_Document):
    """An operation that a dry run did not execute, and what it would affect."""

    operation = _text()
    collection = _text()
    documents = _maybe_count()
    detail = _text()
    violations = fields.List(fields.Nested(ViolationDocument))


class SampleDocument(_Document):
    """A document before and after, as extended JSON: what differs, or all of it where it is new or gone."""

    collection = _text()
    id = fields.Raw(required=True, allow_none=True)
    before = fields.Dict(required=True, allow_none=True)
    after = fields.Dict(required=True, allow_none=True)


class StepDocument(_Document):
    """What became of one migration of a plan; of a dry run, what would become of it."""

    version = _version()
    name = _text()
    state = _one_of(state.value for state in StepState)
    executionTime = _maybe_count()
    transactional = _flag()
    reversible = _flag()
    outOfOrder = _flag()
    error = _maybe(ErrorInfo)
    verdict = fields.String(validate=validate.OneOf([verdict.value for verdict in Verdict]))
    reason = fields.String(allow_none=True)
    effects = fields.Dict(keys=fields.String(), values=fields.Nested(EffectsDocument))
    notExecuted = fields.List(fields.Nested(NotExecutedDocument))
    samples = fields.List(fields.Nested(SampleDocument))


class Problem(_OpenDocument):
    """Why a request was not done (RFC 9457); of a run that failed it has the document as well."""

    type = _text()
    title = _text()
    status = fields.Integer(required=True)
    detail = _text()
    code = _text()
    lock = _maybe(Lock, required=False)


class OpenApiDocument(_OpenDocument):
    """The description of this API."""

    openapi = _text()


class RunDocument(_Document):
    """What a run did, or would do."""

    direction = _one_of(direction.value for direction in Direction)
    executed = _flag()
    dryRun = _flag()
    runId = _maybe_text()
    batch = _maybe_count()
    steps = _list(StepDocument)
    warnings = fields.List(fields.String(), required=True)
    error = _maybe(Problem)


class CurrentDocument(_Document):
    """The migration that a run is at."""

    version = _version()
    name = _text()
    progress = _maybe(ProgressDocument, required=False)


class StoredRunDocument(_Document):
    """What is known of a run that nobody waited for."""

    runId = _text()
    direction = _one_of(direction.value for direction in Direction)
    state = _one_of(state.value for state in RunState)
    detached = _flag()
    cancelRequested = _flag()
    current = _maybe(CurrentDocument)
    createdAt = _moment()
    updatedAt = _moment()
    report = _maybe(RunDocument)
    error = _maybe(Problem)


# --- OpenAPI


class Operation(NamedTuple):
    """What an endpoint takes and gives, as OpenAPI has to know it."""

    document: type[Schema]
    parameters: type[Schema] = NoQuery
    body: type[Schema] | None = None
    refusals: tuple[int, ...] = ()
    streams: bool = False
    can_be_deferred: bool = False


OPERATIONS: dict[str, Operation] = {
    "status": Operation(StatusDocument, refusals=(409,)),
    "up": Operation(RunDocument, UpQuery, refusals=(409, 413), can_be_deferred=True),
    "down": Operation(RunDocument, DownQuery, refusals=(409, 413), can_be_deferred=True),
    "run": Operation(StoredRunDocument, refusals=(404,)),
    "run-events": Operation(StoredRunDocument, refusals=(404,), streams=True),
    "run-cancel": Operation(StoredRunDocument, refusals=(404, 413)),
    "history": Operation(HistoryDocument, HistoryQuery),
    "events": Operation(EventsDocument, refusals=(404,)),
    "create": Operation(CreatedDocument, body=NewMigration, refusals=(413, 415)),
    "lock-status": Operation(LockStatusDocument),
    "lock-release": Operation(ReleasedDocument, ReleaseQuery, refusals=(409, 413)),
    "health": Operation(HealthDocument, refusals=(409,)),
    "openapi": Operation(OpenApiDocument),
}

_ALWAYS = {
    400: "The request cannot be understood.",
    401: "There is no token, or an unknown one.",
    403: "This is not allowed.",
    500: "A migration failed, or the configuration is wrong.",
    503: "The database does not answer, or not everything is applied.",
}
_SOMETIMES = {
    404: "Nothing is recorded of it.",
    409: "The lock is held, or what was asked for could do harm.",
    413: "The body is too long.",
    415: "The body is not sent as JSON.",
}


def openapi(server: str, routes: Iterable[Route]) -> dict[str, Any]:
    """Return the description of the API, which is found under the path `server`."""
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
    for route in routes:
        path = route.path.replace("<", "{").replace(">", "}")
        spec.path(path=path, operations={route.method.lower(): _operation(route)})
    return spec.to_dict()


def _component(schema: type[Schema] | Schema | str) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.strip("_").removesuffix("Document")


def _operation(route: Route) -> dict[str, Any]:
    told = OPERATIONS[route.action]
    operation: dict[str, Any] = {
        "operationId": route.action,
        "summary": route.summary,
        "description": f"Needs the scope `{route.scope.value}`.",
        "parameters": _parameters(route, told),
        "responses": _responses(route, told),
    }
    if told.body:
        content = {"application/json": {"schema": told.body}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.action == "health":
        operation["security"] = [{}, {"token": []}]
    return operation


def _parameters(route: Route, told: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"in": "query", "schema": told.parameters}]
    for name, pattern in (("version", VERSION), ("run_id", RUN_ID)):
        if f"<{name}>" in route.path:
            schema = {"type": "string", "pattern": f"^{pattern}$"}
            found.append({"in": "path", "name": name, "required": True, "schema": schema})
    if told.can_be_deferred:
        # No more than an example: what a server does not know of it is to be passed over (RFC 7240).
        preference = {"type": "string", "examples": ["respond-async"]}
        found.append({"in": "header", "name": "Prefer", "schema": preference})
    return found


def _responses(route: Route, told: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": told.document}}
    if told.streams:
        content = {"text/event-stream": {"schema": _SERVER_SENT_EVENT}}
    done = {"description": "Done.", "content": content}
    deferred = {"202": _ACCEPTED} if told.can_be_deferred else {}
    refused = _ALWAYS | {code: _SOMETIMES[code] for code in told.refusals}
    problems = {str(code): _refusal(code, why) for code, why in sorted(refused.items())}
    return {"201" if route.action == "create" else "200": done, **deferred, **problems}


_SERVER_SENT_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["id", "event", "data"],
}
_ACCEPTED: dict[str, Any] = {
    "description": "The run goes on by itself; Location tells where it says how.",
    "content": {"application/json": {"schema": StoredRunDocument}},
    "headers": {"Location": {"required": True, "schema": {"type": "string"}}},
}


def _refusal(code: int, why: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": why,
        "content": {"application/problem+json": {"schema": Problem}},
    }
    header = {401: "WWW-Authenticate"}.get(code)
    if header:
        answer["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return answer
