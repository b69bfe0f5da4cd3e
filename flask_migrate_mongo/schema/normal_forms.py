"""Forms of BSON values that are equal where the server sees no difference. All are hashable."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128

from flask_migrate_mongo.driver.server import Document, DocumentView

TTL = "expireAfterSeconds"
"""The option of indexes, time series and clustered collections whose documents expire."""

VALIDATION: DocumentView = {
    "validator": {},
    "validationLevel": "strict",
    "validationAction": "error",
}
"""The options of a collection that make up its validation, with what the server takes for one that is not given."""

_UUIDS = CodecOptions[Document](uuid_representation=UuidRepresentation.STANDARD)

_NUMBERED_TYPES = (
    *("double", "string", "object", "array", "binData", "undefined", "objectId", "bool"),
    *("date", "null", "regex", "dbPointer", "javascript", "symbol", "javascriptWithScope"),
    *("int", "timestamp", "long", "decimal"),
)
_TYPES = {**dict(enumerate(_NUMBERED_TYPES, start=1)), 127: "maxKey", -1: "minKey"}
"""The names that `$type` has for the numbers of BSON types."""

# Keywords of JSON Schema, by what their values hold.
_BY_NAME = frozenset({"properties", "patternProperties", "dependencies"})
_UNORDERED = frozenset({"required", "enum", "bsonType", "type"})
_ALTERNATIVES = frozenset({"allOf", "anyOf", "oneOf"})

# ICU's defaults. The server completes a collation with those of its locale.
_COLLATION: DocumentView = {
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 3,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
}
_NORMALIZED = frozenset(
    {
        *("as", "bn", "el", "fa", "gu", "he", "hi", "ig", "km", "kn", "kok", "mr", "my"),
        *("or", "pa", "ps", "si", "ta", "te", "th", "vi", "yi", "yo"),
    }
)
_UPPER_FIRST = frozenset({"da", "mt"})
_SHIFTED = frozenset({"th"})
_BACKWARDS = frozenset({"fr_CA"})


def by_value(value: object) -> Hashable:
    """Make a form in which numbers are equal by value, whatever their types, and the order of fields counts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float | Decimal128):
        number = value.to_decimal() if isinstance(value, Decimal128) else value
        return ("number", number if number == number else "NaN")  # noqa: PLR0124  (a NaN is not equal to itself)
    if isinstance(value, Mapping):
        return ("document", tuple((name, by_value(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(map(by_value, value)))
    return ("other", bson.encode({"": value}, codec_options=_UUIDS))


# --- filters and validators


def conditions(query: DocumentView) -> frozenset[Hashable]:
    """Split a filter into its conditions, whose order does not count."""
    return frozenset(_conditions(query))


def _conditions(query: DocumentView) -> Iterator[Hashable]:
    for name, operand in query.items():
        if name == "$and" or (name == "$or" and len(operand) == 1):
            for each in operand:
                yield from _conditions(each)
        elif name in {"$or", "$nor"}:
            yield name, frozenset(map(conditions, operand))
        elif name == "$jsonSchema":
            yield name, json_schema_form(operand)
        elif _has_operators(operand):
            for operator, value in operand.items():
                yield name, operator, _operand(operator, value)
        else:
            yield name, "$eq", by_value(operand)


def _has_operators(operand: object) -> bool:
    # A reference to a document has `$ref` and `$id`, and is a value.
    return (
        isinstance(operand, Mapping)
        and any(name.startswith("$") for name in operand)
        and "$ref" not in operand
    )


def _operand(operator: str, value: object) -> Hashable:
    if operator in {"$in", "$nin"} and isinstance(value, list | tuple):
        return frozenset(map(by_value, value))
    if operator == "$type":
        return frozenset(_type_name(each) for each in _listed(value))
    if operator == "$exists":
        return bool(value)
    return by_value(value)


def _type_name(given: object) -> Hashable:
    return _TYPES.get(int(given), given) if isinstance(given, int | float) else by_value(given)


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]


def json_schema_form(schema: object) -> Hashable:
    """Make a form of a `$jsonSchema` in which neither the order of keywords nor that of properties counts."""
    if not isinstance(schema, Mapping):
        return by_value(schema)
    return frozenset((name, _keyword(name, value)) for name, value in schema.items())


def _keyword(name: str, value: object) -> Hashable:
    if name in _BY_NAME and isinstance(value, Mapping):
        return frozenset((key, json_schema_form(each)) for key, each in value.items())
    if name in _UNORDERED:
        return frozenset(map(by_value, _listed(value)))
    if name in _ALTERNATIVES:
        return frozenset(map(json_schema_form, _listed(value)))
    if name == "items" and isinstance(value, list | tuple):
        return tuple(map(json_schema_form, value))
    return json_schema_form(value)


# --- options


def validation(options: DocumentView) -> Document:
    """Complete the validation of a collection."""
    return {name: options.get(name) or default for name, default in VALIDATION.items()}


def collation_defaults(locale: str) -> Document:
    """List what the server adds to a collation that has a locale only."""
    region, _, variant = locale.partition("@collation=")
    language = region.partition("_")[0]
    is_search = variant.startswith("search")
    return {
        **_COLLATION,
        "caseFirst": "upper" if language in _UPPER_FIRST and not is_search else "off",
        "alternate": "shifted" if language in _SHIFTED else "non-ignorable",
        "normalization": language in _NORMALIZED or is_search,
        "backwards": region in _BACKWARDS,
    }


def collation_form(given: DocumentView | None) -> Hashable:
    """Complete a collation; None for the simple one. The version of ICU does not count."""
    if not given or given.get("locale") == "simple":
        return None
    whole = {**collation_defaults(given["locale"]), **given}
    return frozenset((name, by_value(value)) for name, value in whole.items() if name != "version")


def projection_form(given: DocumentView | None) -> Hashable:
    """Make a form of a `wildcardProjection`, which leaves out `_id` unless it says otherwise."""
    if not given:
        return None
    return frozenset({"_id": False, **dict(_paths(given))}.items())


def _paths(projection: DocumentView, prefix: str = "") -> Iterator[tuple[str, bool]]:
    for name, value in projection.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", bool(value)
