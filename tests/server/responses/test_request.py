"""What a request may say, and what it is told if it says something else."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
G = {**F, "name": "g"}
SPACE = {"type": "namespace", "name": "team", "description": "Other agents.", "tools": [F, {**F, "name": "close"}]}
CUSTOM = {
    "type": "custom",
    "name": "patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "+"'},
}
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "3"}


def constraint(asking: Any) -> Any:
    return asking.engine.requests[-1].constraint._rules


SENT = [
    path
    for path in sorted(Path(__file__).parent.parent.glob("clients/*.json"))
    if json.loads(path.read_text())["path"] == "/v1/responses"
]


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_what_clients_send_is_answered(asking, path):
    body = json.loads(path.read_text())["body"]
    if body.get("previous_response_id"):
        assert asking.refused(body)["code"] == "previous_response_not_found"
        del body["previous_response_id"]
    if body.get("stream"):
        response = asking.stream("Yes.", body)
    elif body.get("text", {}).get("format", {}).get("type") == "json_schema":
        response = asking.plain('{"city": "Paris"}', body)
    else:
        response = asking.plain("Yes.", body)
    assert response["status"] == "completed"


def test_a_model_is_loaded_by_a_request_for_nothing(asking):
    response = asking.plain("Hello.", {"model": "gpt-oss-20b", "input": "", "max_output_tokens": 1})
    assert response["status"] == "incomplete" and response["usage"]["output_tokens"] == 1


WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({}, "input"),
    ({"input": 3}, "input"),
    ({"input": ["Hi"]}, "input[0]"),
    ({"input": [{"text": "Hi"}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    (
        {"input": [USER, {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
        "input[1].content[0]",
    ),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
    ({"input": [USER, RESULT]}, "input[1].call_id"),
    ({"input": [USER, CALL, RESULT, RESULT]}, "input[3].call_id"),
    ({"input": [USER, {**CALL, "name": None}]}, "input[1].name"),
    ({"input": [USER, {**CALL, "name": "a b"}]}, "input[1].name"),
    ({"input": [USER, {**CALL, "name": "f<|call|>"}]}, "input[1].name"),
    ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
    ({"instructions": 3}, "instructions"),
    ({"tools": {}}, "tools"),
    ({"tools": ["f"]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{**F, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{**CUSTOM, "name": "a.b"}]}, "tools[0].name"),
    ({"tools": [{**F, "parameters": "x"}]}, "tools[0].parameters"),
    ({"tools": [F, F]}, "tools[1].name"),
    ({"tools": [{**SPACE, "tools": [F, F]}]}, "tools[0].tools[1].name"),
    ({"tools": [{**SPACE, "name": "assistant"}]}, "tools[0].name"),
    ({"tool_choice": "f"}, "tool_choice"),
    ({"tool_choice": "required"}, None),
    ({"tools": [F], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"tools": [F], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}}, "tool_choice.mode"),
    ({"reasoning": "high"}, "reasoning"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "strict": True, "schema": {"type": "nothing"}}}}, None),
    ({"text": {"verbosity": "loud"}}, "text.verbosity"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"max_tool_calls": -1}, "max_tool_calls"),
    ({"metadata": "x"}, "metadata"),
    ({"stream": "yes"}, "stream"),
    ({"store": 1}, "store"),
    ({"include": "x"}, "include"),
    ({"truncation": "some"}, "truncation"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "x"}}, "prompt"),
    ({"previous_response_id": "resp_x"}, "previous_response_id"),
    ({"model": "gpt-7"}, "model"),
]


@pytest.mark.parametrize(("wrong", "param"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_told_with_its_place(asking, wrong, param):
    body = {"input": "Hi", **wrong} if wrong else {}
    for path in ("", "/input_tokens"):
        error = asking.refused(body, path)
        assert error["param"] == param and error["message"]


@pytest.mark.parametrize("body", [[], "x", None, 3])
def test_what_is_no_object_is_refused(asking, body):
    assert "the body" in asking.refused(body)["message"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_numbers_that_no_response_could_repeat_are_refused(asking, number):
    content = f'{{"input": "Hi", "metadata": {{"a": {number}}}}}'
    answer = asking.client.post(
        f"{asking.url}/v1/responses", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400 and f"it has the number {number}" in answer.json()["error"]["message"]


IGNORED: list[dict[str, Any]] = [
    {"something": "new"},
    {"tools": [{"type": "computer_use_preview"}, {"type": "mcp", "server_label": "x"}, {}, {"type": 3}]},
    {"tools": [{"type": "namespace", "name": "team", "tools": []}]},
    {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
    {"tools": None, "tool_choice": None, "reasoning": None, "text": None, "metadata": None, "include": None},
    {"background": False, "conversation": None, "temperature": None, "max_output_tokens": None, "store": None},
    {"input": [USER, {"type": "computer_call", "id": "x"}, {"type": "compaction", "encrypted_content": "x"}]},
    {"input": [USER, {"type": "reasoning", "summary": []}, {"type": "reasoning", "encrypted_content": None}]},
    {"input": [USER, {**CALL, "arguments": '{"a": '}, RESULT]},
    {"input": [USER, {**CALL, "arguments": {"a": 1}}, {**RESULT, "output": {"b": 2}}]},
    {"input": [USER, {**CALL, "name": "never_described"}, {**RESULT, "output": None}]},
    {"input": [USER, CALL, {**RESULT, "output": [{"type": "input_text", "text": "3"}]}]},
    {"input": [USER, CALL, USER]},
    {"input": []},
]


@pytest.mark.parametrize("more", IGNORED, ids=lambda value: str(value)[:60])
def test_what_is_not_understood_but_harmless_is_passed_over(asking, more):
    asking.engine.says("Yes.")
    assert asking.post({"input": "Hi", **more}).json()["status"] == "completed"


def test_instructions_at_the_head_are_those_of_the_developer_and_later_ones_stay(asking):
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "B"}, {"type": "input_text", "text": "C"}]},
        {"role": "system", "content": "D"},
        USER,
        {"role": "developer", "content": "E"},
    ]
    asking.plain("Yes.", {"instructions": "A", "input": items})
    assert "# Instructions\n\nA\n\nB\n\nC\n\nD<|end|><|start|>user" in asking.prompt
    assert asking.prompt.endswith("# Instructions\n\nE<|end|><|start|>assistant")


def test_functions_and_namespaces_are_described_as_the_model_knows_them(asking):
    asking.plain("Yes.", {"input": "Hi", "tools": [F, SPACE, CUSTOM, {**SPACE, "tools": [G]}]})
    assert (
        "## team\n\n// Other agents.\nnamespace team {\n\ntype f = (_: {\na?: number,\n}) => any;\n\ntype close"
        in asking.prompt
    )
    assert "type g" in asking.prompt.partition("namespace team")[2]
    assert '// Changes files.\n// \n// The input follows this lark grammar:\n// start: "+"\ntype patch' in asking.prompt
    assert set(constraint(asking).recipients) == {"functions.f", "functions.patch", "team.f", "team.close", "team.g"}


ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
CHOICES: list[tuple[Any, set[str], set[str] | None]] = [
    ("auto", {"functions.f", "functions.g", "team.close"}, None),
    ("none", set(), None),
    ("required", {"functions.f", "functions.g", "team.close"}, {"functions.f", "functions.g", "team.close"}),
    ({"type": "function", "name": "g"}, {"functions.f", "functions.g", "team.close"}, {"functions.g"}),
    ({"type": "function", "function": {"name": "g"}}, {"functions.f", "functions.g", "team.close"}, {"functions.g"}),
    ({"type": "function", "name": "close"}, {"functions.f", "functions.g", "team.close"}, {"team.close"}),
    (
        {"type": "function", "name": "close", "namespace": "team"},
        {"functions.f", "functions.g", "team.close"},
        {"team.close"},
    ),
    (ALLOWED, {"functions.f"}, None),
    ({**ALLOWED, "mode": "required"}, {"functions.f"}, {"functions.f"}),
    ({**ALLOWED, "tools": [{"type": "function", "name": "close"}, {"type": "mcp"}]}, {"team.close"}, None),
    ({**ALLOWED, "tools": [{"type": "web_search"}]}, set(), None),
]


@pytest.mark.parametrize(("choice", "may", "must"), CHOICES, ids=map(str, range(len(CHOICES))))
def test_the_choice_of_tools_holds_and_changes_no_prompt(asking, choice, may, must):
    tools = [F, G, {**SPACE, "tools": [{**F, "name": "close"}]}]
    asking.engine.says("Yes.")
    assert asking.post({"input": "Hi", "tools": tools, "tool_choice": choice}).status_code == 200
    rules = constraint(asking)
    assert set(rules.recipients) == may and (rules.must_call and set(rules.must_call)) == must
    assert "type g" in asking.prompt and "type close" in asking.prompt


EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
    None: "medium",
}


@pytest.mark.parametrize(("asked", "told"), EFFORTS.items())
def test_efforts_are_those_that_the_model_knows(asking, asked, told):
    response = asking.plain("Yes.", {"input": "Hi", "reasoning": {"effort": asked}})
    assert f"Reasoning: {told}\n" in asking.prompt and response["reasoning"]["effort"] == (asked or "medium")


def test_without_reasoning_the_answer_begins_at_once_unless_there_are_tools(asking):
    asking.plain("Yes.", {"input": "Hi", "reasoning": {"effort": "none"}})
    assert asking.prompt.endswith("<|channel|>final<|message|>")
    asking.plain("Yes.", {"input": "Hi", "reasoning": {"effort": "none"}, "tools": [F]})
    assert asking.prompt.endswith("<|start|>assistant") and "Reasoning: low\n" in asking.prompt
    assert constraint(asking).max_reasoning_tokens == 0


def test_the_answer_has_the_format_that_is_asked_for_and_the_reasoning_has_not(asking):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    format_ = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    response = asking.plain('{"city": "Oslo"}', {"input": "Hi", "text": {"format": format_}})
    assert response["text"] == {"format": format_, "verbosity": "medium"}
    assert "# Response Formats\n\n## city" in asking.prompt and constraint(asking).answer is not None
    asking.plain("{}", {"input": "Hi", "text": {"format": {"type": "json_object"}}})
    assert constraint(asking).answer is not None
    asking.plain("Yes.", {"input": "Hi", "text": {"format": {"type": "text"}, "verbosity": "low"}})
    assert constraint(asking).answer is None


def test_a_response_repeats_what_was_asked(asking):
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 99,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "prompt_cache_key": "key",
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 2,
        "tool_choice": "none",
        "truncation": "auto",
        "user": "u",
        "metadata": {"a": "b"},
    }
    response = asking.plain("Yes.", {"input": "Hi", "tools": [F], **asked})
    assert {name: response[name] for name in asked} == asked
    assert response["tools"] == [{"strict": False, "description": None, **F}]
    request = asking.engine.requests[-1]
    assert (request.options.temperature, request.options.top_p, request.max_tokens) == (0.5, 0.9, 99)


def test_an_image_that_a_tool_returned_does_not_end_the_conversation(asking):
    output = [{"type": "input_text", "text": "Here."}, {"type": "input_image", "image_url": "data:image/png;base64,x"}]
    asking.plain("Yes.", {"input": [USER, CALL, {**RESULT, "output": output}], "tools": [F]})
    assert "Here.\n(an image, which this model cannot see)<|end|>" in asking.prompt


def test_calls_made_together_are_each_followed_by_their_result(asking):
    second = {**CALL, "call_id": "call_2", "arguments": '{"a": 2}'}
    results = [{**RESULT, "call_id": "call_2", "output": "two"}, RESULT]
    asking.plain("Yes.", {"input": [USER, CALL, second, *results], "tools": [F]})
    places = [asking.prompt.index(text) for text in ("{}<|call|>", ">3<|end|>", '{"a": 2}', "two")]
    assert places == sorted(places)


def test_an_item_can_be_named_by_its_id_if_it_is_stored(asking):
    stored = asking.plain("Quite dry.", {"input": [USER]})
    asking.plain("Yes.", {"input": [USER, {"type": "item_reference", "id": stored["output"][0]["id"]}, USER]})
    assert "<|channel|>final<|message|>Quite dry.<|end|><|start|>user" in asking.prompt
    unstored = asking.plain("Quite dry.", {"input": [USER], "store": False})
    error = asking.refused({"input": [USER, {"id": unstored["output"][0]["id"]}]})
    assert error["param"] == "input[1].id"


def test_the_oldest_turns_are_left_out_only_if_that_is_asked_for(served):
    import httpx2 as httpx

    from mlx_oss import ScriptedEngine, load_tokenizer
    from mlx_oss.server.responses import Responses

    engine = ScriptedEngine("Yes.", "Yes.", context=400)
    url = served(engine, [Responses()]) + "/v1/responses"
    items = [
        item
        for n in range(30)
        for item in ({"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "Yes."})
    ]
    items.append({"role": "user", "content": "The last one?"})
    assert httpx.post(url, json={"input": items}).json()["error"]["code"] == "context_length_exceeded"
    first = httpx.post(url, json={"input": items, "truncation": "auto"}).json()
    prompt = load_tokenizer().decode(list(engine.requests[-1].prompt))
    assert first["status"] == "completed" and "The last one?" in prompt and "Question 0?" not in prompt
    items[-1]["content"] = "long " * 500
    failed = httpx.post(url, json={"input": items, "truncation": "auto"}).json()
    assert failed["error"]["code"] == "context_length_exceeded"


def test_a_conversation_of_many_thousand_calls_holds_up_nobody(asking):
    items: list[dict[str, Any]] = [USER]
    for number in range(8000):
        items += [{**CALL, "call_id": f"call_{number}"}, {**RESULT, "call_id": f"call_{number}"}]
    asking.engine.says("Yes.")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asking.post, {"input": items, "tools": [F]})
        while not answer.done():
            assert asking.client.get(f"{asking.url}/health", timeout=5).status_code == 200
    error = answer.result().json().get("error")
    assert error is None or error["code"] == "context_length_exceeded"
