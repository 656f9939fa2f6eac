"""Tests rendering against openai-harmony 0.0.8.

    HARMONY_CONVERSATIONS=10000 python -m pytest tests/harmony

is the full run: 10,000 random conversations, 5,000 parse round trips, 25,000 broken streams.
"""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import (
    BROWSER,
    PYTHON,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    render_conversation,
    render_message,
)
from mlx_oss.tokenizer import CHANNEL, END, MESSAGE, N_RANKS, START, load_tokenizer

from . import oracle
from .strategies import (
    CONVERSATIONS,
    conversations,
    developers_with_formats,
    everyday_parameters,
    examples,
    formats,
    object_schemas,
    texts,
    union_schemas,
)


@examples(CONVERSATIONS)
@given(conversations, st.sampled_from([None, "assistant", "user", "tool"]))
def test_ids_are_those_of_openai_harmony(messages, next_role):
    ours = render_conversation(messages, next_role=next_role)
    theirs = oracle.render(messages, next_role)
    decode = load_tokenizer().decode
    assert decode(ours) == decode(theirs)  # for a readable difference
    assert ours == theirs


def test_builtin_tools_are_described_as_openai_harmony_describes_them():
    theirs = oracle.oh.SystemContent.new().with_browser_tool().with_python_tool()
    message = oracle.oh.Message.from_role_and_content(oracle.oh.Role.SYSTEM, theirs)
    ours = Message("system", SystemContent(tools=(BROWSER, PYTHON)))
    assert render_message(ours) == oracle.encoding().render(message)


@examples(CONVERSATIONS)
@given(union_schemas | object_schemas | everyday_parameters)
def test_schemas_are_written_as_openai_harmony_writes_them(schema):
    tools = (ToolDescription("f", "", schema),)
    messages = [Message("developer", DeveloperContent.with_functions(None, tools))]
    ours, theirs = render_conversation(messages), oracle.render(messages)
    assert load_tokenizer().decode(ours) == load_tokenizer().decode(theirs)


SHOPPING_LIST = {
    "properties": {"items": {"type": "array", "description": "what to 🛒", "items": {"type": "string"}}},
    "type": "object",
}
SECTION = """\
# Response Formats

## shopping_list

// What to buy,
// in any order.
{"properties":{"items":{"type":"array","description":"what to 🛒","items":{"type":"string"}}},"type":"object"}

## empty

{}"""
FORMATS = (
    ResponseFormat("shopping_list", SHOPPING_LIST, "What to buy,\nin any order.\n"),
    ResponseFormat("empty", {}),
)


def test_response_formats_are_the_section_the_format_document_shows():
    """openai-harmony cannot render them, but instructions that end with the same text must have the same ids."""
    ours = render_message(Message("developer", DeveloperContent("Be brief.", response_formats=FORMATS)))
    assert ours == oracle.render([Message("developer", DeveloperContent("Be brief.\n\n" + SECTION))])
    alone = render_message(Message("developer", DeveloperContent(response_formats=FORMATS)))
    assert alone == oracle.render([Message("developer", SECTION)])


@examples(50)
@given(developers_with_formats)
def test_response_formats_come_last_and_leave_the_rest_as_openai_harmony_writes_it(content):
    rest = Message("developer", dataclasses.replace(content, response_formats=()))
    section = Message("developer", DeveloperContent(response_formats=content.response_formats))
    text = "\n\n".join(filter(None, map(body, (oracle.render([rest]), render_message(section)))))
    assert render_message(Message("developer", content)) == oracle.render([Message("developer", text)])


@examples(50)
@given(formats)
def test_schema_of_a_response_format_is_one_line_of_json(format_):
    content = DeveloperContent(response_formats=(format_,))
    schema = body(render_message(Message("developer", content))).split("\n")[-1]
    assert json.loads(schema, parse_int=float) == json.loads(json.dumps(format_.schema), parse_int=float)


def body(ids):
    """The text of a rendered message between `<|message|>` and `<|end|>`."""
    return load_tokenizer().decode(ids[ids.index(MESSAGE) + 1 : -1])


@examples(50)
@given(texts, texts.filter(bool))
def test_text_never_becomes_a_control_token(text, word):
    ids = render_message(Message("tool", text, channel=word, recipient=word, content_type=f" {word}", name=word))
    assert [id_ for id_ in ids if id_ >= N_RANKS] == [START, CHANNEL, MESSAGE, END]


def test_lone_surrogates_do_not_raise():
    assert (
        load_tokenizer()
        .decode(render_message(Message("user", "a\ud800")))
        .endswith("a\N{REPLACEMENT CHARACTER}<|end|>")
    )


def test_empty_lines_of_the_blocks_are_left_out():
    """openai-harmony writes `Current date: ` and `# Instructions` with nothing after them."""
    system = SystemContent(model_identity="", knowledge_cutoff="", conversation_start_date="")
    assert render_message(Message("system", system)) == render_message(
        Message("system", SystemContent(None, "medium", None, None))
    )
    empty = Message("developer", DeveloperContent(instructions=""))
    assert render_message(empty) == render_message(Message("developer", ""))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Message("tool", "out"), "no name"),
        (Message("user", SystemContent()), "role 'system'"),
        (Message("system", DeveloperContent()), "role 'developer'"),
        (Message("developer", DeveloperContent(tools=(ToolNamespace("a"), ToolNamespace("a", "b")))), "namespaces"),
        (
            Message(
                "developer",
                DeveloperContent.with_functions(None, (ToolDescription("f", "", {"oneOf": [{"default": {1}}]}),)),
            ),
            "tool 'f'",
        ),
        (
            Message("developer", DeveloperContent(response_formats=(FORMATS[0], FORMATS[0]))),
            "two response formats are called 'shopping_list'",
        ),
        *(
            (Message("developer", DeveloperContent(response_formats=(ResponseFormat("a", {"b": no_json}),))), "'a'")
            for no_json in ({1}, float("nan"))
        ),
    ],
)
def test_what_cannot_be_rendered_is_an_error_that_says_why(message, says):
    with pytest.raises(HarmonyError, match=says):
        render_message(message)


def test_schema_that_contains_itself_is_an_error():
    schema: dict = {"type": "array"}
    schema["items"] = schema
    content = DeveloperContent.with_functions(None, (ToolDescription("f", "", schema),))
    with pytest.raises(HarmonyError, match="tool 'f'"):
        render_message(Message("developer", content))
