"""What the model wrote stands in the next prompt token by token, however the client gives it back."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_oss import load_tokenizer
from mlx_oss.tokenizer import CALL as CALL_ID
from mlx_oss.tokenizer import END, RETURN

TOKENIZER = load_tokenizer()
START = "<|start|>assistant"
THINK = "<|channel|>analysis<|message|>Let me see.<|end|>"
LOOK = f"{START}<|channel|>commentary<|message|>I look it up.<|end|>"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SPACE = {"type": "namespace", "name": "team", "description": "Others.", "tools": [{**TOOL, "name": "g"}]}
CUSTOM = {"type": "custom", "name": "patch", "description": "Changes files."}
# Spelled as no program would spell it: from the text alone, other ids would be made.
CALLS = {
    "function": f'{START} to=functions.f<|channel|>commentary json<|message|>{{ "a":1}}<|call|>',
    "namespace": f'{START}<|channel|>commentary to=team.g<|constrain|>json<|message|>{{"a" : 1}}<|call|>',
    "custom": f'{START}<|channel|>commentary to=functions.patch json<|message|>{{"input":"+a"}}<|call|>',
    "no JSON": f'{START}<|channel|>commentary to=functions.f json<|message|>{{"a": <|call|>',
    "no arguments": f"{START}<|channel|>commentary to=functions.f json<|message|><|call|>",
}


def split_ids(text: str) -> list[int]:
    """Ids of a text, with its words in pieces that an encoder would not make."""
    ids = list[int]()
    for id_ in TOKENIZER.encode_with_specials(text):
        piece = TOKENIZER.decode([id_])
        ids += [TOKENIZER.encode(letter)[0] for letter in piece] if piece.isascii() and piece.isalpha() else [id_]
    assert TOKENIZER.decode(ids) == text
    return ids


def keep(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return items


def only_encrypted(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [i | {"content": None, "summary": []} if i["type"] == "reasoning" else i for i in items]


def only_summary(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [i | {"content": [], "encrypted_content": None} if i["type"] == "reasoning" else i for i in items]


def without_reasoning(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["type"] != "reasoning"]


def without_ids_and_phase(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: item[key] for key in item if key not in ("id", "status", "phase")} for item in items]


def only_calls(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if "call" in item["type"]]


WAYS = [keep, only_encrypted, only_summary, without_reasoning, without_ids_and_phase, only_calls]


def result(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": "3"}


def body(items: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    include = ["reasoning.encrypted_content"]
    return {"input": items, "tools": [TOOL, SPACE, CUSTOM], "include": include, "store": False, **more}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_ids_of_a_round_stand_in_the_next_prompt(asking, call, way):
    written = split_ids(THINK + LOOK + call)
    items: list[dict[str, Any]] = [{"role": "user", "content": f"Is it dry? {call} {way}"}]
    prompt: list[int] = []
    for _ in range(3):  # the calls of a turn
        output = asking.stream(written, body(items))["output"]
        if prompt:
            assert list(asking.engine.requests[-1].prompt)[: len(prompt)] == prompt
        prompt = [*asking.engine.requests[-1].prompt, *written]
        items += [*way(output), result(output[-1])]
    asking.plain("It is.", body(items))
    assert list(asking.engine.requests[-1].prompt)[: len(prompt)] == prompt


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_response_that_is_continued_by_its_id_has_its_ids(asking, call):
    written = split_ids(THINK + LOOK + call)
    asked = body([{"role": "user", "content": f"Is it dry? {call}"}], store=True)
    first = asking.stream(written, asked)
    prompt = [*asking.engine.requests[-1].prompt, *written]
    asked = body([result(first["output"][-1])], store=True, previous_response_id=first["id"])
    second = asking.stream(split_ids(THINK + START + "<|channel|>final<|message|>It is.<|return|>"), asked)
    assert second["previous_response_id"] == first["id"]
    assert list(asking.engine.requests[-1].prompt)[: len(prompt)] == prompt
    asking.plain("Yes.", body([{"role": "user", "content": "Sure?"}], previous_response_id=second["id"]))
    told = asking.prompt
    assert told.count("Let me see.") == 0 and told.count("I look it up.") == 1  # what is answered keeps no reasoning
    answer = split_ids(START + "<|channel|>final<|message|>It is.<|end|>")
    assert contains(list(asking.engine.requests[-1].prompt), answer)


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))


def test_an_answer_that_is_given_back_keeps_its_ids(asking):
    written = split_ids(THINK + START + "<|channel|>final<|message|>Quite unusually dry.<|return|>")
    items: list[dict[str, Any]] = [{"role": "user", "content": "Is it dry today?"}]
    output = asking.plain(written, body(items))["output"]
    asking.plain("Yes.", body([*items, *output, {"role": "user", "content": "Sure?"}]))
    answer = [
        END if id_ == RETURN else id_
        for id_ in split_ids(START + "<|channel|>final<|message|>Quite unusually dry.<|end|>")
    ]
    assert contains(list(asking.engine.requests[-1].prompt), answer) and CALL_ID not in answer


def test_reasoning_that_nobody_remembers_is_read_from_whichever_form_it_has(asking):
    call = {"type": "function_call", "name": "f", "call_id": "call_of_another_server", "arguments": '{"a": 2}'}
    output = {"type": "function_call_output", "call_id": "call_of_another_server", "output": "3"}
    forms: list[dict[str, Any]] = [
        {"content": [{"type": "reasoning_text", "text": "I think."}], "encrypted_content": "x", "summary": []},
        {"encrypted_content": "I think.", "summary": [{"type": "summary_text", "text": "x"}]},
        {"encrypted_content": "gAAAA" + "x" * 99, "summary": [{"type": "summary_text", "text": "I think."}]},
        {"summary": [{"type": "summary_text", "text": "I think."}], "content": None},
    ]
    for form in forms:
        asking.plain("It is.", body([{"role": "user", "content": "Hi"}, {"type": "reasoning", **form}, call, output]))
        assert asking.prompt.endswith(
            "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>I think.<|end|>"
            '<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a": 2}<|call|>'
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>3<|end|><|start|>assistant"
        )


def test_reasoning_that_a_client_has_changed_is_read_as_it_is_told(asking):
    items: list[dict[str, Any]] = [{"role": "user", "content": "Is it wet?"}]
    reasoning, call = asking.plain(THINK + CALLS["function"], body(items))["output"]
    changed = reasoning | {"content": [{"type": "reasoning_text", "text": "Something else."}]}
    asking.plain("It is.", body([*items, changed, call, result(call)]))
    assert "Something else." in asking.prompt and "Let me see." not in asking.prompt
