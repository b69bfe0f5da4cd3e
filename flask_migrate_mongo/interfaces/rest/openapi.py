"""The description of the REST API in OpenAPI 3.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.interfaces.schemas import VERSION

from .requests import (
    RUN_ID,
    DownQuery,
    HistoryQuery,
    NewMigration,
    NoQuery,
    ReleaseQuery,
    UpQuery,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from marshmallow import Schema

    from flask_migrate_mongo.driver.server import Document

    from .routes import Route


class Operation(NamedTuple):
    """What an endpoint accepts and answers; `refuses` says whether it can answer 409."""

    document: type[Schema]
    parameters: type[Schema] = NoQuery
    body: type[Schema] | None = None
    refuses: bool = False


OPERATIONS = {
    "status": Operation(schemas.StatusDocument, refuses=True),
    "up": Operation(schemas.RunDocument, UpQuery, refuses=True),
    "down": Operation(schemas.RunDocument, DownQuery, refuses=True),
    "run": Operation(schemas.StoredRunDocument),
    "run-events": Operation(schemas.StoredRunDocument),
    "run-cancel": Operation(schemas.StoredRunDocument),
    "history": Operation(schemas.HistoryDocument, HistoryQuery),
    "events": Operation(schemas.EventsDocument),
    "create": Operation(schemas.CreatedDocument, body=NewMigration),
    "lock-status": Operation(schemas.LockStatusDocument),
    "lock-release": Operation(schemas.ReleasedDocument, ReleaseQuery, refuses=True),
    "health": Operation(schemas.HealthDocument, refuses=True),
    "openapi": Operation(schemas.OpenApiDocument),
}
"""The operations, by the action of the route."""

_DEFERRABLE = {"up", "down"}

_PROBLEMS = {
    400: "The request cannot be understood.",
    401: "There is no token, or an unknown one.",
    403: "This is not allowed.",
    404: "Nothing is recorded of it.",
    409: "The lock is held, or the request could do harm.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    500: "A migration failed, or the configuration is wrong.",
    503: "The database does not answer, or not everything is applied.",
}
_TEXT = {"type": "string"}
_SERVER_SENT_EVENT = {
    "type": "object",
    "properties": dict.fromkeys(("id", "event", "data"), _TEXT),
    "required": ["id", "event", "data"],
}


def openapi(server: str, routes: Iterable[Route]) -> Document:
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
    for route in routes:
        path = route.path.replace("<", "{").replace(">", "}")
        spec.path(path=path, operations={route.method.lower(): _operation(route)})
    return spec.to_dict()


def _component(schema: type[Schema] | Schema | str) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.strip("_").removesuffix("Document")


def _operation(route: Route) -> Document:
    described = OPERATIONS[route.action]
    operation: Document = {
        "operationId": route.action,
        "summary": route.summary,
        "description": f"Needs the scope `{route.scope.value}`.",
        "parameters": _parameters(route, described),
        "responses": _responses(route, described),
    }
    if described.body:
        content = {"application/json": {"schema": described.body()}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.action == "health":
        operation["security"] = [{}, {"token": []}]
    return operation


def _parameters(route: Route, described: Operation) -> list[Document]:
    found: list[Document] = [{"in": "query", "schema": described.parameters()}]
    for name, pattern in (("version", VERSION), ("run_id", RUN_ID)):
        if f"<{name}>" in route.path:
            schema = {**_TEXT, "pattern": f"^{pattern}$"}
            found.append({"in": "path", "name": name, "required": True, "schema": schema})
    if route.action in _DEFERRABLE:
        # An example, not an enumeration: a server ignores preferences that it does not know (RFC 7240).
        preference = {**_TEXT, "examples": ["respond-async"]}
        found.append({"in": "header", "name": "Prefer", "schema": preference})
    return found


def _responses(route: Route, described: Operation) -> Document:
    done = _answer("Done.", described.document())
    if route.action == "run-events":
        done = _answer("Done.", _SERVER_SENT_EVENT, "text/event-stream")
    responses = {"201" if route.action == "create" else "200": done}
    if route.action in _DEFERRABLE:
        accepted = "The run continues in the background; Location is its address."
        responses["202"] = _answer(accepted, schemas.StoredRunDocument(), header="Location")
    possible = {
        404: "<" in route.path,
        409: described.refuses,
        413: route.method == "POST",
        415: described.body is not None,
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
