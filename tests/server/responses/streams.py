"""Checks the events of a streamed response: that they follow each other as the API says, and build what they announce.

Written from the documentation of the API, and without the code that writes the events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

LAST = ("response.completed", "response.incomplete", "response.failed")
KEYS = set(
    """
    id object created_at completed_at status background error incomplete_details instructions max_output_tokens
    max_tool_calls model output parallel_tool_calls previous_response_id prompt_cache_key reasoning safety_identifier
    service_tier store temperature text tool_choice tools top_logprobs top_p truncation usage user metadata
    presence_penalty frequency_penalty
    """.split()
)
EVENTS = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
_PIECES = {  # events with a piece: where the piece belongs in the item that is done
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
    "response.function_call_arguments.delta": ("arguments", None, None),
    "response.custom_tool_call_input.delta": ("input", None, None),
    "response.code_interpreter_call_code.delta": ("code", None, None),
}

_SUMMARY = "reasoning_summary_"
_ORDERS = {  # of the events between the first and the last one of an item, "response." left out
    "message": r"content_part.added (output_text.delta )*(output_text.annotation.added )*output_text.done "
    r"content_part.done ",
    "reasoning": r"content_part.added (reasoning_text.delta )+reasoning_text.done content_part.done "
    rf"|{_SUMMARY}part.added ({_SUMMARY}text.delta )+{_SUMMARY}text.done {_SUMMARY}part.done ",
    "function_call": r"(function_call_arguments.delta )+function_call_arguments.done ",
    "custom_tool_call": r"(custom_tool_call_input.delta )+custom_tool_call_input.done ",
    "web_search_call": r"web_search_call.in_progress web_search_call.searching web_search_call.completed ",
    "code_interpreter_call": r"code_interpreter_call.in_progress (code_interpreter_call_code.delta )+"
    r"code_interpreter_call_code.done code_interpreter_call.interpreting code_interpreter_call.completed ",
}


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, checked as the protocol says."""
    *blocks, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    events = []
    for block in blocks:
        (name, data) = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        events.append(json.loads(data.removeprefix("data: ")))
        assert events[-1]["type"] == name.removeprefix("event: ")
    return events


def valid(response: dict[str, Any]) -> dict[str, Any]:
    """The response, which OpenAI's own types accept as it is."""
    assert set(response) == KEYS
    Response.model_validate(response, strict=True)
    return response


def check(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Checks the events of a response; returns the response at their end."""
    events = list(events)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created" and events[1]["type"] == "response.in_progress"
    assert [event["type"] in LAST for event in events] == [False] * (len(events) - 1) + [True]
    for event in events:
        EVENTS[event["type"]].model_validate(event, strict=True)
        if "response" in event:
            assert set(event["response"]) == KEYS
            assert event["response"]["id"] == events[0]["response"]["id"]
    last = events[-1]["response"]
    assert events[-1]["type"] == f"response.{last['status']}"
    done = _items([event for event in events if "response" not in event], is_failed=last["status"] == "failed")
    assert last["output"][: len(done)] == done
    if last["status"] != "failed":
        assert len(last["output"]) == len(done) and last["usage"] is not None and last["error"] is None
        assert (last["incomplete_details"] is None) == (last["status"] == "completed")
        valid(last)
    else:
        assert last["error"]["message"] and last["error"]["code"]
    return last


def _items(events: list[dict[str, Any]], *, is_failed: bool) -> list[dict[str, Any]]:
    """The items that the events build, one after another."""
    done: list[dict[str, Any]] = []
    while events:
        index = len(done)
        first = events[0]
        assert first["type"] == "response.output_item.added" and first["output_index"] == index
        assert first["item"]["status"] == "in_progress"
        count = next((n for n, event in enumerate(events) if event["type"] == "response.output_item.done"), None)
        if count is None:
            assert is_failed
            return done
        own, events = events[: count + 1], events[count + 1 :]
        assert {event["output_index"] for event in own} == {index}
        done.append(_item(own))
    return done


def _item(events: list[dict[str, Any]]) -> dict[str, Any]:
    first, *middle, last = events
    item: dict[str, Any] = last["item"]
    assert item["status"] in ("completed", "incomplete", "failed") and item["id"] == first["item"]["id"]
    changed = {"status", "action", "content", "summary", "encrypted_content", "arguments", "input", "code", "outputs"}
    assert {key for key in item if item[key] != first["item"].get(key)} <= changed and set(item) == set(first["item"])
    assert {event.get("item_id") for event in middle} <= {item["id"]}
    kinds = "".join(f"{event['type'].removeprefix('response.')} " for event in middle)
    assert re.fullmatch(_ORDERS[item["type"]].replace(".", r"\."), kinds), kinds
    pieces: dict[tuple[str, int | None], str] = {}
    annotations, open_part = [], None
    for event in middle:
        kind = event["type"]
        if kind in _PIECES:
            field, index, _ = _PIECES[kind]
            key = field, event[index] if index else None
            pieces[key] = pieces.get(key, "") + event["delta"]
            assert index is None or open_part == key
        elif kind.endswith("_part.added"):
            assert open_part is None and event["part"]["text"] == ""
            open_part = _part_key(event)
            pieces[open_part] = ""
        elif kind.endswith("_part.done"):
            assert open_part == _part_key(event) and event["part"]["text"] == pieces[open_part]
            assert event["part"] == item[open_part[0]][open_part[1]]
            open_part = None
        elif kind.endswith("annotation.added"):
            assert event["annotation_index"] == len(annotations)
            annotations.append(event["annotation"])
        elif kind.endswith((".done", "_call_code.done")):
            (text,) = {event[name] for name in ("text", "arguments", "input", "code") if name in event}
            assert text in pieces.values()
    assert open_part is None
    for (field, index), text in pieces.items():
        assert (item[field] if index is None else item[field][index]["text"]) == text
    if item["type"] == "message":
        assert [part["annotations"] for part in item["content"]] == [annotations]
        (logprobs,) = (part["logprobs"] for part in item["content"])
        streamed = [one for event in middle if event["type"].endswith("text.delta") for one in event["logprobs"]]
        assert streamed == logprobs[: len(streamed)]
    if item["type"] == "reasoning":
        assert item["content"][0]["text"] == item["summary"][0]["text"]
    return item


def _part_key(event: dict[str, Any]) -> tuple[str, int]:
    return ("summary", event["summary_index"]) if "summary_index" in event else ("content", event["content_index"])
