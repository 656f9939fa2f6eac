"""What the model is told of JSON schemas as pydantic and MCP servers write them."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlx_oss
from mlx_oss.harmony import BROWSER, PYTHON, DeveloperContent, Message, SystemContent, ToolDescription
from mlx_oss.harmony.schemas import simplified, with_simplified_schemas
from mlx_oss.harmony.typescript import type_of
from mlx_oss.tokenizer import load_tokenizer

from . import oracle
from .strategies import examples, json_values, object_schemas, union_schemas, words

DEFINITIONS = {
    "Place": {"type": "object", "title": "Place", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    "Node": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}, "all": {"$ref": "#/$defs/Nodes"}},
    },
    "Nodes": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
    "Loop": {"$ref": "#/$defs/Loop"},
    "a/b~c d": {"type": "boolean"},
    "Anchored": {"$anchor": "here", "type": "boolean"},
    "Draft06": {"$id": "#there", "type": "boolean"},
    "Draft04": {"id": "#then", "type": "boolean"},
    "Document": {"$id": "other.json", "type": "boolean", "$defs": {"Text": {"type": "string"}}},
}
NUMBER, STRING = {"type": "number"}, {"type": "string"}
NAME = {"type": "string", "description": "a name"}
PLACE = "{\n    x: number,\n    }"


def told(schema: dict[str, Any]) -> str:
    """The TypeScript of an argument `a` with this schema."""
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": DEFINITIONS}
    text = type_of(simplified(whole))
    assert text.startswith("{\n") and text.endswith(",\n}")
    return text[2:-3].removeprefix("a: ")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # references
        ({"$ref": "#/$defs/Place"}, PLACE),
        ({"$ref": "#/$defs/Place", "description": "where"}, "// where\na:     // where\n" + PLACE),
        ({"$ref": "#/$defs/a~1b~0c%20d"}, "boolean"),
        ({"$ref": "#/$defs/Node"}, "{\n    name?: string,\n    next?: object,\n    all?: object[],\n    }"),
        ({"$ref": "#/$defs/Loop"}, "any"),
        ({"$ref": "#/$defs/Nowhere"}, "any"),
        ({"$ref": "#here"}, "boolean"),
        ({"$ref": "#there"}, "boolean"),
        ({"$ref": "#then"}, "boolean"),
        ({"$ref": "#nowhere"}, "any"),
        ({"$ref": "other.json"}, "boolean"),
        ({"$ref": "other.json#/$defs/Text"}, "string"),
        ({"$ref": "nowhere.json#/$defs/Place"}, "any"),
        ({"$ref": "https://example.org/a.json"}, "any"),
        ({"$ref": 7}, "any"),
        ({"type": "array", "items": {"$ref": "#/$defs/Place"}}, PLACE + "[]"),
        # unions
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "number | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        (
            {"anyOf": [{"const": "a"}, {"const": 2}, {"type": "array", "items": {"type": "string"}}]},
            '"a" | 2 | string[]',
        ),
        (
            {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "boolean"}]},
            "string | null | boolean",
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
            "a:\n | {\n   x: number,\n   }\n | null\n",
        ),
        (
            {"anyOf": [{"type": "string", "description": "a name"}, {"type": "null"}]},
            "a:\n | string // a name\n | null\n",
        ),
        ({"anyOf": [NAME]}, "// a name\na: string"),
        ({"type": "string", "anyOf": [{"format": "date"}, {"format": "time"}]}, "string"),
        ({"type": ["array", "null"], "items": {"type": "string"}}, "string[] | null"),
        ({"type": ["object", "null"], "additionalProperties": {"type": "string"}}, "Record<string, string> | null"),
        ({"anyOf": "no list", "type": "string"}, "string"),
        ({"oneOf": [{"type": "null"}, {"const": 3}]}, "a:\n | null\n | 3\n"),
        # parts that hold together
        ({"allOf": [{"$ref": "#/$defs/Place"}]}, PLACE),
        ({"allOf": [{"$ref": "#/$defs/Place"}], "description": "where"}, "// where\na:     // where\n" + PLACE),
        (
            {"allOf": [{"$ref": "#/$defs/Place"}, {"properties": {"y": {"type": "string"}}, "required": ["y"]}]},
            "{\n    x: number,\n    y: string,\n    }",
        ),
        ({"allOf": [{"type": "string"}, {"minLength": 3}]}, "string"),
        # values
        ({"const": "a"}, '"a"'),
        ({"const": None}, "null"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"enum": [1, 2, 3]}, "1 | 2 | 3"),
        ({"type": "integer", "enum": [1, 2, 3]}, "1 | 2 | 3"),
        ({"enum": ["a", 1, True, None]}, '"a" | 1 | true | null'),
        ({"type": ["string", "null"], "enum": ["a", None]}, '"a" | null'),
        # a missing type
        ({"properties": {"x": {"minimum": 1}}}, "{\n    x?: number,\n    }"),
        ({"items": {"pattern": "a"}}, "string[]"),
        # dicts, lists and tuples
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "Record<string, number>"),
        ({"type": "object", "additionalProperties": True}, "Record<string, any>"),
        ({"type": "object", "additionalProperties": False}, "{\n    }"),
        ({"type": "object", "patternProperties": {"^x": {"type": "string"}}}, "Record<string, string>"),
        (
            {"type": "object", "additionalProperties": {"type": "boolean"}, "propertyNames": {"enum": ["a", "b"]}},
            'Record<"a" | "b", boolean>',
        ),
        (
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/Place"}},
            "{\n    [key: string]: {\n        x: number,\n        },\n    }",
        ),
        (
            {"type": "object", "properties": {"x": {"type": "null"}}, "additionalProperties": {"type": "string"}},
            "{\n    x?: null,\n    [key: string]: string,\n    }",
        ),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, 'Array<"a" | "b">'),
        ({"type": "array", "items": {"type": ["string", "integer"]}}, "Array<string | number>"),
        ({"type": "array", "prefixItems": [NUMBER, STRING], "minItems": 2}, "[number, string]"),
        (
            {"type": "array", "prefixItems": [NUMBER, STRING], "minItems": 1},
            "[number, string?]",
        ),
        (
            {"type": "array", "items": [NUMBER], "additionalItems": STRING},
            "[number, ...Array<string>]",
        ),
        ({"type": "array", "prefixItems": [{"$ref": "#/$defs/Place"}] * 2}, PLACE + "[]"),
        # OpenAPI: which properties go together
        (
            {
                "type": "object",
                "properties": {"x": {"type": "string"}},
                "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
            },
            "{\n    x?: string,\n    }",
        ),
        (
            {
                "type": "object",
                "properties": {"x": {"type": "string"}},
                "oneOf": [{"properties": {"y": {"const": 1}}}, {"properties": {"z": {"const": 2}}, "required": ["x"]}],
            },
            "a:\n | {\n   y?: 1,\n   x?: string,\n   }\n | {\n   z?: 2,\n   x: string,\n   }\n",
        ),
    ],
    ids=str,
)
def test_a_schema_is_told_as_far_as_the_format_can_say(schema, text):
    assert told(schema) == text


class Kind(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Inner(pydantic.BaseModel):
    size: int = pydantic.Field(gt=0)
    label: str | None = None


class Tree(pydantic.BaseModel):
    name: str
    kids: list[Tree] = []


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    age: int


LEAVES: list[Any] = [int, str, float, bool, None, Any, Kind, Level, Inner, Tree, decimal.Decimal, pathlib.Path]
LEAVES += [datetime.date, Literal[1, 2, 3], Literal["a"], Annotated[int, pydantic.Field(ge=1, description="a size")]]
LEAVES += [Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]]
hints = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda hint: list[hint]),
        inner.map(lambda hint: dict[str, hint]),
        inner.map(lambda hint: dict[Kind, hint]),
        inner.map(lambda hint: Optional[hint]),  # noqa: UP045
        st.tuples(inner, inner).map(lambda two: Union[two]),  # noqa: UP007
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        inner.map(lambda hint: tuple[hint, ...]),
    ),
    max_leaves=4,
)
models = st.dictionaries(st.sampled_from(["a", "b_c", "limit"]), st.tuples(hints, st.booleans()), min_size=1).map(
    lambda fields: pydantic.create_model(
        "Args", **{name: (hint, ... if needed else None) for name, (hint, needed) in fields.items()}
    )
)
keywords = st.sampled_from(
    "type properties items prefixItems required anyOf oneOf allOf $ref const enum additionalProperties default".split()
)
strange_schemas = st.recursive(
    json_values | st.sampled_from(["#/$defs/Place", "#/$defs/Node", "object", "array", "#", "#/properties/a"]),
    lambda inner: st.dictionaries(keywords, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


def assert_rendered_as_openai_harmony_does(schema: Any) -> None:
    tools = (ToolDescription("f", "", schema),)
    message = Message("developer", DeveloperContent.with_functions(None, tools))
    ours = mlx_oss.harmony.render_message(message, functions=True)
    assert load_tokenizer().decode(ours) == load_tokenizer().decode(oracle.render([message]))


@examples(60)
@given(models)
def test_what_pydantic_writes_is_told_without_losses(model):
    schema = simplified(model.model_json_schema())
    assert_rendered_as_openai_harmony_does(schema)
    text = type_of(schema)
    has_any = "Any" in str(model.__annotations__) or any(
        "Any" in str(f.annotation) for f in model.model_fields.values()
    )
    assert has_any or "any" not in text
    assert type_of(simplified(schema)) == text


@examples(200)
@given(strange_schemas)
def test_schemas_of_any_shape_are_told_in_a_form_that_openai_harmony_writes_alike(schema):
    whole = {"type": "object", "properties": {"a": schema}, "$defs": DEFINITIONS}
    simple = simplified(whole)
    assert_rendered_as_openai_harmony_does(simple)
    assert type_of(simplified(simple)) == type_of(simple)


plain_schemas = st.recursive(
    st.sampled_from(["string", "number", "integer", "boolean"]).map(lambda kind: {"type": kind})
    | st.just({"type": "string", "enum": ["a", "b"]})
    | st.just({"type": ["string", "null"], "default": None})
    | st.just({"type": "object"})
    | st.just({"type": "array"}),
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": {"type": "object", "properties": {"x": one}}}),
        st.dictionaries(words, inner, max_size=3).map(
            lambda some: {"type": "object", "properties": some, "required": list(some)[:1], "description": "about"}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"oneOf": some, "description": "one of"}),
    ),
    max_leaves=6,
)


@examples(200)
@given(plain_schemas)
def test_a_schema_that_says_all_in_harmonys_own_keywords_is_told_as_it_is(schema):
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    assert type_of(simplified(whole)) == type_of(whole)


@examples(100)
@given(union_schemas | object_schemas)
def test_no_schema_raises(schema):
    type_of(simplified(schema))


def doubling(levels: int) -> dict[str, Any]:
    """A schema of two references to a schema of two references, and so on."""
    pair = {f"d{n}": {"properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "ab"}} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": pair | {f"d{levels}": {"type": "string"}}}


def alternatives(levels: int) -> dict[str, Any]:
    """Unions beside properties, each in a property of the other."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]}
    return schema


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(levels):
        schema = {"allOf": [schema]} if level % 2 else {"anyOf": [schema, {"type": "null"}]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        doubling(40),
        alternatives(25),
        nested(200),
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#/anyOf/0"}]},
        {"$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(10_000)}, "$ref": "#/$defs/0"},
        {"allOf": [{"properties": {"a": {"$ref": "#"}}}] * 5000},
    ],
    ids=range(8),
)
def test_what_would_grow_without_end_is_bounded(schema):
    assert len(type_of(simplified(schema))) < 100_000


def test_the_builtin_tools_are_told_as_they_are():
    message = Message("system", SystemContent(tools=(BROWSER, PYTHON)))
    assert mlx_oss.harmony.render_message(with_simplified_schemas(message)) == mlx_oss.harmony.render_message(message)
    plain = Message("user", ("a", "b"))
    assert with_simplified_schemas(plain) == plain


def test_a_session_tells_the_simplified_schema_and_keeps_the_whole_one():
    def search(limit: Literal[1, 2, 3], where: Inner | None = None) -> None: ...

    own = ToolDescription("find", "", {"properties": {"a": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"const": 3}}})
    engine = mlx_oss.ScriptedEngine("Hi")
    session = mlx_oss.ChatSession(engine, load_tokenizer(), tools=[search, own])
    session.ask("Hi")
    prompt = load_tokenizer().decode(engine.requests[0].prompt)
    assert "limit: 1 | 2 | 3," in prompt and "size: number," in prompt and "a?: 3," in prompt
    assert session.tools[1].parameters == own.parameters
