"""Every finished text that a grammar accepts is valid, as checked by jsonschema and `re`."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from mlx_oss.constrain import Guards, OutputConstraints, TurnConstraint
from mlx_oss.constrain.grammar import Grammar, Matcher, closed
from mlx_oss.errors import OptionError
from mlx_oss.harmony import ToolDescription
from mlx_oss.tokenizer import CALL, N_RANKS, RETURN, load_tokenizer
from tests.constrain.schemas import schemas, walk
from tests.harmony import strategies

SCHEMAS = int(os.environ.get("CONSTRAINED_SCHEMAS", "100"))


@strategies.examples(SCHEMAS)
@given(schemas, st.randoms(use_true_random=False))
def test_every_finished_text_is_valid_by_its_schema(schema, draw):
    text = walk(Grammar.of_schema("the answer", schema).matcher(RETURN), RETURN, draw)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


PLAIN = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}, "c": {"type": "array", "maxItems": 2}},
    "required": ["a", "b"],
}


def test_walks_through_a_schema_come_to_an_end():
    """Otherwise the test above would check nothing."""
    ended = [walk(Grammar.of_schema("it", PLAIN).matcher(RETURN), RETURN, random.Random(seed)) for seed in range(20)]
    assert sum(text is not None for text in ended) > 10


def can_be_enforced(schema: dict, lenient: bool) -> bool:
    """Whether llguidance alone accepts the unchanged schema."""
    text = LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"lenient": lenient, "coerce_one_of": lenient}
    )
    return not LLMatcher.validate_grammar_with_warnings(text)[0]


@strategies.examples(SCHEMAS)
@given(schemas, st.booleans())
def test_a_schema_that_can_be_enforced_can_also_be_enforced_when_closed(schema, lenient):
    if can_be_enforced(schema, lenient):
        Grammar.of_schema("the answer", schema, lenient=lenient)


KIND = {"properties": {"kind": {"type": "string"}}, "required": ["kind"]}
X = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
WHOLE = ['{"kind":"a","x":1}', '{"x":1,"kind":"a"}']  # properties have one order


def may_be_written(text: str, matcher: Matcher) -> bool:
    for token in load_tokenizer().encode(text):
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    allowed = matcher.allowed()
    ends = [RETURN, CALL]
    return allowed in ends if isinstance(allowed, int) else bool(allowed[ends].any())


@pytest.mark.parametrize(
    "schema",
    [
        {**KIND, "anyOf": [X, {"properties": {"y": {}}, "required": ["y"]}]},
        {"properties": KIND["properties"], "anyOf": [X]},
        {**KIND, "anyOf": [{"$ref": "#/$defs/X"}], "$defs": {"X": X}},
        {**KIND, "$ref": "#/$defs/X", "$defs": {"X": X}},
        {**KIND, "allOf": [X]},
        {"required": ["kind"], "anyOf": [X]},
        {"$ref": "#/$defs/Y", "$defs": {"X": X, "Y": {**KIND, "$ref": "#/$defs/X"}}},
    ],
)
def test_an_object_that_several_schemas_describe_may_have_the_properties_of_all(schema):
    assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(WHOLE[0]))
    grammar = Grammar.of_schema("the answer", schema)
    assert any(may_be_written(text, grammar.matcher(RETURN)) for text in WHOLE)


@pytest.mark.parametrize(
    "condition", [{"if": {"properties": {"kind": {"const": "a"}}}, "then": X}, {"dependentSchemas": {"kind": X}}]
)
def test_an_object_may_have_the_properties_that_a_condition_asks_for(condition):
    """llguidance does not know conditions, so they are ignored, but the properties they name are not forbidden."""
    schema = {"type": "object", **KIND, **condition}
    assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(WHOLE[0]))
    grammar = Grammar.of_schema("tool 'f'", schema, lenient=True)
    assert may_be_written(WHOLE[0], grammar.matcher(CALL)) or may_be_written(WHOLE[1], grammar.matcher(CALL))


@strategies.examples(100)
@given(strategies.schemas.filter(lambda schema: isinstance(schema, dict)), st.randoms(use_true_random=False))
def test_any_schema_is_enforced_or_refused(schema, draw):
    try:
        grammar = Grammar.of_schema("tool 'f'", schema)
    except OptionError as error:
        assert "tool 'f'" in str(error)
        return
    text = walk(grammar.matcher(CALL), CALL, draw, most=100)
    if text is not None and is_sound(schema):
        jsonschema.validate(json.loads(text), schema)


def is_sound(schema: dict) -> bool:
    """Whether it is a valid JSON schema."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return False
    return True


@pytest.mark.parametrize("regex", [r"\d{4}-\d{2}", "(yes|no)[.!]?", r"[^a-z]{3,5}", "ä+ö?", ".{0,10}"])
def test_every_finished_text_matches_its_regular_expression(regex):
    grammar, finished = Grammar.of_regex("the answer", regex), 0
    for seed in range(10):
        text = walk(grammar.matcher(RETURN), RETURN, random.Random(seed))
        if text is not None:
            assert re.fullmatch(regex, text)
            finished += 1
    assert finished > 5


def test_properties_that_the_schema_does_not_name_are_forbidden_unless_it_allows_others():
    named = {"type": "object", "properties": {"a": {"type": "null"}}}
    inner = {"type": "object", "properties": {"b": {"$ref": "#/$defs/x"}}, "required": ["b"], "$defs": {"x": named}}
    assert closed(inner) == {
        **inner,
        "$defs": {"x": {**named, "additionalProperties": False}},
        "additionalProperties": False,
    }
    for more in (
        {"additionalProperties": True},
        {"required": ["c"]},
        {"patternProperties": {"^b": {}}},
        {"minProperties": 2},
        {"anyOf": [{"required": ["c"]}]},
    ):
        assert closed({**named, **more}) == {**named, **more}
    pair = {"anyOf": [named, {"type": "null"}]}
    assert closed(pair) == {"anyOf": [{**named, "additionalProperties": False}, {"type": "null"}]}
    assert closed({"properties": {}, "type": "object"}) == {"properties": {}, "type": "object"}
    odd = {
        "type": "object",
        "properties": {"if": {"type": "string"}, "allOf": {}},
    }  # here `if` and `allOf` are names of properties
    assert closed(odd) == {**odd, "additionalProperties": False}


def test_a_finished_body_may_only_end():
    matcher = Grammar.of_schema("tool 'f'", {"type": "object", "additionalProperties": False}).matcher(CALL)
    for token in load_tokenizer().encode("{}"):
        allowed = matcher.allowed()
        assert allowed[token] and not allowed[N_RANKS:].any()
        matcher.accept(token)
    assert matcher.allowed() == CALL


def test_a_body_that_could_be_longer_may_end_too_but_not_begin_another_message():
    matcher = Grammar.of_regex("the answer", "ab*").matcher(RETURN)
    matcher.accept(load_tokenizer().encode("a")[0])
    assert np.flatnonzero(matcher.allowed()[N_RANKS:]).tolist() == [RETURN - N_RANKS]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "string"}}, "Unimplemented keys"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "date"}, "Invalid type: date"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum"),
        ({"enum": [{1, 2}]}, "not a JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_name_and_the_reason(schema, reason):
    with pytest.raises(OptionError, match=f"tool 'f'.*{reason}"):
        Grammar.of_schema("tool 'f'", schema)


def test_a_regular_expression_that_cannot_be_read_is_refused():
    with pytest.raises(OptionError, match=r"the answer cannot be enforced.*unclosed group"):
        Grammar.of_regex("the answer", "(a|b")


@pytest.mark.parametrize("loop", [{"$ref": "#/properties/a"}, {"anyOf": [{"$ref": "#/properties/a"}]}])
def test_a_call_is_free_where_its_schema_cannot_be_followed_unless_it_has_to(loop):
    schema = {"type": "object", "properties": {"a": loop}, "required": ["a"]}
    described = ToolDescription("f", "", schema)
    begun = load_tokenizer().encode('{"a": ')
    for strict in (None, True):
        rules = OutputConstraints(guards=Guards(strict_arguments=strict)).rules([described])
        constraint = TurnConstraint(rules)
        for token in load_tokenizer().encode_with_specials("<|channel|>commentary to=functions.f<|message|>"):
            constraint.accept(token)

        def follow(constraint=constraint):
            for token in [*begun, *load_tokenizer().encode('"x"}'), CALL]:
                allowed = constraint.allowed()
                assert allowed is None or allowed[token]
                constraint.accept(token)
            return allowed

        if strict:
            with pytest.raises(OptionError, match="tool 'f' is too complex to follow"):
                follow()
        else:
            assert follow() is None


def test_an_argument_that_is_nullable_may_be_null():
    schema = {"properties": {"a": {"type": "string", "nullable": True}, "nullable": {"const": 1}}, "required": ["a"]}
    for text in ('{"a": null}', '{"a": "x"}', '{"a": null, "nullable": 1}'):
        tool = ToolDescription("f", "", {"type": "object"} | schema)
        matcher = OutputConstraints().rules([tool]).arguments["functions.f"].matcher(CALL)
        for token in load_tokenizer().encode(text):
            assert matcher.allowed()[token]
            matcher.accept(token)
        allowed = matcher.allowed()
        assert allowed == CALL if isinstance(allowed, int) else allowed[CALL]


VALUES = {"type": "object", "properties": {"a": {}, "b": {"type": "array"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "schema", [{"type": "object"}, {}, VALUES, VALUES | {"x-guidance": {"whitespace_flexible": True}}]
)
@pytest.mark.parametrize(
    ("text", "is_legal"),
    [
        ('{"a":1,"b":[1,2]}', True),
        ('{"a": 1, "b": [1, 2]}', True),
        ('{"a":"two  blanks and a \\n"}', True),
        ('{"a":  1}', False),
        ('{ "a":1}', False),
        ('{"a" :1}', False),
        ('{"a":1 }', False),
        ('{"a":\n1}', False),
        ('{"a":\t1}', False),
        ('{"a":[1,  2]}', False),
        ('{"a":[ 1]}', False),
    ],
)
def test_json_is_on_one_line_with_a_space_after_a_separator_at_most(schema, text, is_legal):
    arguments = OutputConstraints().rules([ToolDescription("f", "", schema)]).arguments["functions.f"]
    answer = OutputConstraints(schema).rules().answer
    for grammar in (arguments, answer):
        assert follows(grammar, text) == is_legal


def follows(grammar: Grammar, text: str) -> bool:
    matcher = grammar.matcher(RETURN)
    for token in load_tokenizer().encode(text):
        allowed = matcher.allowed()
        if isinstance(allowed, int) or not allowed[token]:
            return False
        matcher.accept(token)
    allowed = matcher.allowed()
    return allowed == RETURN if isinstance(allowed, int) else bool(allowed[RETURN])


def test_without_llguidance_an_error_says_what_to_install():
    program = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from mlx_oss.constrain.grammar import Grammar, is_installed\n"
        "from mlx_oss.errors import OptionError\n"
        "try: Grammar.of_regex('the answer', 'a')\n"
        "except OptionError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'mlx-oss[constrain]'" in out
