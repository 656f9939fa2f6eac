"""The option `response_format`: which values it takes, what of them is enforced, and what becomes of the answer."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pydantic
import pytest

import mlx_oss
from mlx_oss.constrain import OutputConstraints, grammar, kwargs_from_saved
from mlx_oss.constrain.answer import AnswerFormat
from mlx_oss.constrain.grammar import without_patterns
from mlx_oss.errors import OptionError
from mlx_oss.harmony import ResponseFormat
from mlx_oss.tokenizer import RETURN, load_tokenizer


class Kind(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


FIELDS: list[tuple[Any, Any, Any]] = [
    (set[int], [1, 2, 1], {1, 2}),
    (frozenset[str], ["a"], frozenset("a")),
    (set[tuple[int, str]] | None, [[1, "a"]], {(1, "a")}),
    (pathlib.Path, "a/b", pathlib.Path("a/b")),
    (bytes, "abc", b"abc"),
    (pydantic.SecretStr, "abc", pydantic.SecretStr("abc")),
    (re.Pattern, "a+", re.compile("a+")),
    (decimal.Decimal, 1.5, decimal.Decimal("1.5")),
    (dict[Kind, int], {"red": 1}, {Kind.RED: 1}),
    (dict[Level, int], {"1": 2}, {Level.LOW: 2}),
    (dict[int, list[pathlib.Path]], {"3": ["a"]}, {3: [pathlib.Path("a")]}),
    (datetime.timedelta, "P1D", datetime.timedelta(days=1)),
    (list[set[Kind]], [["red"]], [{Kind.RED}]),
]


def follows(answer: AnswerFormat, text: str) -> bool:
    """Whether the grammar allows a text as the whole answer."""
    matcher = answer.grammar.matcher(RETURN)
    for token in load_tokenizer().encode(text):
        allowed = matcher.allowed()
        if isinstance(allowed, int) or not allowed[token]:
            return False
        matcher.accept(token)
    allowed = matcher.allowed()
    return allowed == RETURN if isinstance(allowed, int) else bool(allowed[RETURN])


@pytest.mark.parametrize(("hint", "value", "made"), FIELDS, ids=[str(field[0]) for field in FIELDS])
def test_any_field_of_pydantic_is_held_to_roughly_and_validated(hint, value, made):
    model = pydantic.create_model("Answer", a=(hint, ...), n=(int, ...))
    answer = AnswerFormat.from_option(model)
    assert answer is not None
    text = json.dumps({"a": value, "n": 1})
    assert follows(answer, text) and answer.parse(text).a == made
    assert not follows(answer, '{"a": ') and not follows(answer, text.replace('"n": 1', '"n": "x"'))
    assert not follows(answer, '{"n": 1}')
    assert answer.parse(text.replace('"n": 1', '"n": "x"')) is None


def test_what_is_left_to_the_model_is_validated():
    answer = AnswerFormat.from_option(pydantic.create_model("Answer", a=(dict[Kind, int], ...)))
    assert answer is not None and follows(answer, '{"a": {"green": 1}}') and answer.parse('{"a": {"green": 1}}') is None


def test_a_pattern_that_cannot_be_followed_is_left_to_the_model():
    class Answer(pydantic.BaseModel):
        a: str = pydantic.Field(json_schema_extra={"pattern": "^(?=a)"})
        b: list[int]

    answer = AnswerFormat.from_option(Answer)
    assert (
        answer is not None and follows(answer, '{"a": "x", "b": [1]}') and not follows(answer, '{"a": "x", "b": ["y"]}')
    )
    with pytest.raises(OptionError, match="response_format cannot be enforced"):
        AnswerFormat.from_option(Answer.model_json_schema())


def test_patterns_are_keywords_and_not_names_of_properties():
    schema = {"properties": {"pattern": {"type": "string", "pattern": "a"}}, "items": [{"pattern": "b"}]}
    schema |= {"enum": [{"pattern": "a"}], "allOf": [{"patternProperties": {"a": {}}}]}
    assert without_patterns(schema) == {
        **{"properties": {"pattern": {"type": "string"}}, "items": [{}]},
        **{"enum": [{"pattern": "a"}], "allOf": [{}]},
    }


def test_defaults_that_json_cannot_say_are_left_out_without_a_warning():
    class Answer(pydantic.BaseModel):
        a: set[int] = set()
        b: pathlib.Path = pathlib.Path("x")
        c: Any = object()

    assert AnswerFormat.from_option(Answer) is not None


def test_a_model_without_a_schema_is_refused_in_a_sentence():
    model = pydantic.create_model("Answer", a=(Callable[[], int], ...))
    with pytest.raises(OptionError, match=r"no JSON schema can be made of Answer .*: give its fields types that JSON"):
        AnswerFormat.from_option(model)


NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}


@pytest.mark.parametrize(
    ("wanted", "described"),
    [
        ({"type": "json_object"}, ResponseFormat("answer", {"type": "object"})),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER}}, ResponseFormat("n", NUMBER)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER, "description": "x", "strict": True}},
            ResponseFormat("n", NUMBER, "x"),
        ),
        ({"type": "json_schema", "json_schema": {"schema": UNIQUE}}, ResponseFormat("answer", UNIQUE)),
        ({"type": "json_schema", "name": "n", "schema": NUMBER, "strict": None}, ResponseFormat("n", NUMBER)),
        ({"name": "n", "schema": NUMBER}, ResponseFormat("n", NUMBER)),
        ({"schema": NUMBER}, ResponseFormat("answer", NUMBER)),
        ({"json_schema": {"name": "n", "schema": NUMBER}}, ResponseFormat("n", NUMBER)),
        (NUMBER, ResponseFormat("answer", NUMBER)),
    ],
)
def test_openais_own_forms_are_read(wanted, described):
    answer = AnswerFormat.from_option(wanted)
    assert answer is not None and answer.prompt_format == described
    right = "[1]" if described.schema is UNIQUE else '{"n": 1}'
    assert follows(answer, right) and not follows(answer, '"x"') and answer.parse(right) == json.loads(right)


def test_free_text_in_openais_form_is_no_format():
    constraints = OutputConstraints({"type": "text"})
    assert constraints.prompt_format is None and constraints.rules().answer is None


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": NUMBER},
        {"type": "json_schema", "json_schema": "n"},
        {"type": "json_schema", "json_schema": {"name": 7, "schema": NUMBER}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": "x"}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER, "description": 7}},
        {"json_schema": NUMBER},
        {"name": "n", "schema": "text"},
    ],
)
def test_openais_form_without_a_schema_is_refused_with_the_right_one(wanted):
    with pytest.raises(OptionError, match=r'give \{"type": "json_schema", "json_schema": \{"name": "answer"'):
        AnswerFormat.from_option(wanted)


def test_a_strict_schema_is_enforced_whole_or_refused():
    with pytest.raises(OptionError, match="uniqueItems"):
        AnswerFormat.from_option({"type": "json_schema", "json_schema": {"schema": UNIQUE, "strict": True}})


@pytest.mark.parametrize("text", ["json", "JSON", " json_object ", "json_schema", "text"])
def test_a_word_for_a_format_is_no_regular_expression(text):
    with pytest.raises(OptionError, match=r'give \{"type": "json_object"\} for any JSON object'):
        AnswerFormat.from_option(text)


@pytest.mark.parametrize("text", ["schema.json", "./forms/a-b.json", json.dumps(NUMBER)])
def test_a_schema_as_a_text_or_file_is_no_regular_expression(text):
    with pytest.raises(OptionError, match=r"give the schema as a dict, which json\.loads makes of a text"):
        AnswerFormat.from_option(text)


@pytest.mark.parametrize("wanted", ["jsonx", r"\{a\}", re.compile("json"), r".*\.json", "[{]}"])
def test_other_texts_are_regular_expressions(wanted):
    answer = AnswerFormat.from_option(wanted)
    assert answer is not None and answer.regex == (wanted if isinstance(wanted, str) else wanted.pattern)


@pytest.mark.parametrize(
    "wanted",
    [
        pydantic.create_model("Answer", a=(set[int], ...)),
        *({"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": UNIQUE, "description": "x"}}),
        *(NUMBER, "(a|b)", re.compile("json"), re.compile("a", re.I), {"type": "text"}),
    ],
)
def test_a_format_survives_being_saved(wanted):
    constraints = OutputConstraints(wanted)
    saved = json.loads(json.dumps(constraints.as_json))
    restored = OutputConstraints(**kwargs_from_saved(saved))
    assert restored.as_json == constraints.as_json and restored.prompt_format == constraints.prompt_format


def test_half_characters_never_reach_the_app():
    answer = AnswerFormat.from_option(NUMBER)
    assert answer is not None and answer.parse(r'{"a\ud800": ["\udfff"]}') == {"a?": ["?"]}
    model = AnswerFormat.from_option(pydantic.create_model("Answer", a=(str, ...)))
    assert model is not None and model.parse(r'{"a": "x\ud800"}').a == "x?"


def test_a_session_answers_with_a_set_and_a_path():
    class Answer(pydantic.BaseModel):
        files: set[pathlib.Path]

    engine = mlx_oss.ScriptedEngine('{"files": ["a", "b"]}')
    reply = mlx_oss.ChatSession(engine, load_tokenizer(), response_format=Answer).ask("Which files?")
    assert reply.parsed == Answer(files={pathlib.Path("a"), pathlib.Path("b")})


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    grammar._refusal.cache_clear()
    for wanted in (pydantic.create_model("Answer", a=(int, ...)), {"type": "json_object"}):
        with pytest.raises(OptionError, match=r"pip install 'mlx-oss\[constrain\]'"):
            AnswerFormat.from_option(wanted)
