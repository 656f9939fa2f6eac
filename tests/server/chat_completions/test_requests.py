"""Requests of chat completions are followed, ignored or refused in a sentence; OpenAI's own types read responses."""

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
from mlx_oss.server.asked import Asked, failure_body, status_of
from mlx_oss.server.chat_completions.request import asked
from mlx_oss.server.chat_completions.response import completion

MESSAGES = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}


def request(**body: Any) -> Asked:
    return asked({"messages": MESSAGES, **body})


def options(**body: Any) -> Any:
    return request(**body).free


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**FUNCTION, **function}}


def test_without_options_a_request_is_a_session_with_its_defaults():
    ours = ChatSession(ScriptedEngine(), load_tokenizer())
    wanted = request(model="gpt-4o", user="me", temperature=None)
    theirs = ChatSession(ScriptedEngine(), load_tokenizer(), **wanted.fixed, **wanted.free)
    for name in ("options", "max_tokens", "reasoning_effort", "instructions", "tools", "tool_choice", "stop"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert (wanted.model, wanted.stream, wanted.count) == ("gpt-4o", False, 1)


def test_sampling_is_as_it_was_asked_for():
    wanted = options(temperature=0, top_p=0.5, seed=7, logit_bias={"12": -100, "3": 1.5}, top_k=5, min_p=0.1)
    assert wanted["options"] == SamplingOptions(
        temperature=0, top_p=0.5, seed=7, logit_bias={12: -100, 3: 1.5}, top_k=5, min_p=0.1
    )
    assert options(seed=-1)["options"].seed == 2**64 - 1 and options(seed=3.0)["options"].seed == 3
    penalties = options(frequency_penalty=0.5, presence_penalty=-1)["options"]
    assert (penalties.frequency_penalty, penalties.presence_penalty) == (0.5, -1)
    assert options(top_p=0)["options"] == SamplingOptions(temperature=0)


def test_limits_and_stops_and_counts_are_as_they_were_asked_for():
    assert options(max_tokens=5)["max_tokens"] == options(max_completion_tokens=5)["max_tokens"] == 5
    assert options(max_tokens=5, max_completion_tokens=3)["max_tokens"] == 3
    assert options(max_tokens=-1)["max_tokens"] is None
    assert options(stop="x")["stop"] == options(stop=["x", ""])["stop"] == ["x"] and options(stop="")["stop"] == []
    assert request(n=3).count == 3 and request(stream=True).stream
    wanted = options(logprobs=True, top_logprobs=2)
    assert wanted["logprobs"] and wanted["options"].top_logprobs == 2
    assert options(top_logprobs=2)["options"].top_logprobs == 0


@pytest.mark.parametrize(
    ("wanted", "effort"),
    [("none", "none"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")],
)
def test_each_effort_is_one_that_the_model_knows(wanted, effort):
    assert request(reasoning_effort=wanted).fixed["reasoning_effort"] == effort


def test_without_reasoning_tools_can_still_be_called():
    fixed = request(reasoning_effort="none", tools=[tool()]).fixed
    assert (fixed["reasoning_effort"], fixed["max_reasoning_tokens"]) == ("low", 0)


def test_functions_are_described_and_strict_ones_are_enforced():
    wanted = request(tools=[tool()], parallel_tool_calls=False, tool_choice="auto").fixed
    assert wanted["tools"] == [ToolDescription("now", "The time.", FUNCTION["parameters"])] and "guards" not in wanted
    assert request(tools=[tool(strict=True)]).fixed["guards"].strict_arguments is True


def test_strict_functions_are_no_error_where_nothing_can_be_enforced(monkeypatch):
    monkeypatch.setattr("mlx_oss.constrain.grammar.is_installed", lambda: False)
    assert "guards" not in request(tools=[tool(strict=True)]).fixed


@pytest.mark.parametrize(
    ("choice", "ours"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "now"}}, "now"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool(), {"type": "x"}]}},
            {"type": "allowed_tools", "mode": "required", "tools": [{"name": "now"}]},
        ),
    ],
)
def test_the_choice_of_tools_is_that_of_the_session(choice, ours):
    fixed = request(tools=[tool(), tool(name="then")], tool_choice=choice).fixed
    assert fixed["tool_choice"] == ours
    ChatSession(ScriptedEngine(), load_tokenizer(), **fixed)


def test_a_custom_tool_is_a_function_of_a_text():
    patch = {"name": "patch", "description": "Patches.", "format": {"type": "grammar", "definition": "start: x"}}
    called = {"id": "1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    wanted = asked(
        {
            "messages": [
                *MESSAGES,
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "1", "content": "done"},
            ],
            "tools": [{"type": "custom", "custom": patch}],
            "tool_choice": {"type": "custom", "custom": {"name": "patch"}},
        }
    )
    (described,) = wanted.fixed["tools"]
    assert described.description == "Patches.\n\nThe input follows this lark grammar:\nstart: x"
    assert wanted.fixed["tool_choice"] == "patch" and wanted.details.custom == {"patch"}
    _, call, result = wanted.transcript.messages
    assert (call.recipient, call.content, call.channel) == ("functions.patch", '{"input": "*** Begin"}', "commentary")
    assert (result.name, result.channel) == ("functions.patch", "commentary")


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_the_format_of_the_answer_is_that_of_the_session(kind):
    wanted = {"type": kind, "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert request(response_format=wanted).fixed["response_format"] == wanted
    assert "response_format" not in request(response_format={"type": "text"}).fixed


def test_a_search_is_the_servers_own_tool_if_it_has_one():
    body = {"messages": MESSAGES, "web_search_options": {}}
    assert asked(body, ["browser"]).builtin == ("browser",) and asked(body).builtin == ()


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"temperature": "hot"}, "temperature", "temperature is 'hot', expected a number from 0 to 100"),
        ({"temperature": -1}, "temperature", "expected a number"),
        ({"temperature": float("nan")}, "temperature", "expected a number"),
        ({"frequency_penalty": 3}, "frequency_penalty", "expected a number from -2 to 2"),
        ({"seed": 1.5}, "seed", "expected a whole number"),
        ({"seed": -(2**64)}, "seed", "expected a whole number"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": [1]}, "logit_bias", "from token ids to biases"),
        ({"logit_bias": {"5": "x"}}, "logit_bias", "expected a number"),
        ({"logit_bias": {"250000": 1}}, "logit_bias", "expected token ids"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_completion_tokens": True}, "max_completion_tokens", "at least 1"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "give one of none, minimal, low, medium, high, xhigh, max"),
        ({"response_format": "json"}, "response_format", "type text, json_object or json_schema"),
        ({"response_format": {"type": "object"}}, "response_format", "type text, json_object or json_schema"),
        ({"stop": [7]}, "stop", "give a text, or a list of texts"),
        ({"n": 0}, "n", "a whole number from 1 to 128"),
        ({"logprobs": 1}, "logprobs", "true or false"),
        ({"logprobs": True, "top_logprobs": 101}, "top_logprobs", "from 0 to 100"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": 1}, "stream_options", "give an object"),
        ({"functions": [{}]}, "functions", "functions is the older form of tools, and not available here: give tools"),
        ({"function_call": {"name": "f"}}, "function_call", "the older form of tool_choice"),
        ({"modalities": ["audio"]}, "modalities", "the model writes text only"),
        ({"tool_choice": "required"}, "tool_choice", "auto or none, or leave it out, as there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "there are no tools"),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "auto, none, required, or one of the tools now",
        ),
        ({"tools": [tool()], "tool_choice": 7}, "tool_choice", "one of the tools now"),
        ({"tools": {}}, "tools", "give a list"),
        ({"tools": ["now"]}, "tools[0]", "give an object"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "an object with name, description and parameters"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom", "an object with name and description"),
        ({"tools": [tool(name=None)]}, "tools[0].function.name", "letters, digits, _ and -"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name", "letters, digits, _ and -"),
        ({"tools": [tool(name="f<|message|>evil")]}, "tools[0].function.name", "letters, digits, _ and -"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "JSON schema"),
        ({"tools": [tool(strict="x")]}, "tools[0].function.strict", "true or false"),
        ({"messages": "Hi"}, "messages", "give a list with at least one message"),
        ({"messages": []}, "messages", "give a list with at least one message"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "expected a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "of the type 'image_url', but gpt-oss reads only text",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(body, param, reason):
    with pytest.raises(MlxOssError) as raised:
        request(**body)
    answer = failure_body(raised.value)["error"]
    assert status_of(raised.value) == 400 and reason in str(raised.value)
    assert (answer["param"], answer["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("name", ["audio", "metadata", "prediction", "store", "user", "verbosity", "temprature"])
def test_what_says_nothing_to_the_model_is_ignored(name):
    assert request(**{name: object()}).fixed == request().fixed


@pytest.mark.parametrize("body", [None, [], "Hi", 7])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(MlxOssError, match=r"the body is .*: give an object"):
        asked(body)


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
        wanted = asked(body | {"messages": messages})
        session = ChatSession(engine, tokenizer, **wanted.fixed, **wanted.free)
        begin(session, wanted.transcript.messages)
    except MlxOssError as error:
        assert status_of(error) == 400 and json.dumps(failure_body(error)) and len(str(error)) < 2100


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
    body = completion(reply, id="chatcmpl-1", created=5, model="nano")
    (choice,) = ChatCompletion.model_validate(body, strict=True).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look."
    (call,) = choice.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("now", '{"zone": 1}')
    sent_back = body["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": call.id, "content": "noon"}
    again = request(messages=[*MESSAGES, sent_back, result]).transcript
    assert [message.content for message in again.messages] == ["Hi", "I look.", '{"zone": 1}', "noon"]


@pytest.mark.parametrize(
    ("reason", "theirs"),
    [("stop", "stop"), ("no_answer", "stop"), ("length", "length"), ("repetition", "length"), ("cancelled", "length")],
)
def test_every_reason_to_finish_has_one_of_openais(reason, theirs):
    assert response(Reply("", "", (), reason, USAGE)).choices[0].finish_reason == theirs


def test_errors_say_whose_they_are():
    too_long, failed = ContextError("too long"), DeviceError("no memory")
    assert failure_body(too_long)["error"]["code"] == "context_length_exceeded" and status_of(too_long) == 400
    assert failure_body(failed)["error"]["type"] == "server_error" and status_of(failed) == 503
    assert "ValueError" not in str(failure_body(ValueError("ValueError")))
