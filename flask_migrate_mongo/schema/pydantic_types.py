"""Makes a `$jsonSchema` with the BSON types in which the values of a Pydantic model are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from flask_migrate_mongo.driver.server import Document

if TYPE_CHECKING:
    from pydantic_core import core_schema

_OF_JSON: Mapping[str, object] = {
    "boolean": "bool",
    "integer": ["int", "long"],
    "number": "double",
}
"""The BSON types of those types of JSON Schema that have other names."""

_OF_CLASS: Mapping[type, str] = {
    ObjectId: "objectId",
    Decimal128: "decimal",
    Binary: "binData",
    Regex: "regex",
    Timestamp: "timestamp",
}
_SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties"})
_SCHEMAS = frozenset({"anyOf", "allOf", "oneOf"})
_KEPT = frozenset(
    {
        *("bsonType", "enum", "maximum", "maxItems", "maxLength", "maxProperties", "minimum"),
        *("minItems", "minLength", "minProperties", "multipleOf", "pattern", "required"),
        "uniqueItems",
    }
)
"""Keywords that the server has, too, with the same meaning."""


def schema_of(model: type, *, by_alias: bool) -> Document:
    """Make the schema of a model, a dataclass or a TypedDict."""
    # What `model_dump()` writes: with computed fields, under the names that it writes.
    made = TypeAdapter(model).json_schema(
        schema_generator=_StoredTypes, by_alias=by_alias, mode="serialization"
    )
    found = _Translation(made.get("$defs", {})).translate(made)
    if found.get("additionalProperties") is False:
        # Every document has it.
        found["properties"].setdefault("_id", {})
    return found


class _StoredTypes(GenerateJsonSchema):
    """Names the BSON type where JSON Schema would have the type of a text."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Document:
        """Leave out the default, which a validator does not look at."""
        return self.generate_inner(schema["schema"])

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> Document:  # noqa: ARG002
        """Name the type of a date."""
        return {"bsonType": "date"}

    def date_schema(self, schema: core_schema.DateSchema) -> Document:  # noqa: ARG002
        """Name the type of a date."""
        return {"bsonType": "date"}

    def time_schema(self, schema: core_schema.TimeSchema) -> Document:  # noqa: ARG002
        """Allow anything: BSON has no such type, so the application chooses one."""
        return {}

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> Document:  # noqa: ARG002
        """Allow anything: BSON has no such type, so the application chooses one."""
        return {}

    def uuid_schema(self, schema: core_schema.UuidSchema) -> Document:  # noqa: ARG002
        """Name the type of binary data."""
        return {"bsonType": "binData"}

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Document:  # noqa: ARG002
        """Name the type of binary data, whose length the server cannot check."""
        return {"bsonType": "binData"}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Document:
        """Name the type of a Decimal128, with its limits."""
        made: Document = {"bsonType": "decimal"}
        self.update_with_validations(made, schema, self.ValidationsMapping.numeric)
        return {k: Decimal128(v) if isinstance(v, Decimal) else v for k, v in made.items()}

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> Document:
        """Name the type of a class of BSON."""
        known = _OF_CLASS.get(schema["cls"])
        return {"bsonType": known} if known else super().is_instance_schema(schema)

    def json_or_python_schema(self, schema: core_schema.JsonOrPythonSchema) -> Document:
        """Take the values of Python, which are stored."""
        return self.generate_inner(schema["python_schema"])


class _Translation:
    """Translates JSON Schema 2020-12 to the server's dialect, which is draft 4 without references."""

    def __init__(self, definitions: Mapping[str, Document]) -> None:
        self._definitions = definitions
        self._open: list[str] = []

    def translate(self, schema: Document) -> Document:
        """Translate one schema."""
        if "$ref" in schema:
            return self._referenced(schema["$ref"].rpartition("/")[2])
        found = dict(self._keywords(schema))
        return _merged(found)

    def _referenced(self, name: str) -> Document:
        if name in self._open:
            # A model that contains itself: no schema of the server can say how deep.
            return {"bsonType": "object"}
        self._open.append(name)
        found = self.translate(self._definitions[name])
        self._open.pop()
        return found

    def _keywords(self, schema: Document) -> Iterator[tuple[str, Any]]:
        for name, value in schema.items():
            if name in _KEPT:
                yield name, value
            elif name in _SCHEMAS_BY_NAME:
                yield name, {key: self.translate(each) for key, each in value.items()}
            elif name in _SCHEMAS:
                # A function chooses. The server does not know which one, and a document may match several.
                is_chosen = name == "oneOf" and "discriminator" not in schema
                alternatives = "anyOf" if is_chosen else name
                yield alternatives, [self.translate(each) for each in value]
            else:
                yield from self._renamed(name, value)

    def _renamed(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (any value of a keyword)
        if name == "type":
            yield "bsonType", _OF_JSON.get(value, value)
        elif name == "const":
            yield "enum", [value]
        elif name in {"exclusiveMaximum", "exclusiveMinimum"}:
            # Numbers since draft 6; flags before.
            yield name.replace("exclusiveM", "m"), value
            yield name, True
        elif name == "prefixItems":
            yield "items", [self.translate(each) for each in value]
        elif name in {"items", "additionalProperties"} and isinstance(value, dict):
            yield name, self.translate(value)
        elif name == "additionalProperties" and value is False:
            yield name, False


def _merged(schema: Document) -> Document:
    """Write alternatives that are types alone as one list of types."""
    alternatives = schema.get("anyOf", [])
    if not alternatives or any(set(each) != {"bsonType"} for each in alternatives):
        return schema
    types = [each["bsonType"] for each in alternatives]
    flat = [name for each in types for name in (each if isinstance(each, list) else [each])]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {"bsonType": list(dict.fromkeys(flat)), **rest}
