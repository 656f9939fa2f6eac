"""Requests and responses of chat completions: every field is followed or refused, and OpenAI's own types read them."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, completion_create_params

from mlx_oss import (
    ChatSession,
    ContextError,
    DeviceError,
    MlxOssError,
    Reply,
    SamplingOptions,
    ScriptedEngine,
    ToolCall,
    ToolDescription,
    Usage,
    load_tokenizer,
)
from mlx_oss.chat.many import begin
from mlx_oss.server.chat_completions import completion, failure, request_from
from mlx_oss.server.messages import RequestError

MESSAGES = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}


def options(**body: Any) -> Any:
    return request_from({"messages": MESSAGES, **body}).options


def test_without_options_a_request_is_a_session_with_its_defaults():
    ours = ChatSession(ScriptedEngine(), load_tokenizer())
    theirs = ChatSession(ScriptedEngine(), load_tokenizer(), **options(model="gpt-4o", user="me", temperature=None))
    for name in ("options", "max_tokens", "reasoning_effort", "instructions", "tools"):
        assert getattr(theirs, name) == getattr(ours, name)


def test_sampling_is_as_it_was_asked_for():
    asked = options(temperature=0, top_p=0.5, seed=7, logit_bias={"12": -100, "3": 1.5}, top_k=5, min_p=0.1)
    assert asked["options"] == SamplingOptions(
        temperature=0, top_p=0.5, seed=7, logit_bias={12: -100, 3: 1.5}, top_k=5, min_p=0.1
    )
    assert options(seed=-1)["options"].seed == 2**64 - 1


def test_limits_and_effort_are_as_they_were_asked_for():
    assert options(max_tokens=5)["max_tokens"] == options(max_completion_tokens=5)["max_tokens"] == 5
    assert options(max_tokens=5, max_completion_tokens=3)["max_tokens"] == 3
    assert options(reasoning_effort="low")["reasoning_effort"] == "low"


def test_functions_are_described_and_strict_ones_are_enforced():
    asked = options(tools=[{"type": "function", "function": FUNCTION}], parallel_tool_calls=False, tool_choice="auto")
    assert asked["tools"] == [ToolDescription("now", "The time.", FUNCTION["parameters"])] and "guards" not in asked
    strict = options(tools=[{"type": "function", "function": {**FUNCTION, "strict": True}}])
    assert strict["guards"].strict_arguments is True
    assert "tools" not in options(tools=[{"type": "function", "function": FUNCTION}], tool_choice="none")


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_the_format_of_the_answer_is_that_of_the_session(kind):
    wanted = {"type": kind, "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert options(response_format=wanted)["response_format"] == wanted
    assert options(response_format={"type": "text"})["response_format"] is None


def test_every_field_of_openais_requests_is_known():
    """Each is followed, has no influence, or is refused by its name; none is refused as unknown by accident."""
    known = get_type_hints(completion_create_params.CompletionCreateParamsBase)
    for name in known:
        if name not in ("messages", "model"):
            value = {"stop": "x", "n": 2, "stream": True}.get(name, object())
            try:
                asked = options(**{name: value})
            except RequestError as error:
                assert error.param == name or name == "logit_bias"
            else:
                assert asked == options(), f"{name} changes nothing"


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"temperature": "hot"}, "temperature", "temperature is 'hot', expected a number from 0 to 100"),
        ({"temperature": -1}, "temperature", "expected a number"),
        ({"temperature": float("nan")}, "temperature", "expected a number"),
        ({"top_p": 0}, "top_p", "use temperature=0"),
        ({"seed": 1.5}, "seed", "expected a whole number"),
        ({"seed": -(2**64)}, "seed", "expected a whole number"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": [1]}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": {"5": "x"}}, "logit_bias", "expected a number"),
        ({"logit_bias": {"250000": 1}}, "logit_bias", "expected token ids"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_completion_tokens": True}, "max_completion_tokens", "at least 1"),
        ({"reasoning_effort": "minimal"}, "reasoning_effort", "give one of none, low, medium, high"),
        ({"response_format": "json"}, "response_format", "type text, json_object or json_schema"),
        ({"response_format": {"type": "object"}}, "response_format", "type text, json_object or json_schema"),
        ({"stop": ["x"]}, "stop", "stop is ['x'], which is not available here: leave it out"),
        ({"n": 2}, "n", "not available"),
        ({"logprobs": True}, "logprobs", "not available"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not available"),
        ({"stream": True}, "stream", "not available"),
        ({"functions": []}, "functions", "'functions' is not available here"),
        ({"web_search_options": {}}, "web_search_options", "not available"),
        ({"temprature": 1}, "temprature", "'temprature' is not available here: leave it out"),
        ({"tool_choice": "required"}, "tool_choice", "only auto and none"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "only auto and none"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "neither true nor false"),
        ({"tools": {}}, "tools", "give a list"),
        ({"tools": ["now"]}, "tools[0]", 'give {"type": "function"'),
        ({"tools": [{"type": "custom"}]}, "tools[0]", 'give {"type": "function"'),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0]", "is called None"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]", "is called 'a b'"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools[0]", "JSON schema"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": "x"}}]}, "tools[0]", "a bool"),
        ({"tools": [{"type": "function", "function": {"name": "a", "default": 1}}]}, "tools[0]", "give name"),
        ({"messages": "Hi"}, "messages", "give a list"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(body, param, reason):
    with pytest.raises(RequestError) as raised:
        request_from({"messages": MESSAGES} | body)
    assert raised.value.param == param and reason in str(raised.value)
    status, answer = failure(raised.value)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error" and answer["error"]["param"] == param


@pytest.mark.parametrize("body", [None, [], "Hi", 7])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(RequestError, match="give an object with messages"):
        request_from(body)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
KEYS = st.sampled_from(
    "role content type text name id function arguments tool_calls tool_call_id parameters strict schema json_schema "
    "properties description reasoning".split()
)
JSON = st.recursive(
    SCALARS | ROLES | st.sampled_from(["text", "function", "json_object", "json_schema", "auto", "1", "f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(get_type_hints(completion_create_params.CompletionCreateParamsBase)))
MESSAGE = st.fixed_dictionaries({"role": ROLES}, optional={"content": JSON, "tool_calls": JSON, "tool_call_id": JSON})


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=3), JSON | st.lists(MESSAGE, max_size=3) | st.just(MESSAGES))
def test_any_json_is_a_request_or_an_error_with_a_sentence(body, messages):
    engine, tokenizer = ScriptedEngine(), load_tokenizer()
    try:
        asked = request_from(body | {"messages": messages})
        begin(ChatSession(engine, tokenizer, **asked.options), asked.messages)
    except MlxOssError as error:
        status, answer = failure(error)
        assert status == 400 and json.dumps(answer) and len(str(error)) < 2100


USAGE = Usage(prompt_tokens=10, reused_tokens=4, generated_tokens=3)


def response(reply: Reply) -> ChatCompletion:
    """The response, as OpenAI's own package reads it; strictly, so that no type is converted."""
    return ChatCompletion.model_validate(completion(reply, id="chatcmpl-1", created=5, model="nano"), strict=True)


def test_a_reply_is_a_completion_that_openais_package_reads():
    read = response(Reply("Hello.", "A greeting.", (), "stop", USAGE))
    (choice,) = read.choices
    assert (read.object, read.id, read.model, choice.finish_reason) == ("chat.completion", "chatcmpl-1", "nano", "stop")
    assert choice.message.content == "Hello." and choice.message.reasoning == "A greeting."
    assert read.usage is not None and read.usage.prompt_tokens_details is not None
    counts = (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens)
    assert counts == (10, 3, 13) and read.usage.prompt_tokens_details.cached_tokens == 4


def test_a_call_ends_the_turn_and_can_be_sent_back_with_its_result():
    reply = Reply("", "", (ToolCall("functions.now", '{"zone": 1}'),), "tool_calls", USAGE, preamble="I look.")
    (choice,) = response(reply).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look."
    (call,) = choice.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("now", '{"zone": 1}')
    sent_back = completion(reply, id="chatcmpl-1", created=5, model="nano")["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": call.id, "content": "noon"}
    asked = request_from({"messages": [*MESSAGES, sent_back, result]})
    assert [message.content for message in asked.messages] == ["Hi", "I look.", '{"zone": 1}', "noon"]


@pytest.mark.parametrize(
    ("reason", "theirs"),
    [("stop", "stop"), ("no_answer", "stop"), ("length", "length"), ("repetition", "length"), ("cancelled", "length")],
)
def test_every_reason_to_finish_has_one_of_openais(reason, theirs):
    assert response(Reply("", "", (), reason, USAGE)).choices[0].finish_reason == theirs


def test_errors_say_whose_they_are():
    assert failure(ContextError("too long"))[1]["error"]["code"] == "context_length_exceeded"
    assert failure(ContextError("too long"))[0] == 400 and failure(DeviceError("no memory"))[0] == 500
    assert failure(DeviceError("no memory"))[1]["error"]["type"] == "server_error"
