"""Writes the page of the API's endpoints from the OpenAPI document that the package makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sphinx.application import Sphinx

from flask_migrate_mongo.interfaces.rest.operations import openapi

PAGE, MARK = "reference/rest", "<!-- endpoints -->"

Described = dict[str, Any]


def pages_of(document: Described) -> Iterator[str]:
    """Write a section for each endpoint, then one for each JSON document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from _endpoint(f"{method.upper()} {path}", operation)
    yield "## JSON documents\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _document(name, schema)


def _endpoint(title: str, operation: Described) -> Iterator[str]:
    yield f"## `{title}`\n\n{operation['summary']} {operation.get('description', '')}\n"
    if parameters := operation.get("parameters", []):
        rows = [
            (f"`{each['name']}`", each["in"], _type(each["schema"]), each.get("description", ""))
            for each in parameters
        ]
        yield _table(("parameter", "in", "type", ""), rows)
    answers = [
        (status, _document_of(answer), answer["description"])
        for status, answer in sorted(operation["responses"].items())
    ]
    yield _table(("status", "document", ""), answers)


def _document_of(answer: Described) -> str:
    schemas = [each.get("schema", {}) for each in answer.get("content", {}).values()]
    return ", ".join(map(_type, schemas))


def _document(name: str, schema: Described) -> Iterator[str]:
    yield f"### {name}\n"
    required = schema.get("required", [])
    rows = [
        (f"`{field}`", _type(each), "" if field in required else "optional")
        for field, each in schema.get("properties", {}).items()
    ]
    yield _table(("field", "type", ""), rows) if rows else f"{_type(schema)}\n"


def _type(schema: Described) -> str:
    """Say which values a schema allows, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(map(_type, schema[choice]))
    if "enum" in schema:
        return " ".join(f"`{'null' if value is None else value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    names = kind if isinstance(kind, list) else [kind]
    if "array" in names and "items" in schema:
        return f"list of {_type(schema['items'])}"
    return " or ".join([*names, *filter(None, [schema.get("format")])])


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return (
        "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
        )
        + "\n"
    )


def _fill(_: Sphinx, page: str, source: list[str]) -> None:
    if page == PAGE:
        written = "\n".join(pages_of(openapi("/api/migrations")))
        source[0] = source[0].replace(MARK, written)


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill the page when it is read."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
