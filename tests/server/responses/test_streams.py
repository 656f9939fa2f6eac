"""The events of a response follow each other as the API says, whatever the model writes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import httpx2 as httpx
import pytest

from mlx_oss import DeviceError, ScriptedEngine, Usage, load_tokenizer
from mlx_oss.events import AnswerDelta, Finished, PrefillProgress
from mlx_oss.server.asked import Cost
from mlx_oss.server.responses import Responses
from mlx_oss.tokenizer import CALL as CALL_ID
from mlx_oss.tokenizer import RETURN
from tests.server.responses.streams import check, events_of

START = "<|start|>assistant"
THINK = "<|channel|>analysis<|message|>Let me see.<|end|>"
LOOK = f"{START}<|channel|>commentary<|message|>I look it up.<|end|>"
CALL = f'{START}<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{"a": 1}}<|call|>'
ANSWER = f"{START}<|channel|>final<|message|>It is dry.<|return|>"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SPACE = {"type": "namespace", "name": "team", "description": "Others.", "tools": [{**TOOL, "name": "g"}]}
CUSTOM = {"type": "custom", "name": "patch", "description": "Changes files.", "format": {"type": "text"}}
SCRIPTS = {
    "answer": "It is dry.",
    "empty": "",
    "reasoning and answer": THINK + ANSWER,
    "preamble and answer": THINK + LOOK + ANSWER,
    "call": THINK + CALL,
    "preamble and call": THINK + LOOK + CALL,
    "call of a namespace": f"{THINK}{START}<|channel|>commentary to=team.g <|constrain|>json<|message|>{{}}<|call|>",
    "custom call": THINK + CALL.replace("functions.f", "functions.patch").replace('{"a": 1}', '{"input": "é\\n"}'),
    "custom call that is no JSON": THINK + CALL.replace("functions.f", "functions.patch").replace('{"a": 1}', "+ a"),
    "call without arguments": THINK + CALL.replace('{"a": 1}', ""),
    "call that is no JSON": THINK + CALL.replace('{"a": 1}', '{"a": '),
    "call of nothing known": THINK + CALL.replace("functions.f", "browser.search"),
    "no channel": "<|message|>It is dry.<|return|>",
    "unknown channel": "<|channel|>finale<|message|>It is dry.<|return|>",
    "broken header": f"<|channel|>analysis to=functions.f code<|message|>x<|end|><|start|>{START} final<|end|>{ANSWER}",
    "another role": f"{THINK}<|start|>user<|message|>And now?<|end|>{ANSWER}",
    "two answers": THINK + ANSWER.replace("<|return|>", "<|end|>") + ANSWER,
    "reasoning in pieces": THINK + START + THINK + ANSWER,
}


BODY: dict[str, Any] = {"input": "Is it dry?", "tools": [TOOL, SPACE, CUSTOM]}


@pytest.mark.parametrize("summary", [None, "auto"])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_events_build_the_response(asking, script, summary):
    wanted = {"reasoning": {"summary": summary}, "include": ["reasoning.encrypted_content"]}
    response = asking.stream(script, BODY | wanted)
    assert response["status"] == "completed"
    for item in response["output"]:
        if item["type"] == "reasoning":
            assert item["encrypted_content"] == item["content"][0]["text"] != ""


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_plain_response_is_the_same_as_the_end_of_a_stream(asking, script):
    assert without_ids(asking.plain(script, BODY)) == without_ids(asking.stream(script, BODY))


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: without_ids(each) for key, each in value.items() if key not in ("id", "call_id") and "_at" not in key}


@pytest.mark.parametrize("script", [THINK + LOOK + CALL, THINK + LOOK + ANSWER], ids=["call", "answer"])
@pytest.mark.parametrize("count", range(1, 30))
def test_a_response_may_be_cut_off_anywhere(asking, script, count):
    response = asking.stream(script, BODY | {"max_output_tokens": count})
    if response["status"] == "incomplete":
        assert response["incomplete_details"] == {"reason": "max_output_tokens"} and response["completed_at"] is None
        assert response["usage"]["output_tokens"] == count
        assert [item["status"] for item in response["output"][:-1]] == ["completed"] * (len(response["output"]) - 1)
        assert not any(item["type"] == "function_call" for item in response["output"])


@pytest.mark.parametrize("place", range(12))
def test_an_error_in_a_stream_is_its_last_event(asking, place):
    ids = load_tokenizer().encode_with_specials(THINK + LOOK + CALL)
    response = asking.stream([*ids[:place], DeviceError("no memory")], BODY)
    assert response["status"] == "failed" and response["error"] == {"code": "server_error", "message": "no memory"}


def test_an_error_before_a_stream_is_a_response_with_its_status(served):
    url = served(ScriptedEngine("x", context=100), [Responses()])
    answer = httpx.post(f"{url}/v1/responses", json={"input": "long " * 200, "stream": True})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"


def test_each_kind_of_item_has_what_clients_need(asking):
    response = asking.stream(THINK + LOOK + CALL, BODY)
    reasoning, preamble, call = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert preamble["phase"] == "commentary" and preamble["content"][0]["text"] == "I look it up."
    assert (call["name"], json.loads(call["arguments"])) == ("f", {"a": 1}) and "namespace" not in call
    (_, call) = asking.stream(SCRIPTS["call of a namespace"], BODY)["output"]
    assert (call["namespace"], call["name"], call["arguments"]) == ("team", "g", "{}")
    (_, call) = asking.stream(SCRIPTS["custom call"], BODY)["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", "é\n")
    (_, call) = asking.stream(SCRIPTS["custom call that is no JSON"], BODY)["output"]
    assert call["input"] == "+ a"
    (_, call) = asking.stream(SCRIPTS["call without arguments"], BODY)["output"]
    assert call["arguments"] == "{}"
    (message,) = asking.stream("", BODY)["output"]
    assert message["phase"] == "final_answer" and message["content"][0]["text"] == ""


def test_encrypted_reasoning_is_there_if_it_is_asked_for_and_never_null(asking):
    plain = asking.stream(THINK + CALL, BODY)["output"][0]
    assert "encrypted_content" not in plain
    included = asking.stream(THINK + CALL, {**BODY, "include": ["reasoning.encrypted_content"]})["output"][0]
    assert included["encrypted_content"] == included["content"][0]["text"] == "Let me see."


def test_tokens_are_counted_as_they_were_written(asking):
    usage = asking.stream(THINK + CALL, BODY)["usage"]
    assert usage["output_tokens"] == len(load_tokenizer().encode_with_specials(THINK + CALL))
    assert usage["output_tokens_details"]["reasoning_tokens"] == len(load_tokenizer().encode("Let me see."))
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("asked", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 3}])
def test_log_probabilities_come_with_the_text(asking, asked):
    response = asking.stream(THINK + ANSWER, BODY | asked)
    assert "".join(one["token"] for one in response["output"][1]["content"][0]["logprobs"]) == "It is dry."
    assert asking.stream(THINK + ANSWER, BODY)["output"][1]["content"][0]["logprobs"] == []


def test_the_check_notices_an_event_that_is_missing_twice_or_changed(asking):
    asking.engine.says(THINK + LOOK + CALL)
    events = events_of(asking.post(BODY | {"stream": True, "reasoning": {"summary": "auto"}}).text)
    check(events)

    def numbered(changed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event | {"sequence_number": number} for number, event in enumerate(changed)]

    for place, event in enumerate(events):
        rest = events[place + 1 :]
        may_come_twice = event["type"] == "response.in_progress"
        for changed in ([*events[:place], *rest], [*events[:place], event, event, *rest])[: 1 if may_come_twice else 2]:
            with pytest.raises(AssertionError):
                check(numbered(changed))
        if "delta" in event:
            with pytest.raises(AssertionError):
                check([*events[:place], event | {"delta": event["delta"] + "x"}, *rest])


def random_script(random: Random) -> list[int]:
    """Ids that a bad model might write: pieces of messages in any order, and an end."""
    ids = TOKENIZER.encode_with_specials(random.choice([THINK, ""]))
    for _ in range(random.randrange(12)):
        ids += TOKENIZER.encode_with_specials(random.choice(PIECES))
    return [*ids, random.choice([RETURN, RETURN, CALL_ID])]


TOKENIZER = load_tokenizer()
PIECES = [
    *SCRIPTS.values(),
    *"<|start|> <|end|> <|message|> <|channel|> <|constrain|> assistant user final analysis commentary".split(),
    *(
        "{}",
        "dry",
        " 🌧️",
        "\n",
        "<|start|>assistant<|channel|>commentary<|message|>",
        " to=team.g",
        " to=functions.f",
        " code",
    ),
]


@pytest.mark.parametrize("seed", range(60))
def test_the_events_build_the_response_whatever_the_model_writes(asking, seed):
    random = Random(seed)
    for _ in range(2):
        for _ in range(3):  # a turn may need more rounds
            asking.engine.says(random_script(random))
        asking.engine.says("Enough.")
        summary = random.choice([None, "auto"])
        answer = asking.post(BODY | {"stream": True, "reasoning": {"summary": summary}, "max_output_tokens": 400})
        assert check(events_of(answer.text))["status"] in ("completed", "incomplete")
        asking.engine._answers.clear()


def test_a_client_that_waits_is_told_how_much_of_the_prompt_is_read():
    body = {"input": "Hi", "stream": True}
    asked = Responses().asked(body)
    writer = Responses().writer(asked, "gpt-oss-20b")
    events = [*writer.wait(), *writer.begin(9), *writer.take(PrefillProgress(3, 9)), *writer.wait()]
    assert [name for name, _ in events] == ["response.created", "response.in_progress", "response.in_progress"]
    assert events[-1][1]["prompt_progress"] == {"read_tokens": 3, "tokens": 9}
    events += [*writer.take(Finished("stop", Usage())), *writer.end([Cost()])]
    assert check([dict(data) for _, data in events])["status"] == "completed"


def test_a_response_that_repeats_itself_without_end_is_incomplete():
    writer = Responses().writer(Responses().asked({"input": "Hi", "stream": True}), "gpt-oss-20b")
    events = [*writer.begin(9), *writer.take(AnswerDelta("a a a")), *writer.take(Finished("repetition", Usage()))]
    assert check([dict(data) for _, data in (*events, *writer.end([Cost()]))])["status"] == "incomplete"


def test_an_error_of_this_program_is_told_without_its_text():
    writer = Responses().writer(Responses().asked({"input": "Hi", "stream": True}), "gpt-oss-20b")
    failed = check([dict(data) for _, data in writer.fail(ValueError("secret"))])
    assert "secret" not in failed["error"]["message"] and failed["error"]["code"] == "server_error"
