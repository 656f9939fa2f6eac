"""Tests messages as dictionaries against the JSON of openai-harmony 0.0.8."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import Message, SystemContent, message_from_dict, message_to_dict, render_conversation

from . import oracle
from .strategies import conversations, developers_with_formats, examples, parsable_messages


@examples(50)
@given(conversations | st.builds(Message, st.just("developer"), developers_with_formats).map(lambda message: [message]))
def test_conversation_survives_json(messages):
    data = json.loads(json.dumps([message_to_dict(message) for message in messages]))
    back = [message_from_dict(entry) for entry in data]
    assert render_conversation(back) == render_conversation(messages)


@examples(50)
@given(parsable_messages)
def test_text_message_written_by_openai_harmony_reads_back(message):
    theirs = oracle.conversation([message]).messages[0]
    assert message_from_dict(json.loads(theirs.to_json())) == message


def test_missing_key_means_the_default_and_null_leaves_the_line_out():
    data = {"role": "system", "content": [{"type": "system_content", "knowledge_cutoff": None}]}
    assert message_from_dict(data) == Message("system", SystemContent(knowledge_cutoff=None))


def content(**fields):
    return {"role": "system", "content": [{"type": "system_content", **fields}]}


def formats(value):
    return {"role": "developer", "content": [{"type": "developer_content", "response_formats": value}]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "must be an object"),
        ({"role": "robot", "content": ""}, "'robot'"),
        ({"role": "user"}, "must be a string or a list"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, "must be a string or a list"),
        ({"role": "user", "content": [{"type": "image"}]}, "'image'"),
        ({"role": "user", "content": "a", "chanel": "final"}, "'chanel'"),
        ({"role": "user", "content": "a", "channel": 1}, "channel 1"),
        (content(reasoning_effort="Extreme"), "reasoning_effort"),
        (content(channel_config={"valid_channels": ["final"], "channel_required": False}), "channel_required"),
        (content(channel_config={"valid_channels": "final"}), "valid_channels"),
        (content(tools=[]), "give an object that maps"),
        (content(tools={"a": {"name": "a", "tools": {}}}), "must be a list"),
        (content(tools={"a": {"name": "a", "tools": [{"name": "f", "parameters": []}]}}), "JSON schema"),
        (formats({}), "give a list of formats"),
        (formats([{"schema": {}}]), "must have a name"),
        (formats([{"name": "a", "schema": "{}"}]), "'a' must have"),
        (formats([{"name": "a", "schema": {}, "strict": True}]), "'strict'"),
    ],
)
def test_what_is_no_message_is_an_error_that_says_why(data, says):
    with pytest.raises(HarmonyError, match=says):
        message_from_dict(data)
