"""Whatever the model writes, a message and the events of a stream say the same, in a form that clients read."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from mlx_oss import DeviceError, ScriptedEngine, load_tokenizer
from mlx_oss.harmony import BROWSER
from mlx_oss.server import connection
from mlx_oss.server.fields import Fields
from mlx_oss.server.messages import PATH, Messages
from mlx_oss.server.messages.thinking import reasoning_in, signature
from mlx_oss.server.toolbox import BuiltinTool
from mlx_oss.tools.base import SystemTool
from tests.engines import HeldEngine
from tests.server import echo
from tests.server.echo import Client, asked
from tests.server.messages.streams import built, events_of, valid
from tests.server.scripts import ANSWER, CALL, LONG, NO_ANSWER, PREAMBLE, REASONING, SCRIPTS

TOKENIZER = load_tokenizer()
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "name": "get_weather",
    "description": "Gets the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: dict[str, Any] = {
    "model": "gpt-oss-20b",
    "max_tokens": 4000,
    "messages": [USER],
    "tools": [WEATHER],
    "thinking": {"type": "adaptive"},
}
THOUGHT = {"type": "thinking", "thinking": "I think.", "signature": signature("I think.")}


def streamed(url: str, body: dict[str, Any]) -> dict[str, Any]:
    return built(events_of(echo.streamed(url, PATH, body | {"stream": True})))


def plain(url: str, body: dict[str, Any]) -> dict[str, Any]:
    status, response = asked(url, f"{PATH}?beta=true", body)
    assert status == 200, response
    return valid(response)


def both(served: Any, scripts: list[str], **body: Any) -> dict[str, Any]:
    """The message, which is the same in both forms."""
    url = served(ScriptedEngine(*scripts, *scripts), [Messages()])
    whole, stream = plain(url, ASKED | body), streamed(url, ASKED | body)
    for message in (whole, stream):
        assert message.pop("id").startswith("msg_")
        for block in message["content"]:
            if "id" in block:
                assert block.pop("id").startswith("toolu_")
    assert stream == whole
    return whole


def content(served: Any, *scripts: str, **body: Any) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = both(served, [*scripts], **body)["content"]
    return blocks


@pytest.mark.parametrize("shown", ["summarized", "omitted", None])
@pytest.mark.parametrize("name", SCRIPTS)
def test_whatever_the_model_writes_is_a_message(served, name, shown):
    thinking = {"type": "adaptive", "display": shown} if shown else {"type": "disabled"}
    message = both(served, SCRIPTS[name], thinking=thinking)
    assert "<|" not in json.dumps(message)


def test_each_kind_of_text_has_its_block(served):
    call = {"type": "tool_use", "name": "get_weather", "input": {"city": "Paris"}}
    assert content(served, REASONING + PREAMBLE + REASONING + CALL) == [
        THOUGHT,
        {"type": "text", "text": "I look."},
        THOUGHT,
        call,
    ]
    assert content(served, REASONING + PREAMBLE + CALL, thinking=None) == [{"type": "text", "text": "I look."}, call]


def test_reasoning_that_is_not_shown_is_in_the_signature(served):
    omitted = {"type": "adaptive", "display": "omitted"}
    assert content(served, REASONING + ANSWER, thinking=omitted)[0] == THOUGHT | {"thinking": ""}


def test_the_input_of_a_call_is_always_an_object(served):
    assert content(served, *SCRIPTS["no arguments"])[0]["input"] == {}
    assert content(served, *SCRIPTS["arguments that are no object"])[0]["input"] == {"input": "[1, 2]"}
    assert content(served, *SCRIPTS["arguments that are no JSON"])[0]["input"] == {"input": '{"city": "Par'}
    assert content(served, *SCRIPTS["half a character in arguments"])[0]["input"] == {"city": "?"}


def test_each_end_has_its_reason(served):
    assert both(served, [ANSWER])["stop_reason"] == "end_turn"
    assert both(served, [CALL])["stop_reason"] == "tool_use"
    assert both(served, [LONG], max_tokens=20)["stop_reason"] == "max_tokens"
    stopped = both(served, ["One. Two. Three."], stop_sequences=[" Three", "x"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " Three")
    assert stopped["content"] == [{"type": "text", "text": "One. Two."}]


def test_a_message_has_always_something_to_read(served):
    assert content(served, LONG, max_tokens=20, thinking=None) == [{"type": "text", "text": ""}]


def test_the_model_is_called_as_the_client_calls_it(served):
    url = served(ScriptedEngine("A", "B", "C"), [Messages()])
    assert plain(url, ASKED | {"model": "claude-haiku-4-5"})["model"] == "claude-haiku-4-5"
    assert plain(url, {name: value for name, value in ASKED.items() if name != "model"})["model"] == "gpt-oss-20b"
    status, error = asked(url, PATH, ASKED | {"model": "gpt-5"})
    assert status == 404 and error["error"]["type"] == "not_found_error"


def test_what_it_has_cost_is_told_and_can_be_asked_before(served):
    url = served(ScriptedEngine(REASONING + ANSWER), [Messages()])
    counted = asked(url, f"{PATH}/count_tokens?beta=true", ASKED)
    usage = plain(url, ASKED)["usage"]
    assert counted == (200, {"input_tokens": usage["input_tokens"]})
    assert usage["output_tokens"] == len(TOKENIZER.encode_with_specials(REASONING + ANSWER))
    assert usage["output_tokens_details"] == {"thinking_tokens": 3}
    assert usage["cache_read_input_tokens"] == usage["cache_creation_input_tokens"] == 0
    assert asked(url, f"{PATH}/count_tokens", {})[1]["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("told", ["all", "signature", "nothing"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_after_a_call_has_the_ids_that_the_model_wrote(served, told, stream):
    """Whether a client sends the reasoning back or not, and in whatever form."""
    wrote = TOKENIZER.encode_with_specials(REASONING + PREAMBLE)
    # As the tokenizer would not spell it.
    odd = [TOKENIZER.encode(letter)[0] for letter in '{"city":  "Paris"}']
    header = TOKENIZER.encode_with_specials(CALL[: CALL.index("{")])
    call = [*header, *odd, *TOKENIZER.encode_with_specials("<|call|>")]
    engine = ScriptedEngine([*wrote, *call], ANSWER)
    url = served(engine, [Messages()])
    thinking = {"type": "adaptive", "display": "omitted" if told == "signature" else "summarized"}
    said = (streamed if stream else plain)(url, ASKED | {"thinking": thinking})["content"]
    if told == "nothing":
        said = [block for block in said if block["type"] != "thinking"]
    result = {"type": "tool_result", "tool_use_id": said[-1]["id"], "content": [{"type": "text", "text": "18"}]}
    after = [USER, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
    plain(url, ASKED | {"thinking": thinking, "messages": after})
    first, second = (list(request.prompt) for request in engine.requests)
    answered = TOKENIZER.encode_with_specials(
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>18<|end|><|start|>assistant"
    )
    assert second == [*first, *wrote, *call, *answered]


@pytest.mark.parametrize("name", ["arguments that are no JSON", "arguments that are no object", "no arguments"])
def test_arguments_that_are_no_object_are_again_what_the_model_wrote(served, name):
    engine = ScriptedEngine(*SCRIPTS[name], ANSWER)
    url = served(engine, [Messages()])
    said = plain(url, ASKED)["content"]
    result = {"type": "tool_result", "tool_use_id": said[-1]["id"], "content": "no", "is_error": True}
    plain(
        url, ASKED | {"messages": [USER, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]}
    )
    first, second = (list(request.prompt) for request in engine.requests)
    wrote = TOKENIZER.encode_with_specials(*SCRIPTS[name])
    assert second[: len(first) + len(wrote)] == [*first, *wrote]


@pytest.mark.parametrize("shown", ["I think.", ""])
def test_reasoning_of_a_server_that_has_forgotten_it_comes_back_from_the_client(served, shown):
    engine = ScriptedEngine(ANSWER)
    url = served(engine, [Messages()])
    call = {"type": "tool_use", "id": "toolu_of_another", "name": "get_weather", "input": {}}
    after = [
        USER,
        {"role": "assistant", "content": [THOUGHT | {"thinking": shown}, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "18"}]},
    ]
    plain(url, ASKED | {"messages": after})
    prompt = TOKENIZER.decode(list(engine.requests[0].prompt))
    assert "analysis<|message|>I think.<|end|><|start|>assistant to=functions.get_weather<|channel|>" in prompt


class Searched(SystemTool):
    """A browser that finds one thing."""

    namespace = BROWSER

    def call(self, function: str, text: str) -> str:
        return f"{function} has found {json.loads(text)['query']}"


def test_the_servers_own_search_is_told_and_comes_back(served):
    search = "<|channel|>analysis to=browser.search code<|message|>" + '{"query":"x"}<|call|>'
    engine = ScriptedEngine(REASONING + search, REASONING + CALL, ANSWER)
    url = served(engine, [Messages(["browser"])], tools={"browser": BuiltinTool(lambda: [Searched()])})
    body = ASKED | {"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}
    message = streamed(url, body)
    _, own, found, _, call = message["content"]
    assert (own["type"], own["name"], own["input"]) == ("server_tool_use", "web_search", {"query": "x"})
    assert found["type"] == "web_search_tool_result" and found["tool_use_id"] == own["id"]
    assert found["content"][0]["type"] == "web_search_result"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "18"}
    after = [USER, {"role": "assistant", "content": message["content"]}, {"role": "user", "content": [result]}]
    plain(url, body | {"messages": after})
    prompts = [list(request.prompt) for request in engine.requests]
    assert prompts[2][: len(prompts[1])] == prompts[1]


def test_an_unfinished_stream_ends_with_the_error(served):
    failing = [*TOKENIZER.encode_with_specials("<|channel|>final<|message|>Hel"), DeviceError("no memory")]
    url = served(ScriptedEngine(failing, failing, DeviceError("no memory"), "B"), [Messages()])
    *_, last = events_of(echo.streamed(url, PATH, ASKED | {"stream": True}))
    assert last["type"] == "error" and last["error"] == {"type": "api_error", "message": "no memory"}
    with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
        asking: Any = {"model": "gpt-oss-20b", "max_tokens": 100, "messages": [USER]}
        with pytest.raises(anthropic.APIStatusError, match="no memory"), client.messages.stream(**asking) as stream:
            stream.get_final_message()
        with pytest.raises(anthropic.APIStatusError, match="no memory") as raised:
            client.messages.create(**asking)
        assert raised.value.status_code == 503 and raised.value.body["request_id"]
    assert plain(url, ASKED)["content"] == [{"type": "text", "text": "B"}]


def test_a_client_that_waits_gets_pings(served, monkeypatch):
    monkeypatch.setattr(connection, "_QUIET_SECONDS", 0.1)
    engine = HeldEngine("A")
    engine.hold("Hi")
    client = Client(served(engine, [Messages()]))
    with client.send(PATH, ASKED | {"stream": True, "thinking": {"type": "disabled"}}) as response:
        lines = [response.readline() for _ in range(6)]
        assert lines[3:5] == [b"event: ping\n", b'data: {"type":"ping"}\n']
        engine.release("Hi")
        assert b"message_stop" in response.read()


@pytest.mark.parametrize("display", ["summarized", "omitted"])
@pytest.mark.parametrize("answer", ["A", REASONING + ANSWER])
def test_a_client_that_waits_for_reasoning_gets_none_instead_of_pings(served, monkeypatch, answer, display):
    """Claude Code gives up after ten minutes of nothing but pings."""
    monkeypatch.setattr(connection, "_QUIET_SECONDS", 0.1)
    engine = HeldEngine(answer)
    engine.hold("Hi")
    client = Client(served(engine, [Messages()]))
    asking = ASKED | {"stream": True, "thinking": {"type": "adaptive", "display": display}}
    with client.send(PATH, asking) as response:
        lines = [response.readline().decode() for _ in range(12)]
        assert "ping" not in "".join(lines) and '"thinking_delta","thinking":""' in lines[10]
        engine.release("Hi")
        message = built(events_of("".join(lines) + response.read().decode()))
    kinds = [block["type"] for block in message["content"]]
    assert kinds == ["thinking", "text"]
    text = "I think." if answer != "A" else ""
    assert message["content"][0]["thinking"] == (text if display == "summarized" else "")
    assert reasoning_in(Fields(message["content"][0])) == text


def test_anthropics_own_client_reads_both(served):
    engine = ScriptedEngine(REASONING + CALL, REASONING + PREAMBLE + CALL, NO_ANSWER, ANSWER)
    url = served(engine, [Messages()])
    with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
        asking: Any = {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        thought, call = client.messages.create(**asking).content
        assert thought.thinking == "I think." and call.input == {"city": "Paris"}
        with client.messages.stream(**asking) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_message()
        assert {"thinking", "signature", "text", "input_json", "message_stop"} <= kinds
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
        assert final.content[2].input == {"city": "Paris"} and final.usage.output_tokens > 20
        with client.messages.stream(**asking) as stream:
            assert "".join(stream.text_stream) == "It is 18 \N{DEGREE SIGN}C."
        assert client.messages.count_tokens(model="gpt-oss-20b", messages=[USER]).input_tokens > 50


def test_what_the_server_itself_refuses_has_anthropics_form_too(served):
    url = served(ScriptedEngine(), [Messages()])
    for path, headers, kind in (
        (f"{PATH}/batches", {}, "not_found_error"),
        (PATH, {"Origin": "http://evil.example"}, "permission_error"),
    ):
        error = asked(url, path, ASKED, **headers)[1]
        assert error["type"] == "error" and error["error"]["type"] == kind and error["error"]["message"]


def test_errors_are_those_that_anthropics_client_knows(served):
    url = served(ScriptedEngine(context=50), [Messages()])
    with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
        asking: Any = {"model": "gpt-oss-20b", "max_tokens": 100}
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[1\] is of type 'image'"):
            client.messages.create(
                **asking, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]
            )
        with pytest.raises(
            anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 50 maximum: .* shorten the"
        ):
            client.messages.create(**asking, messages=[USER])
