"""Functions as tools: how they are described to the model, and what happens to the arguments it writes."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import pathlib
import subprocess
import sys
import typing
import urllib.request
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    LiteralString,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import jsonschema
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import ReadOnly, TypeAliasType

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import ToolDescription
from mlx_oss.harmony.typescript import type_of
from mlx_oss.tools import Tool, tool_from
from mlx_oss.tools.hints import parse_docstring
from mlx_oss.tools.schemas import JsonType
from mlx_oss.tools.toolset import Toolset

if TYPE_CHECKING:
    from nowhere import Table


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Place:
    """Somewhere.

    Attributes:
        name: as on a map
        height: above the sea
    """

    name: str
    height: float = 0.0


class Level(enum.Enum):
    LOW = enum.auto()
    HIGH = enum.auto()


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Some(TypedDict, total=False):
    a: Required[int]
    b: int | None


@dataclasses.dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n <= 0:
            raise ValueError("n must be positive")


UserId = NewType("UserId", int)


class Options(TypedDict):
    lines: int
    colour: NotRequired[Colour]


@dataclasses.dataclass
class Node:
    name: str
    nodes: list[Node] = dataclasses.field(default_factory=list)
    beside: Node | None = None


class Linked(TypedDict):
    next: NotRequired[dict[str, Linked]]


class Inner(pydantic.BaseModel):
    size: int = pydantic.Field(gt=0)


class Outer(pydantic.BaseModel):
    inner: Inner
    more: list[Inner] = []


class Tree(pydantic.BaseModel):
    leaves: list[Tree] = []


class Qualified(TypedDict):
    a: Annotated[Required[int], "first"]
    b: Annotated[NotRequired[str], "second"]
    c: NotRequired[ReadOnly[int]]


T = TypeVar("T")


@dataclasses.dataclass
class Pair(Generic[T]):
    """Two.

    Attributes:
        left: the first
    """

    left: T
    right: list[T] = dataclasses.field(default_factory=list)
    inside: Pair[T] | None = None


class Named(NamedTuple, Generic[T]):
    value: T


def weather(city: str, days: int = 3, unit: Literal["celsius", "fahrenheit"] = "celsius", where: str | None = None):
    """Tells the weather.

    It is made up.

    Args:
        city: the name
            of a city
        days (int): how many
        unit: of the temperature

    Returns:
        words: not an argument
    """
    return [city, days, unit, where]


def test_a_function_is_described_by_its_hints_and_docstring():
    assert tool_from(weather).description == ToolDescription(
        "weather",
        "Tells the weather.\n\nIt is made up.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "the name of a city"},
                "days": {"type": "integer", "description": "how many", "default": 3},
                "unit": {
                    "type": "string",
                    "enum": ["celsius", "fahrenheit"],
                    "description": "of the temperature",
                    "default": "celsius",
                },
                "where": {"type": "string"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    )


@pytest.mark.parametrize(
    "docstring",
    [
        "Does it.\n\nArgs:\n    a: first\n        one\n    b (int, optional): second\n",
        "Does it.\n\n  Parameters\n  ----------\n  a : int\n      first one\n  b : str, optional\n      second\n",
        "Does it.\n\n:param a: first\n    one\n:param int b: second\n:returns: c\n",
        "Does it.\n\nArguments:\n  a: first one\n  b: second\n\nRaises:\n  c: not this\n",
        "Does it.\n\nArgs:\n    a:\n        first one\n    b (int):\n        second\n",
        "Does it.\n\nParameters\n----------\na : int\n    first one\nb\n    second\n\nSee Also\n--------\nc : other\n",
    ],
)
def test_arguments_are_described_in_all_usual_styles(docstring):
    assert parse_docstring(docstring) == ("Does it.", {"a": "first one", "b": "second"})


@pytest.mark.parametrize(
    ("docstring", "texts"),
    [
        ("Args:\n    a: first\n\nRaises:\n    ValueError\n", {"a": "first"}),  # without a colon
        (":param str | None a: first\n:param dict[str, int] b: second\n:type a: str\n", {"a": "first", "b": "second"}),
        ("Args:\n    a: first\n\n:param b: second\n", {"a": "first", "b": "second"}),
        (":param a: first\n\nParameters\n---\nb : int\n    second\n", {"a": "first", "b": "second"}),
        ("Parameters\n----------\nb\n    second\n\nArgs:\n    a: first\n", {"a": "first", "b": "second"}),
        ("Args:\n\t`a`, b: one of: x, y\n\t**größe: 名\n", {"a": "one of: x, y", "b": "one of: x, y", "größe": "名"}),
    ],
)
def test_a_section_that_cannot_be_read_leaves_the_others_alone(docstring, texts):
    assert parse_docstring("Does it.\n\n" + docstring) == ("Does it.", texts)


def test_what_stands_behind_a_section_belongs_to_the_whole():
    after = "Does it.\n\nArgs:\n    a: first\n\nThe result is in Celsius.\n\nWarning:\n    It is slow.\n"
    assert parse_docstring(after) == (
        "Does it.\n\nThe result is in Celsius.\n\nWarning:\n    It is slow.",
        {"a": "first"},
    )
    assert parse_docstring("Does it.\n\n:param a: first\n    one\n\nAnd so on.") == (
        "Does it.\n\nAnd so on.",
        {"a": "first one"},
    )


def test_numpys_style_has_several_names_for_one_text():
    numpy = "Does it.\n\nParameters\n----------\na, b : int\n    sides\n*rest\n    others\n"
    assert parse_docstring(numpy) == ("Does it.", {"a": "sides", "b": "sides", "rest": "others"})


def test_a_docstring_without_sections_is_all_summary():
    assert parse_docstring("One: two.\n\nExamples of this\nare rare.") == (
        "One: two.\n\nExamples of this\nare rare.",
        {},
    )
    assert parse_docstring(None) == ("", {})


VALUES: list[tuple[Any, dict[str, Any], Any, Any]] = [
    (str, {"type": "string"}, "a", "a"),
    (int, {"type": "integer"}, 3, 3),
    (float, {"type": "number"}, 3, 3.0),
    (bool, {"type": "boolean"}, True, True),
    (int | None, {"type": ["integer", "null"]}, None, None),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b"),
    (Colour, {"type": "string", "enum": ["red", "blue"]}, "blue", Colour.BLUE),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1, 2], [1, 2]),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}, [1, 2], (1, 2)),
    (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["a"], {"a"}),
    (
        tuple[int, str],
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        [1, "a"],
        (1, "a"),
    ),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": 1}),
    (list, {"type": "array"}, [1, "a"], [1, "a"]),
    (
        Place,
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "as on a map"},
                "height": {"type": "number", "description": "above the sea"},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
        {"name": "Rome"},
        Place("Rome"),
    ),
    (
        Options,
        {
            "type": "object",
            "properties": {"lines": {"type": "integer"}, "colour": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["lines"],
            "additionalProperties": False,
        },
        {"lines": 1, "colour": "red"},
        {"lines": 1, "colour": Colour.RED},
    ),
    (datetime.date, {"type": "string", "format": "date"}, "2026-01-15", datetime.date(2026, 1, 15)),
    (Any, {}, {"a": [1]}, {"a": [1]}),
    (Annotated[int, "of the year"], {"type": "integer", "description": "of the year"}, 7, 7),
    (
        Place | list[int],
        {"oneOf": [JsonType(Place).schema, {"type": "array", "items": {"type": "integer"}}]},
        [3],
        [3],
    ),
    (int | str, {"type": ["integer", "string"]}, "3", "3"),
    (UserId, {"type": "integer"}, 3, 3),
    (Level, {"type": "string", "enum": ["LOW", "HIGH"]}, "HIGH", Level.HIGH),
    (Literal[Colour.RED, "none"], {"type": "string", "enum": ["red", "none"]}, "red", Colour.RED),
    (Literal[1, 2], {"type": "integer", "enum": [1, 2]}, 2.0, 2),
    (
        dict[Colour, int],
        {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "propertyNames": {"enum": ["red", "blue"]},
        },
        {"red": 1},
        {Colour.RED: 1},
    ),
    (
        dict[int, str],
        {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "propertyNames": {"pattern": "^-?(0|[1-9][0-9]*)$"},
        },
        {"3": "a", "-12": "b"},
        {3: "a", -12: "b"},
    ),
    (
        Point,
        {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        },
        {"x": 1},
        Point(1.0),
    ),
    (pathlib.Path, {"type": "string", "format": "path"}, "a/b", pathlib.Path("a/b")),
    (decimal.Decimal, {"type": "number"}, 0.1, decimal.Decimal("0.1")),
    (datetime.time, {"type": "string", "format": "time"}, "12:30:00", datetime.time(12, 30)),
    (uuid.UUID, {"type": "string", "format": "uuid"}, str(uuid.UUID(int=5)), uuid.UUID(int=5)),
]


@pytest.mark.parametrize(("hint", "schema", "value", "made"), VALUES, ids=[str(value[0]) for value in VALUES])
def test_a_hint_has_a_schema_and_makes_the_value_it_promises(hint, schema, value, made):
    assert JsonType(hint).schema == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)
    assert JsonType(hint).read(value, "x") == made and type(JsonType(hint).read(value, "x")) is type(made)


JSON = st.recursive(
    st.sampled_from([None, True, 3, 3.5, "a", "red", "HIGH", "name", "-7", -1, 2.0, 1e20]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "height", "lines", "colour", "a", "x", "3", "red"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("hint", [value[0] for value in VALUES], ids=[str(value[0]) for value in VALUES])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_the_schema_allows_is_what_is_accepted(hint, data):
    """jsonschema decides. It does not check formats, so hints with a format are left out."""
    json_type, validator = types_and_validators(hint)
    value = data.draw(JSON | st.sampled_from([value[2] for value in VALUES]))
    try:
        json_type.read(value, "x")
        accepted = True
    except ValueError:
        accepted = False
    if "format" in json_type.schema or accepted == validator.is_valid(value):
        return
    assert accepted, value
    assert "set" in str(hint), value  # where a repeated item does no harm


@functools.cache
def types_and_validators(hint):
    json_type = JsonType(hint)
    return json_type, jsonschema.Draft202012Validator(json_type.schema)


@pytest.mark.parametrize(
    ("hint", "wrong"),
    [
        (int, [True, "3", 3.5, math.inf, None]),
        (float, [True, "3"]),
        (str, [3, True]),
        (bool, [1, 0.0, "true"]),
        (Literal[1, 2], [True, "1", 3]),
        (Literal[True], [1, 1.0]),
        (dict[int, int], [{"a": 1}, {"01": 1}, {"1": True}]),
        (decimal.Decimal, ["1.5", True, math.nan]),
        (datetime.datetime, ["1", "1768435200", 1, 1.5, True]),
        (datetime.date, ["1768435200", "2026-01-15T00:00:00", 0]),
        (datetime.time, ["1", 1]),
        (datetime.timedelta, [1]),
        (set[int], [[True], {"a": 1}]),
        (Final[int], [True]),
        (TypeVar("B", bound=int), [True]),
        (TypeVar("C", int, str), [True]),
        (LiteralString, [3]),
        (Pair[int], [{"left": True}, {"left": 1, "more": 2}, {"left": 1, "inside": {"left": "a"}}]),
    ],
)
def test_numbers_texts_and_booleans_do_not_become_each_other(hint, wrong):
    for value in wrong:
        with pytest.raises(ValueError, match="x"):
            JsonType(hint).read(value, "x")


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (Any, {"a": [3.0, 3]}, {"a": [3.0, 3]}),
        (list[int], [3.0, 1e20, 10**30], [3, 10**20, 10**30]),
        (float | int, 3, 3),
        (decimal.Decimal, 3.0, decimal.Decimal("3.0")),
        (datetime.date, "20260115", datetime.date(2026, 1, 15)),
        (datetime.datetime, "2026-01-15T10:00:00Z", datetime.datetime(2026, 1, 15, 10, tzinfo=datetime.UTC)),
        (dict[Literal[1, 2], int], {"1": 3}, {1: 3}),
        (dict[bool, int], {"true": 3}, {True: 3}),
        (dict[decimal.Decimal, int], {"1.5": 3}, {decimal.Decimal("1.5"): 3}),
        (Annotated[set[str], pydantic.BeforeValidator(lambda items: [*items, "c"])], ["a"], {"a", "c"}),
        (Pair[Colour], {"left": "red", "right": ["blue"]}, Pair(Colour.RED, [Colour.BLUE])),
        (Named[int], {"value": 3.0}, Named(3)),
        (TypeAliasType("alias", dict[str, T], type_params=(T,))[int], {"a": 3.0}, {"a": 3}),
        (TypeAliasType("tree", "int | list[tree]"), [1, [2]], [1, [2]]),  # noqa: F821
        (typing.Tuple, [1, "a"], (1, "a")),  # noqa: UP006
        (collections.ChainMap[str, int], {"a": 1}, {"a": 1}),
        (Iterator[int], [1], [1]),
        (Generator[int, None, None], [1], [1]),
    ],
)
def test_a_value_is_converted_to_what_the_hint_promises(hint, value, made):
    read = JsonType(hint).read(value, "x")
    assert read == made and (repr(read) == repr(made) or isinstance(made, set))
    jsonschema.validate(value, JsonType(hint).schema)


def test_models_keep_their_own_validators():
    class When(pydantic.BaseModel):
        date: datetime.date
        tags: set[str]

        @pydantic.model_validator(mode="before")
        @classmethod
        def _with_tags(cls, value):
            return {"tags": value.pop("tag").split(","), **value}

    assert JsonType(When).read({"date": "2026-01-15", "tag": "a,b"}).tags == {"a", "b"}


@pytest.mark.parametrize("error", [TypeError("bad"), KeyError("bad"), ValueError("bad"), AssertionError()])
def test_an_error_of_a_class_is_a_sentence(error):
    @dataclasses.dataclass
    class Failing:
        def __post_init__(self):
            raise error

    with pytest.raises(ValueError, match=r"bad|`x`: is not valid"):
        JsonType(Failing).read({}, "x")


def test_limits_are_in_the_schema_and_leave_null_alone():
    def f(a: Annotated[int | None, pydantic.Field(ge=1, lt=5, multiple_of=2)] = 2) -> None: ...

    schema = tool_from(f).description.parameters["properties"]["a"]["oneOf"][0]
    assert (schema["minimum"], schema["exclusiveMaximum"], schema["multipleOf"]) == (1, 5, 2)
    assert tool_from(f).arguments('{"a": null}') == {"a": None}
    with pytest.raises(ToolError, match="`a` must be greater than or equal to 1, not 0"):
        tool_from(f).arguments('{"a": 0}')


def test_qualifiers_count_inside_annotations_too():
    schema = JsonType(Qualified).schema
    assert schema["required"] == ["a"]
    assert schema["properties"]["b"] == {"type": "string", "description": "second"}


class Model(pydantic.BaseModel):
    far: float = math.inf
    near: int = pydantic.Field(3, title="in metres")


def test_every_default_can_be_rendered():
    def f(a: Model, b: float = math.nan, c: int = 10**400, d: int = 3) -> None: ...

    rendered = type_of(tool_from(f).description.parameters)
    assert rendered.count("default") == 2 and "// in metres" in rendered and "Model" not in rendered


def test_unknown_classes_allow_anything():
    class Table: ...

    for hint in (Table, Callable[[int], str], type[int], pydantic.JsonValue):
        assert JsonType(hint).schema == {}
        assert JsonType(hint).read({"a": [1]}, "x") == {"a": [1]}
    assert JsonType(list[Table]).schema == {"type": "array"}
    assert JsonType(dict[str, Table]).schema == {"type": "object"}


def test_lists_and_dicts_of_abstract_types_are_made():
    assert JsonType(Iterable[Colour]).read(["red"], "x") == [Colour.RED]
    assert JsonType(Sequence[int]).read([1], "x") == [1]
    assert JsonType(Mapping[int, Place]).read({"3": {"name": "Rome"}}, "x") == {3: Place("Rome")}


def test_texts_of_annotations_and_pydantics_fields_are_descriptions_at_any_depth():
    assert JsonType(list[Annotated[str, "a city"]]).schema["items"] == {"type": "string", "description": "a city"}
    limited = Annotated[int, pydantic.Field(ge=1, description="a size")]
    assert JsonType(limited).schema == {"type": "integer", "minimum": 1, "description": "a size"}

    def f(year: Annotated[int, "of birth"] | None = None, where: Annotated[Place, "of birth"] = ROME) -> None: ...

    properties = tool_from(f).description.parameters["properties"]
    assert properties["year"] == {"type": "integer", "description": "of birth"}
    assert properties["where"] == JsonType(Place).schema | {"description": "of birth"}


def test_a_type_alias_is_the_type_that_it_names():
    alias = TypeAliasType("alias", list[Level])
    assert JsonType(alias).schema == JsonType(list[Level]).schema
    assert JsonType(dict[str, alias]).read({"a": ["LOW"]}, "x") == {"a": [Level.LOW]}


def test_choices_of_pydantic_can_be_rendered_by_harmony():
    """harmony renders `oneOf` and `enum`, not `anyOf` and `const`."""

    class Cat(pydantic.BaseModel):
        kind: Literal["cat"]
        lives: int | None = None

    class Dog(pydantic.BaseModel):
        kind: Literal["dog"]

    schema = JsonType(Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]).schema
    assert [choice["properties"]["kind"]["enum"] for choice in schema["oneOf"]] == [["cat"], ["dog"]]
    assert schema["oneOf"][0]["properties"]["lives"] == {"type": ["integer", "null"], "default": None}
    assert not {"anyOf", "const", "title", "discriminator"} & set(json.dumps(schema).replace('"', " ").split())


@pytest.mark.parametrize(
    ("hint", "value", "sentence"),
    [
        (int | str, [1], "`x` must be a whole number or a text, not [1]"),
        (list[Place] | int, [{"name": 1}], "`x[0].name` must be a text, not 1, or `x` must be a whole number, not "),
        (dict[int, str], {"a": "b"}, 'the key `x.a` must be a whole number, not "a"'),
        (Place, {"nam": "Rome"}, "`x.name` is missing; `x.nam` is unknown"),
        (Place, {"name": "Rome", "height": "2"}, '`x.height` must be a number, not "2"'),
        (tuple[int, str], [1, 2, 3], "`x` must have at most 2 items, not 3"),
        (datetime.date, "2026-02-30", '`x` must be a valid date in the format YYYY-MM-DD, not "2026-02-30"'),
        (Positive, {"n": -1}, "`x`: n must be positive"),
        (bool, "yes", '`x` must be true or false, not "yes"'),
        (Level, "MEDIUM", "`x` must be 'LOW' or 'HIGH', not \"MEDIUM\""),
    ],
)
def test_a_wrong_value_is_described_by_place_and_content(hint, value, sentence):
    with pytest.raises(ValueError, match="x") as caught:
        JsonType(hint).read(value, "x")
    assert str(caught.value).startswith(sentence)


def test_a_value_that_is_nested_too_deeply_is_wrong():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        JsonType(Any).read(deep)
    for brackets in (250, 900):
        with pytest.raises(ToolError, match="the value is nested too deeply"):
            tool_from(weather).arguments('{"city": ' + "[" * brackets + "]" * brackets + "}")
    with pytest.raises(ValueError, match=r"`x` must be valid JSON|`x`: Invalid JSON"):
        JsonType(pydantic.Json).read("[", "x")


def test_lone_surrogates_become_question_marks():
    own = Tool(ToolDescription("f", "", {"type": "object"}), lambda **values: values)
    text = r'{"a\udc00": ["\ud800", {"b": "\ud83d\ude00"}], "c": 1.5e300, "d": "\u00e9"}'
    assert own.arguments(text) == {"a?": ["?", {"b": "\U0001f600"}], "c": 1.5e300, "d": "é"}
    assert tool_from(weather).arguments(r'{"city": "a\ud800\ud83d\ude00"}') == {"city": "a?\U0001f600"}


@pytest.mark.parametrize(
    "text",
    [
        '{"city": ' + "9" * 5000 + "}",
        '{"city": "Oslo", "days": [' + "1," * 100_000 + "1]}",
        '{"city": "Oslo", "days": "' + "x" * 1_000_000 + '"}',
        '{"city": "Oslo", "' + "x" * 1_000_000 + '": 1}',
        '{"city": "Oslo", "a\\nb": 1}',
        '{"city": "Oslo", "days": NaN}',
        '{"city": "Oslo", "days": 1e400}',
        "\x00",
    ],
    ids=range(8),
)
def test_the_sentence_about_wrong_arguments_is_short(text):
    with pytest.raises(ToolError) as caught:
        tool_from(weather).arguments(text)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_pydantic_models_are_taken_with_their_definitions_put_in_place():
    schema = JsonType(Outer).schema
    assert "$defs" not in json.dumps(schema) and "$ref" not in json.dumps(schema)
    assert JsonType(Outer).read({"inner": {"size": 2}}, "x") == Outer(inner=Inner(size=2))
    with pytest.raises(ValueError, match=r"`x\.inner\.size` must be greater than 0, not 0"):
        JsonType(Outer).read({"inner": {"size": 0}}, "x")
    assert JsonType(Tree).schema["properties"]["leaves"]["items"] == {"type": "object"}


def test_what_contains_itself_is_described_once_and_checked_all_the_way_down():
    described = JsonType(Node).schema["properties"]
    assert described["nodes"]["items"] == {"type": "object"} and described["beside"] == {"type": "object"}
    assert JsonType(Linked).schema["properties"]["next"]["additionalProperties"] == {"type": "object"}
    assert JsonType(list[Node | Place]).schema["items"]["oneOf"] == [JsonType(Node).schema, JsonType(Place).schema]
    made = JsonType(Node).read({"name": "a", "nodes": [{"name": "b", "beside": {"name": "c"}}]}, "x")
    assert made == Node("a", [Node("b", beside=Node("c"))])
    with pytest.raises(ValueError, match=r"`x.nodes\[0\].name` is missing"):
        JsonType(Node).read({"name": "a", "nodes": [{}]}, "x")


ROME = Place("Rome")
NOTED = Annotated[int, {"unit": "m"}]  # not hashable


@pytest.mark.parametrize(
    ("hint", "value"),
    [(list[NOTED], [1]), (dict[str, list[NOTED]], {"a": [1]}), (list[NOTED] | None, None), (list[NOTED] | str, "a")],
)
def test_a_hint_may_have_annotations_of_any_kind(hint, value):
    def f(a, b=None) -> None: ...

    f.__annotations__ = {"a": hint, "b": hint | float | None}
    tool = tool_from(f)
    assert tool.arguments(json.dumps({"a": value})) == {"a": value}
    jsonschema.validate({"a": value}, tool.description.parameters)


@dataclasses.dataclass
class Unknown:
    a: DoesNotExist  # noqa: F821


HINTS = ["does_not_exist", "1 +", "int.nothing", "1 / 0", Unknown, 5, [int], {}, {"a": 1}, list[5]]


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_a_hint_that_cannot_be_read_is_an_option_error(hint):
    def f(a) -> None: ...

    f.__annotations__ = {"a": hint}
    with pytest.raises(OptionError, match="the tool f has hints that cannot be read"):
        tool_from(f)


def test_pydantic_is_imported_only_when_a_function_becomes_a_tool():
    program = (
        "import sys\nimport mlx_oss.tools, mlx_oss.tools.calls, mlx_oss.cli\n"
        "from mlx_oss.harmony import ToolDescription\n"
        "mlx_oss.tools.Tool(ToolDescription('f', ''), lambda: 1).arguments('')\n"
        "assert not {'pydantic', 'docstring_parser'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_arguments_are_parsed_checked_and_converted():
    assert tool_from(weather).arguments('{"city": "Oslo", "days": 2.0, "where": null}') == {
        "city": "Oslo",
        "days": 2,
        "where": None,
    }
    assert tool_from(lambda: 3, name="three").arguments("") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"city": "Oslo"', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('["Oslo"]', "one JSON object"),
        ("{}", "`city` is missing"),
        ('{"city": 3}', "`city` must be a text, not 3"),
        ('{"city": "Oslo", "days": "two"}', '`days` must be a whole number, not "two"'),
        ('{"city": "Oslo", "days": true}', "`days` must be a whole number, not true"),
        ('{"city": "Oslo", "unit": "kelvin"}', "`unit` must be 'celsius' or 'fahrenheit', not \"kelvin\""),
        ('{"city": "Oslo", "country": "Norway"}', "`country` is unknown; there are: `city`, `days`, `unit`, `where`"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(text, sentence):
    with pytest.raises(ToolError) as caught:
        tool_from(weather).arguments(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{}", "`a` is missing"), ('{"a": 1}', "`a`: 1 is not of type 'string'"), ('{"a": "x", "b": 1}', "unexpected")],
)
def test_a_schema_of_ones_own_is_kept_and_checked(text, sentence):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    tool = Tool(ToolDescription("f", "", schema), lambda a: a)
    assert tool.arguments('{"a": "x"}') == {"a": "x"}
    with pytest.raises(ToolError) as caught:
        tool.arguments(text)
    assert sentence in str(caught.value)


WITHOUT_A_CHECK: list[tuple[Any, Any]] = [
    ({"type": "string", "pattern": r"^\p{L}+$"}, "abc"),
    ({"type": "string", "pattern": "^(?!.*b).*$"}, "abc"),
    ({"type": "any"}, 1),
    ({"type": "float"}, 1.5),
    ({"type": ["str", "None"]}, "a"),
    ({"$ref": "#/nowhere"}, 2),
    ({"$ref": "http://127.0.0.1:9/a.json"}, 2),
    ({"$ref": "#/properties/a"}, 2),
    ({"type": "object", "properties": None}, {"b": 1}),
    ({"type": "object", "properties": {"b": None}, "required": True}, {"b": 1}),
    ({"enum": None}, "a"),
    ({"enum": "abc"}, "x"),
    ({"type": "string", "minLength": "3"}, "a"),
    ({"type": "number", "multipleOf": 0}, 3),
    ({"oneOf": {"type": "string"}}, 3),
    ({"type": "string", "nullable": True, "enum": ["a"]}, None),
]


@pytest.mark.parametrize(("schema", "right"), WITHOUT_A_CHECK)
def test_what_of_a_schema_cannot_be_checked_is_passed_over(schema, right):
    whole = {"type": "object", "properties": {"a": schema, "n": {"type": "integer"}}, "required": ["a"]}
    tool = Tool(ToolDescription("f", "", whole), lambda a, n=0: a)
    assert tool.arguments(json.dumps({"a": right})) == {"a": right}
    with pytest.raises(ToolError, match="`n`: 'x' is not of type 'integer'"):  # the rest is checked
        tool.arguments(json.dumps({"a": right, "n": "x"}))


OBJECT = {"type": "object", "patternProperties": {r"^\p{Lu}": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"multipleOf": 0.01}, [19.99, 0.07, -1.1, 3, 1e308, True, "x"], [0.001, 19.995]),
        ({"multipleOf": 3}, [9, 9.0, 10**40 * 3], [10, 0.5]),
        ({"pattern": r"^\p{L}+$"}, ["äb", 1], ["a1", "ab\n"]),
        ({"pattern": "^(a+)+$"}, ["a" * 40], ["a" * 40 + "b"]),
        (OBJECT, [{"Ä": 1}, {}], [{"ä": 1}, {"Ä": "x"}]),
        ({"patternProperties": {"^(a+)+$": False}}, [{"a" * 40 + "b": 1}], [{"a" * 40: 1}]),
        ({"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False}, [{"a" * 40 + "b": 1}], []),
        ({"properties": {"b": {}}, "unevaluatedProperties": False}, [{"b": 1}], [{"c": 1}]),
        (
            {"patternProperties": {"^(a+)+$": True}, "properties": {"b": {}}, "additionalProperties": {"type": "null"}},
            [{"a" * 40: 1, "b": 1, "a" * 40 + "c": None}],
            [{"a" * 40 + "b": 1}],
        ),
    ],
)
def test_right_values_pass_and_no_pattern_takes_long(schema, right, wrong):
    tool = Tool(ToolDescription("f", "", {"type": "object", "properties": {"a": schema}}), lambda a: a)
    for value in right:
        assert tool.arguments(json.dumps({"a": value})) == {"a": value}
    for value in wrong:
        with pytest.raises(ToolError, match="wrong arguments for f: `a"):
            tool.arguments(json.dumps({"a": value}))


@pytest.mark.parametrize("required", [None, True, "a", [["a"]], {"a": 1}])
def test_a_list_of_required_names_that_is_none_is_passed_over(required):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": required}
    tool = Tool(ToolDescription("f", "", schema), lambda a="": a)
    assert tool.arguments("{}") == {} and tool.arguments('{"a": "x"}') == {"a": "x"}
    with pytest.raises(ToolError, match="1 is not of type"):
        tool.arguments('{"a": 1}')


PAIR = {"type": "array", "items": [{"type": "number"}, {"type": "number"}]}


@pytest.mark.parametrize(
    ("schema", "draft", "right", "wrong"),
    [
        (PAIR, None, [1, 2], [1, "x"]),
        (PAIR, "http://json-schema.org/draft-07/schema#", [1, 2], ["x", 1]),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, None, 1, 0),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": False}, "http://json-schema.org/draft-04/schema#", 0, -1),
        ({"type": "number", "exclusiveMinimum": 0}, None, 1, 0),
        ({"$ref": "#/$defs/text", "maxLength": 2}, "http://json-schema.org/draft-07/schema#", "abc", 1),  # it is alone
        ({"$ref": "#/$defs/text", "maxLength": 2}, "https://json-schema.org/draft/2020-12/schema", "ab", "abc"),
        ({"prefixItems": [{"type": "number"}]}, "https://json-schema.org/draft/2020-12/schema", [1], ["x"]),
        ({"prefixItems": [{"type": "number"}]}, "urn:unknown", [1], ["x"]),
        ({"prefixItems": [{"type": "number"}]}, 7, [1], ["x"]),
    ],
)
def test_a_schema_is_checked_as_its_draft_says(schema, draft, right, wrong):
    whole = {"type": "object", "properties": {"a": schema}, "$defs": {"text": {"type": "string"}}}
    whole |= {} if draft is None else {"$schema": draft}
    tool = Tool(ToolDescription("f", "", whole), lambda a: a)
    assert tool.arguments(json.dumps({"a": right})) == {"a": right}
    with pytest.raises(ToolError, match="wrong arguments for f: `a"):
        tool.arguments(json.dumps({"a": wrong}))


def test_a_schema_never_opens_a_connection(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("a connection was opened"))
    tool = Tool(ToolDescription("f", "", {"properties": {"a": {"$ref": "https://example.org/a.json"}}}), lambda a: a)
    assert tool.arguments('{"a": 1}') == {"a": 1}


def test_arguments_that_are_too_deep_or_too_long_for_a_schema_are_told_in_a_sentence():
    schema = {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    with pytest.raises(ToolError, match="they are nested too deeply"):
        Tool(ToolDescription("f", "", schema), lambda a: a).arguments('{"a": ' + "[" * 900 + "]" * 900 + "}")
    tool = Tool(ToolDescription("f", "", {"properties": {"a": {"type": "array"}}}), lambda a: a)
    with pytest.raises(ToolError, match="`a`: 'xxx") as caught:
        tool.arguments('{"a": "' + "x" * 1_000_000 + '"}')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("parameters", [[1], "text", True, Inner])
def test_parameters_that_are_no_object_are_refused_with_the_session(parameters):
    for tool in (ToolDescription("f", "", parameters), Tool(ToolDescription("f", "", parameters), lambda: 1)):
        with pytest.raises(OptionError, match=r"the parameters of tool 'f' are .*, expected the JSON schema"):
            Toolset([tool])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schema=st.data())
def test_no_schema_makes_a_right_call_fail_with_anything_but_its_own_words(schema):
    """Schemas of any shape: what is found is about a value, and nothing else is raised."""
    keywords = st.sampled_from(["type", "items", "required", "properties", "enum", "anyOf", "$ref", "pattern", "not"])
    loose = st.recursive(JSON, lambda inner: st.dictionaries(keywords, inner, max_size=3), max_leaves=6)
    tool = Tool(ToolDescription("f", "", {"properties": {"a": schema.draw(loose)}}), lambda a: a)
    try:
        assert tool.arguments('{"a": "x"}') == {"a": "x"}
    except ToolError as error:
        assert str(error).startswith("wrong arguments for f: `a")


def test_a_function_without_signature_needs_a_schema_of_its_own():
    tool = Tool(ToolDescription("hypot", "", {"type": "object"}), math.hypot)
    assert tool.arguments('{"a": 1}') == {"a": 1}


def test_methods_and_callable_objects_are_functions_too():
    class Counter:
        def add(self, n: int) -> int:
            """Adds."""
            return n

        def __call__(self, n: int = 1) -> int:
            return n

    assert tool_from(Counter().add).description.name == "add"
    assert tool_from(Counter()).description.name == "Counter"
    assert tool_from(Counter()).arguments('{"n": 4}') == {"n": 4}


def test_what_a_function_gives_back_needs_no_hint_that_can_be_read():
    def table(city: str) -> Table:
        """Makes one."""
        return city

    assert tool_from(table).arguments('{"city": "Oslo"}') == {"city": "Oslo"}


def test_a_partial_is_its_function_without_what_is_given_already():
    def find(base: dict, text: str, user: int, most: int = 3) -> list:
        """Finds it.

        Args:
            text: what to look for
        """
        return [base, text, user, most]

    tool = tool_from(functools.partial(find, {}, user=7))
    assert tool.name == "find" and tool.description.description == "Finds it."
    assert tool.description.parameters["properties"] == {
        "text": {"type": "string", "description": "what to look for"},
        "most": {"type": "integer", "default": 3},
    }
    assert tool.handler(**tool.arguments('{"text": "x"}')) == [{}, "x", 7, 3]
    with pytest.raises(ToolError, match="`user` is unknown"):
        tool.arguments('{"text": "x", "user": 1}')


def test_what_decorates_a_function_is_described_as_it():
    class Counted:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function = function

        def __call__(self, *args, **kwargs):
            return self.function(*args, **kwargs)

    @Counted
    def f(n: int) -> int:
        """Gives it."""
        return n

    tool = tool_from(f)
    assert (tool.name, tool.description.description) == ("f", "Gives it.")
    assert tool.description.parameters["properties"] == {"n": {"type": "integer"}}
    assert tool.handler(**tool.arguments('{"n": 4.0}')) == 4


def test_an_object_is_described_by_what_it_says_of_being_called():
    class Finder:
        """Holds an index."""

        def __call__(self, text: str) -> str:
            """Finds a text."""
            return text

    assert tool_from(Finder()).description.description == "Finds a text."


def test_null_is_told_where_it_says_something_else_than_leaving_out():
    def search(limit: int | None = 10, where: str | None = None, longest: float = math.inf) -> None: ...

    described = tool_from(search).description.parameters
    assert described["properties"] == {
        "limit": {"type": ["integer", "null"], "default": 10},
        "where": {"type": "string"},
        "longest": {"type": "number"},
    }
    assert tool_from(search).arguments('{"limit": null}') == {"limit": None}
    assert JsonType(Some).schema == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["integer", "null"]}},
        "required": ["a"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "function", [lambda x: x, lambda *rest: rest, eval("lambda a, /: a"), eval("lambda a: a")], ids=range(4)
)
def test_what_cannot_be_called_by_name_is_refused(function):
    with pytest.raises(OptionError):
        tool_from(function)
    if function.__code__.co_varnames[:1] == ("rest",) or function.__code__.co_posonlyargcount:
        with pytest.raises(OptionError, match="no name to call it by"):
            tool_from(function, name="f")
    elif function.__code__.co_argcount:
        assert tool_from(function, name="f").name == "f"
