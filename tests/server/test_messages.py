"""The messages of a request: each is said to the model, or refused with a sentence."""

from __future__ import annotations

import pytest

from mlx_oss.harmony import Message, message_from_dict
from mlx_oss.server.messages import RequestError, messages_from

USER = {"role": "user", "content": "Hi"}


def call(id_: str, name: str = "f", arguments: str = "{}") -> dict[str, object]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*ids: str, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": None, "tool_calls": [call(id_, f"f{id_}") for id_ in ids], **more}


def result(id_: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": id_, "content": f"result {id_}"}


def test_a_conversation_is_said_as_it_is():
    assert messages_from(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            {"role": "user", "content": "Hi", "name": "Ann"},
            {"role": "assistant", "content": "Hello.", "reasoning": "A greeting.", "refusal": None, "annotations": []},
            {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
        ]
    ) == [
        Message("system", "Be brief."),
        Message("developer", "Be kind."),
        Message("user", "Hi", name="Ann"),
        Message("assistant", "A greeting.", channel="analysis"),
        Message("assistant", "Hello.", channel="final"),
        Message("user", "Bye"),
    ]


def test_each_call_is_followed_by_its_own_result_as_the_model_makes_them():
    told = messages_from([USER, calling("1", "2", content="I look."), result("2"), result("1")])
    assert [(message.role, message.recipient, message.name, message.content) for message in told[1:]] == [
        ("assistant", None, None, "I look."),
        ("assistant", "functions.f2", None, "{}"),
        ("tool", "assistant", "functions.f2", "result 2"),
        ("assistant", "functions.f1", None, "{}"),
        ("tool", "assistant", "functions.f1", "result 1"),
    ]
    assert {message.channel for message in told[1:]} == {"commentary"}
    assert told[2].content_type == "<|constrain|>json"


def test_the_answer_of_a_server_can_be_sent_back():
    """`reasoning_content` is how other servers call it."""
    told = messages_from([USER, {"role": "assistant", "content": "Hm.", "reasoning_content": "Why?"}, USER])
    assert [message.channel for message in told] == [None, "analysis", "final", None]


@pytest.mark.parametrize(
    ("messages", "param", "reason"),
    [
        (None, "messages", "give a list with at least one message"),
        ([], "messages", "give a list with at least one message"),
        ({"role": "user"}, "messages", "give a list"),
        (["Hi"], "messages[0]", "give an object with role and content"),
        ([{"content": "Hi"}], "messages[0].role", "has role None: use one of system, developer, user, assistant, tool"),
        ([{"role": "function", "content": "Hi"}], "messages[0].role", "has role 'function'"),
        ([{"role": ["user"], "content": "Hi"}], "messages[0].role", "has role"),
        ([{"role": "user"}], "messages[0].content", "give a text, or a list of parts of type text"),
        ([{"role": "user", "content": 7}], "messages[0].content", "content is 7"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[0].content[0]",
            "is of type 'image_url', but the model reads text only",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]", "give {"),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]", "is of type 'Hi'"),
        ([{"role": "user", "content": "Hi", "name": "a b"}], "messages[0].name", "without blanks"),
        ([{"role": "user", "content": "Hi", "name": "<|end|>"}], "messages[0].name", "without blanks"),
        ([{"role": "system", "content": "Hi", "name": "Ann"}, USER], "messages[0].name", "leave it out"),
        ([USER, {"role": "assistant", "content": "Hi", "audio": {"id": "x"}}, USER], "messages[1].audio", "leave it"),
        ([USER, {"role": "assistant"}, USER], "messages[1].content", "content is None"),
        ([USER, {"role": "assistant", "content": "Hi"}], "messages[1]", "the last message is of role 'assistant'"),
        ([{"role": "system", "content": "Hi"}], "messages[0]", "the last message is of role 'system'"),
        ([USER, calling("1")], "messages", "the call '1' has no result before the end"),
        ([USER, calling("1", "2"), result("1"), USER], "messages", "the call '2' has no result before messages[3]"),
        ([USER, result("1")], "messages[1].tool_call_id", "is '1', which no call before it has"),
        ([USER, calling("1"), result("1"), result("1")], "messages[3].tool_call_id", "which no call before it has"),
        ([USER, {**calling(), "tool_calls": "f"}], "messages[1].tool_calls", "give a list of calls"),
        ([USER, {**calling(), "tool_calls": ["f"]}], "messages[1].tool_calls[0]", "give an id of its own"),
        ([USER, {**calling(), "tool_calls": [{"type": "custom"}]}], "messages[1].tool_calls[0]", "the type function"),
        ([USER, calling("1", "1")], "messages[1].tool_calls[1]", "give an id of its own"),
        (
            [USER, {**calling(), "tool_calls": [call("1", "a.b")]}],
            "messages[1].tool_calls[0].function.name",
            "calls 'a.b': name a function in up to 64 letters",
        ),
        ([USER, {**calling("1"), "reasoning": 7}, result("1")], "messages[1].reasoning", "give a text"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place_and_a_remedy(messages, param, reason):
    with pytest.raises(RequestError) as raised:
        messages_from(messages)
    assert raised.value.param == param and reason in str(raised.value)
    assert len(str(raised.value)) < 400


def test_the_messages_can_be_rendered():
    from mlx_oss.harmony import message_to_dict, render_conversation

    told = messages_from([USER, calling("1", reasoning="Look."), result("1")])
    assert render_conversation(told)
    assert [message_from_dict(message_to_dict(message)) for message in told] == told
