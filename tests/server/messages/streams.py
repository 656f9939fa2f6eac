"""Checks messages of Anthropic's API, and the events of a stream, from which it builds the message.

Written from the documentation of the API, and without the code that writes them.
"""

from __future__ import annotations

import json
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_TEXTS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking")}


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, checked as the protocol says."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    events = []
    for block in blocks:
        (name, data) = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        events.append(json.loads(data.removeprefix("data: ")))
        assert events[-1]["type"] == name.removeprefix("event: ")
    return events


def valid(body: dict[str, Any]) -> dict[str, Any]:
    """The message, which Anthropic's own types accept as it is."""
    read = Message.model_validate(body, strict=True)
    assert read.content and read.stop_reason is not None
    assert (read.stop_reason == "tool_use") == any(block.type == "tool_use" for block in read.content)
    assert (read.stop_reason == "stop_sequence") == (read.stop_sequence is not None)
    assert all(block.signature for block in read.content if block.type == "thinking")
    ids = [block.id for block in read.content if block.type in ("tool_use", "server_tool_use")]
    assert len(ids) == len({*ids})
    return body


def built(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events of a stream build."""
    events = [event for event in events if event["type"] != "ping"]
    for event in events:
        EVENT.validate_python(event, strict=True)
    start, *blocks, delta, stop = events
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    message = start["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    content: list[dict[str, Any]] = []
    is_open, text = False, ""
    for event in blocks:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(content)
            content.append(dict(event["content_block"]))
            is_open, text = True, ""
        elif event["type"] == "content_block_delta":
            assert is_open and event["index"] == len(content) - 1
            text += _add(content[-1], event["delta"])
        else:
            assert event["type"] == "content_block_stop" and is_open and event["index"] == len(content) - 1
            if content[-1]["type"] in ("tool_use", "server_tool_use"):
                assert content[-1]["input"] == {}
                content[-1]["input"] = json.loads(text)
            is_open = False
    assert not is_open
    return valid(message | {"content": content, **delta["delta"], "usage": delta["usage"]})


def _add(block: dict[str, Any], delta: dict[str, Any]) -> str:
    """Adds a delta to its block; returns JSON of the input of a call."""
    kind = delta["type"]
    if kind == "input_json_delta":
        assert block["type"] in ("tool_use", "server_tool_use")
        return str(delta["partial_json"])
    if kind == "signature_delta":
        assert block["type"] == "thinking" and not block["signature"] and delta["signature"]
        block["signature"] = delta["signature"]
        return ""
    of, name = _TEXTS[kind]
    assert block["type"] == of and (delta[name] or kind == "thinking_delta") and not block.get("signature")
    block[name] += delta[name]
    return ""
