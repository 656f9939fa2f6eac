"""Whatever the model writes, a response and the chunks of a stream say the same, in a form that clients read."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from mlx_oss import DeviceError, ScriptedEngine, load_tokenizer
from mlx_oss.server import connection
from mlx_oss.server.chat_completions import PATH, ChatCompletions
from mlx_oss.server.toolbox import BuiltinTool
from mlx_oss.tools import tool_from
from tests.engines import HeldEngine
from tests.server import echo
from tests.server.chat_completions.streams import built, chunks_of, valid
from tests.server.echo import Client, asked
from tests.server.scripts import ANSWER, CALL, LONG, NO_ANSWER, PREAMBLE, REASONING, SCRIPTS, call_of

TOKENIZER = load_tokenizer()
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Gets the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = {"model": "gpt-oss-20b", "messages": [USER], "tools": [WEATHER]}


def streamed(url: str, body: dict[str, Any]) -> dict[str, Any]:
    return built(chunks_of(echo.streamed(url, PATH, body | {"stream": True})))


def plain(url: str, body: dict[str, Any]) -> dict[str, Any]:
    status, response = asked(url, PATH, body)
    assert status == 200, response
    return valid(response)


def both(served: Any, scripts: list[str], **body: Any) -> dict[str, Any]:
    """The choice of the response, which is the same in both forms."""
    url = served(ScriptedEngine(*scripts, *scripts), [ChatCompletions()])
    whole = plain(url, ASKED | body)
    stream = streamed(url, ASKED | body | {"stream_options": {"include_usage": True}})
    if "prompt_tokens_details" in whole["usage"]:
        assert stream["usage"] == whole["usage"]
    for response in (whole, stream):
        for choice in response["choices"]:
            for call in choice["message"].get("tool_calls", ()):
                assert call.pop("id").startswith("call_")
    assert stream["choices"] == whole["choices"]
    return whole["choices"][0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_whatever_the_model_writes_is_a_response(served, name):
    choice = both(served, SCRIPTS[name])
    assert "<|" not in json.dumps(choice)


def test_each_kind_of_text_has_its_place(served):
    choice = both(served, [REASONING + PREAMBLE + CALL])
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "I look.",
        "refusal": None,
        "annotations": [],
        "reasoning": "I think.",
        "reasoning_content": "I think.",
        "tool_calls": [{"type": "function", "function": function}],
    }
    assert both(served, [PREAMBLE + ANSWER])["message"]["content"] == "I look.\n\nIt is 18 \N{DEGREE SIGN}C."
    assert both(served, SCRIPTS["no arguments"])["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_an_answer_in_a_format_stands_alone(served):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    script = [REASONING + PREAMBLE + "<|channel|>final<|message|>{}<|return|>"]
    message = both(served, script, response_format=wanted)["message"]
    assert message["content"] == "{}" and message["reasoning"] == "I think.\n\nI look."


def test_an_answer_that_is_cut_off_says_so(served):
    assert both(served, [LONG], max_tokens=20)["finish_reason"] == "length"
    assert both(served, [LONG], max_tokens=20)["message"]["content"] == ""
    choice = both(served, ["One. Two. Three."], stop=[" Three"])
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == "One. Two."


def test_a_custom_tool_is_called_with_a_text(served):
    tools = [{"type": "custom", "custom": {"name": "patch"}}]
    choice = both(served, [call_of("functions.patch", '{"input": "*** Begin\\n"}')], tools=tools)
    assert choice["message"]["tool_calls"] == [{"type": "custom", "custom": {"name": "patch", "input": "*** Begin\n"}}]


def test_tokens_have_their_probabilities_and_bytes(served):
    choice = both(
        served, [REASONING + "<|channel|>final<|message|>\N{FAMILY} Hi.<|return|>"], logprobs=True, top_logprobs=2
    )
    content = choice["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "\N{FAMILY} Hi."
    assert all(token["logprob"] == 0 and token["top_logprobs"] == [] for token in content)


def test_several_answers_are_written_at_the_same_time(served):
    url = served(ScriptedEngine("One.", "Two.", "One.", "Two."), [ChatCompletions()])
    for response in (plain(url, ASKED | {"n": 2}), streamed(url, ASKED | {"n": 2})):
        assert {choice["message"]["content"] for choice in response["choices"]} == {"One.", "Two."}
        assert [choice["index"] for choice in response["choices"]] == [0, 1]


def test_what_it_has_cost_is_told(served):
    url = served(ScriptedEngine(REASONING + ANSWER), [ChatCompletions()])
    usage = plain(url, ASKED)["usage"]
    written = TOKENIZER.encode_with_specials(REASONING + ANSWER)
    assert usage["completion_tokens"] == len(written)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_the_servers_own_tools_are_run_and_not_told(served):
    def browser() -> str:
        """Searches."""
        return "found"

    engine = ScriptedEngine(REASONING + call_of("functions.browser", "{}"), REASONING + ANSWER)
    tools = {"browser": BuiltinTool(lambda: [tool_from(browser)])}
    url = served(engine, [ChatCompletions(["browser"])], tools=tools)
    choice = plain(url, {"messages": [USER], "web_search_options": {}})["choices"][0]
    assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]
    assert "found" in TOKENIZER.decode(list(engine.requests[1].prompt))


@pytest.mark.parametrize("told", ["all", "reasoning", "reasoning_content", "nothing"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_after_a_call_has_the_ids_that_the_model_wrote(served, told, stream):
    """Whether a client sends the reasoning back or not, and whatever it calls it."""
    wrote = TOKENIZER.encode_with_specials(REASONING + PREAMBLE)
    # As the tokenizer would not spell it.
    odd = [TOKENIZER.encode(letter)[0] for letter in '{"city":"Paris"}']
    header = TOKENIZER.encode_with_specials(CALL[: CALL.index("{")])
    call = [*header, *odd, *TOKENIZER.encode_with_specials("<|call|>")]
    engine = ScriptedEngine([*wrote, *call], ANSWER)
    url = served(engine, [ChatCompletions()])
    message = (streamed if stream else plain)(url, ASKED)["choices"][0]["message"]
    kept = {"all": ("reasoning", "reasoning_content"), "nothing": ()}.get(told, (told,))
    message = {key: value for key, value in message.items() if "reasoning" not in key or key in kept}
    message["tool_calls"][0]["function"]["arguments"] = '{ "city": "Paris" }'  # some clients write it anew
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "18"}
    plain(url, ASKED | {"messages": [USER, message, result]})
    first, second = (list(request.prompt) for request in engine.requests)
    answered = TOKENIZER.encode_with_specials(
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>18<|end|><|start|>assistant"
    )
    assert second == [*first, *wrote, *call, *answered]


def test_a_preamble_that_was_told_as_reasoning_is_a_preamble_again(served):
    engine = ScriptedEngine(REASONING + PREAMBLE + CALL, "<|channel|>final<|message|>{}<|return|>")
    url = served(engine, [ChatCompletions()])
    wanted = ASKED | {"response_format": {"type": "json_object"}}
    message = plain(url, wanted)["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "18"}
    plain(url, wanted | {"messages": [USER, message, result]})
    first, second = (list(request.prompt) for request in engine.requests)
    wrote = TOKENIZER.encode_with_specials(REASONING + PREAMBLE + CALL)
    assert second[: len(first) + len(wrote)] == [*first, *wrote]


def test_reasoning_of_a_server_that_has_forgotten_it_comes_back_from_the_client(served):
    engine = ScriptedEngine(ANSWER)
    url = served(engine, [ChatCompletions()])
    call = {"id": "call_of_another", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "reasoning": "I think.", "tool_calls": [call]}
    plain(url, ASKED | {"messages": [USER, said, {"role": "tool", "tool_call_id": call["id"], "content": "18"}]})
    prompt = TOKENIZER.decode(list(engine.requests[0].prompt))
    assert "analysis<|message|>I think.<|end|><|start|>assistant to=functions.get_weather<|channel|>" in prompt


def test_reasoning_of_turns_that_are_answered_is_left_out(served):
    engine = ScriptedEngine(REASONING + ANSWER, ANSWER)
    url = served(engine, [ChatCompletions()])
    message = plain(url, ASKED)["choices"][0]["message"]
    plain(url, ASKED | {"messages": [USER, message, USER]})
    prompt = TOKENIZER.decode(list(engine.requests[1].prompt))
    assert "I think" not in prompt and "It is 18 \N{DEGREE SIGN}C.<|end|>" in prompt


def test_an_unfinished_stream_ends_with_the_error(served):
    failing = [*TOKENIZER.encode_with_specials("<|channel|>final<|message|>Hel"), DeviceError("no memory")]
    url = served(ScriptedEngine(failing, DeviceError("no memory"), "B"), [ChatCompletions()])
    *chunks, last = chunks_of(echo.streamed(url, PATH, ASKED | {"stream": True}))
    assert last == {"error": {"message": "no memory", "type": "server_error", "param": None, "code": None}}
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    with client, pytest.raises(openai.APIStatusError, match="no memory") as raised:
        client.chat.completions.create(model="gpt-oss-20b", messages=[{"role": "user", "content": "Hi"}])
    assert raised.value.status_code == 503
    assert plain(url, ASKED)["choices"][0]["message"]["content"] == "B"


def test_a_client_that_waits_gets_empty_deltas(served, monkeypatch):
    monkeypatch.setattr(connection, "_QUIET_SECONDS", 0.1)
    engine = HeldEngine("A")
    engine.hold("Hi")
    client = Client(served(engine, [ChatCompletions()]))
    with client.send(PATH, ASKED | {"stream": True}) as response:
        lines = [response.readline() for _ in range(4)]
        assert json.loads(lines[2].removeprefix(b"data: "))["choices"][0]["delta"] == {}
        engine.release("Hi")
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_openais_own_client_reads_both(served):
    url = served(ScriptedEngine(REASONING + CALL, REASONING + PREAMBLE + CALL, NO_ANSWER, ANSWER), [ChatCompletions()])
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        asking: Any = {"model": "gpt-oss-20b", "messages": [USER], "tools": [WEATHER]}
        completion = client.chat.completions.create(**asking)
        assert completion.choices[0].message.tool_calls[0].function.name == "get_weather"
        with client.chat.completions.stream(**asking, stream_options={"include_usage": True}) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        assert {"chunk", "content.delta", "tool_calls.function.arguments.delta"} <= kinds
        assert final.choices[0].message.content == "I look." and final.usage.completion_tokens > 5
        with client.chat.completions.create(**asking, stream=True) as chunks:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "It is 18 \N{DEGREE SIGN}C."


def test_errors_are_those_that_openais_client_knows(served):
    url = served(ScriptedEngine(context=50), [ChatCompletions()])
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-5", messages=[USER])
        assert missing.value.code == "model_not_found"
        image: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
        with pytest.raises(openai.BadRequestError) as image_refused:
            client.chat.completions.create(model="gpt-oss-20b", messages=[image])
        assert image_refused.value.param == "messages[0].content[0]"
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model="gpt-oss-20b", messages=[USER])
        assert long.value.code == "context_length_exceeded"
