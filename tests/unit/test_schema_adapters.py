"""Declarations from the models of other libraries."""

from __future__ import annotations

import enum
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import mongoengine
import pytest
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    computed_field,
)

from flask_migrate_mongo.schema import Collection, Index, from_mongoengine, json_schema

WHOLE = ["int", "long"]


class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str = Field(max_length=20, pattern="^a")
    number: int = Field(gt=0)
    price: Decimal = Field(ge=Decimal("0.5"))


class Tree(BaseModel):
    trees: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclass
class Point:
    lon: float
    lat: float = 0.0


def schema(**fields: Any) -> dict[str, Any]:
    """Return the schema of a model with these fields."""
    model = type(
        "Model",
        (BaseModel,),
        {"__annotations__": fields, "model_config": ConfigDict(arbitrary_types_allowed=True)},
    )
    found: dict[str, Any] = json_schema(model)["$jsonSchema"]
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, {"bsonType": "string"}),
        (int, {"bsonType": WHOLE}),
        (float, {"bsonType": "double"}),
        (bool, {"bsonType": "bool"}),
        (Decimal, {"bsonType": "decimal"}),
        (datetime, {"bsonType": "date"}),
        (date, {"bsonType": "date"}),
        (timedelta, {}),
        (bytes, {"bsonType": "binData"}),
        (UUID, {"bsonType": "binData"}),
        (ObjectId, {"bsonType": "objectId"}),
        (Decimal128, {"bsonType": "decimal"}),
        (object, {}),
        (Colour, {"bsonType": "string", "enum": ["red", "blue"]}),
        (Literal["x"], {"bsonType": "string", "enum": ["x"]}),
        (int | None, {"bsonType": [*WHOLE, "null"]}),
        (int | str, {"bsonType": [*WHOLE, "string"]}),
        (list[str], {"bsonType": "array", "items": {"bsonType": "string"}}),
        (dict[str, int], {"bsonType": "object", "additionalProperties": {"bsonType": WHOLE}}),
        (
            tuple[int, str],
            {
                "bsonType": "array",
                "items": [{"bsonType": WHOLE}, {"bsonType": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (
            Annotated[int, Field(ge=1, lt=5)],
            {"bsonType": WHOLE, "minimum": 1, "maximum": 5, "exclusiveMaximum": True},
        ),
        (
            Annotated[float | None, Field(ge=0)],
            {"anyOf": [{"bsonType": "double", "minimum": 0}, {"bsonType": "null"}]},
        ),
        (
            Line,
            {
                "bsonType": "object",
                "properties": {
                    "sku": {"bsonType": "string", "maxLength": 20, "pattern": "^a"},
                    "number": {"bsonType": WHOLE, "minimum": 0, "exclusiveMinimum": True},
                    "price": {"bsonType": "decimal", "minimum": Decimal128("0.5")},
                },
                "required": ["sku", "number", "price"],
            },
        ),
        (
            Point,
            {
                "bsonType": "object",
                "properties": {"lon": {"bsonType": "double"}, "lat": {"bsonType": "double"}},
                "required": ["lon"],
            },
        ),
    ],
    ids=str,
)
def test_a_type_of_python_is_the_bson_type_in_which_pymongo_stores_it(
    kind: Any, expected: dict[str, Any]
) -> None:
    assert schema(field=kind) == {
        "bsonType": "object",
        "properties": {"field": expected},
        "required": ["field"],
    }


def test_a_model_that_forbids_other_fields_still_allows_the_id() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        email: str

    found = json_schema(Strict)["$jsonSchema"]
    assert found["additionalProperties"] is False
    assert found["properties"] == {"email": {"bsonType": "string"}, "_id": {}}


def test_the_id_keeps_its_type_and_a_field_with_a_default_is_not_required() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        id: ObjectId = Field(default_factory=ObjectId, alias="_id")
        name: str = "x"

    found = json_schema(Strict)["$jsonSchema"]
    assert found["properties"] == {"_id": {"bsonType": "objectId"}, "name": {"bsonType": "string"}}
    assert "required" not in found
    assert "id" in json_schema(Strict, by_alias=False)["$jsonSchema"]["properties"]


def test_a_model_that_contains_itself_ends_at_the_second_level() -> None:
    found = json_schema(Tree)["$jsonSchema"]
    assert found["properties"]["trees"] == {"bsonType": "array", "items": {"bsonType": "object"}}


def test_one_model_of_several_is_chosen_by_a_field() -> None:
    class Owner(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    pet = json_schema(Owner)["$jsonSchema"]["properties"]["pet"]
    assert list(pet) == ["oneOf"]
    assert [each["properties"]["kind"]["enum"] for each in pet["oneOf"]] == [["cat"], ["dog"]]


def test_a_class_that_bson_does_not_know_is_refused() -> None:
    with pytest.raises(Exception, match="Cannot generate"):
        schema(field=Thread)


class Thread:
    """A class of an application."""


def test_neither_pydantic_nor_mongoengine_is_imported_unless_it_is_used() -> None:
    code = "import sys, flask_migrate_mongo.schema as s; s.Collection('c'); s.from_mongoengine(); print({'pydantic', 'mongoengine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- mongoengine


class Base(mongoengine.Document):  # type: ignore[misc]
    code = mongoengine.StringField(unique=True)
    at = mongoengine.DateTimeField()
    meta: ClassVar[dict[str, Any]] = {
        "abstract": False,
        "allow_inheritance": True,
        "collection": "things",
        "indexes": [{"fields": ["at"], "expireAfterSeconds": 3600, "cls": False}],
    }


class Special(Base):
    place = mongoengine.PointField()
    meta: ClassVar[dict[str, Any]] = {"indexes": ["-place_name"]}
    place_name = mongoengine.StringField(db_field="pn")


class Log(mongoengine.Document):  # type: ignore[misc]
    text = mongoengine.StringField()
    meta: ClassVar[dict[str, Any]] = {
        "max_documents": 5,
        "index_opts": {"sparse": True},
        "indexes": [
            {"fields": ["$text"], "weights": {"text": 3}, "default_language": "german"},
            {
                "fields": ["text"],
                "name": "named",
                "partialFilterExpression": {"text": {"$exists": True}},
                "sparse": None,
            },
        ],
    }


def test_the_documents_of_mongoengine_are_the_collections_that_it_creates() -> None:
    things, log = from_mongoengine(Base, Log)
    assert things.name == "things"
    assert {each.label: each for each in things.indexes} == {
        "at_1": Index([("at", 1)], expire_after=3600),
        "code_1": Index([("code", 1)], unique=True),
        "_cls_1": Index("_cls"),
        "_cls_1_pn_-1": Index([("_cls", 1), ("pn", -1)]),
        "place_2dsphere": Index([("place", "2dsphere")]),
    }
    assert log == Collection(
        "log",
        [
            Index([("text", "text")], sparse=True, weights={"text": 3}, default_language="german"),
            Index([("text", 1)], name="named", partial={"text": {"$exists": True}}),
        ],
        options={"capped": True, "size": 10 * 1024 * 1024, "max": 5},
    )


def test_an_abstract_document_has_no_collection() -> None:
    class Abstract(mongoengine.Document):  # type: ignore[misc]
        meta: ClassVar[dict[str, Any]] = {"abstract": True}

    class Concrete(Abstract):
        meta: ClassVar[dict[str, Any]] = {"collection": "concrete"}

    assert [each.name for each in from_mongoengine(Abstract)] == ["concrete"]
    assert [each.name for each in from_mongoengine(Concrete)] == ["concrete"]


# --- what a model stores


def test_the_schema_of_a_model_is_that_of_what_it_dumps() -> None:
    class Price(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: str = Field(serialization_alias="_id")
        mail: str = Field(validation_alias=AliasChoices("email", "mail"))
        password: str = Field(exclude=True)
        net: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def gross(self) -> int:
            return self.net * 2

    stored = Price(id="1", mail="a", password="b", net=1).model_dump(by_alias=True)
    schema = json_schema(Price)["$jsonSchema"]
    assert set(schema["properties"]) == set(stored)
    assert set(schema["required"]) <= set(stored)


def test_alternatives_that_a_function_chooses_may_both_match() -> None:
    class Point(BaseModel):
        x: int

    class Line(Point):
        y: int = 0

    class Shape(BaseModel):
        form: Annotated[
            Annotated[Point, Tag("point")] | Annotated[Line, Tag("line")],
            Discriminator(lambda given: "line" if hasattr(given, "y") else "point"),
        ]

    form = json_schema(Shape)["$jsonSchema"]["properties"]["form"]
    assert "oneOf" not in form
    assert len(form["anyOf"]) == 2
