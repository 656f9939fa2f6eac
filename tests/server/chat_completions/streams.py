"""Checks responses of chat completions, and the chunks of a stream, from which it builds the response.

Written from the documentation of the API, and without the code that writes them.
"""

from __future__ import annotations

import json
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, checked as the protocol says."""
    *blocks, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def valid(body: dict[str, Any]) -> dict[str, Any]:
    """The response, which OpenAI's own types accept as it is."""
    read = ChatCompletion.model_validate(body, strict=True)
    for choice in read.choices:
        assert choice.message.content is not None or choice.message.tool_calls
        assert (choice.finish_reason == "tool_calls") == bool(choice.message.tool_calls)
    assert read.usage is not None
    assert read.usage.total_tokens == read.usage.prompt_tokens + read.usage.completion_tokens
    return body


def built(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that the chunks of a stream build."""
    for chunk in chunks:
        if '"custom"' not in json.dumps(chunk):  # which OpenAI's types of chunks do not have
            ChatCompletionChunk.model_validate(chunk, strict=True)
        assert {chunk[name] for name in ("id", "created", "model")} == {
            chunks[0][name] for name in ("id", "created", "model")
        }
    has_usage = "usage" in chunks[0]
    assert all(("usage" in chunk) == has_usage for chunk in chunks)
    usage = None
    if has_usage:
        *chunks, last = chunks
        assert last["choices"] == [] and all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
        usage = last["usage"]
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        (one,) = chunk["choices"]
        if one["index"] not in choices:
            assert one["delta"] == {"role": "assistant", "content": ""}
            choices[one["index"]] = {"index": one["index"], "message": {"content": ""}, "finish_reason": None}
        _add(choices[one["index"]], one)
    assert all(choice["finish_reason"] is not None for choice in choices.values())
    whole = {name: chunks[0][name] for name in ("id", "created", "model")} | {"object": "chat.completion"}
    return valid(whole | {"choices": [_finished(choices[index]) for index in sorted(choices)], "usage": usage or _NONE})


_NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _add(choice: dict[str, Any], one: dict[str, Any]) -> None:
    assert choice["finish_reason"] is None, "nothing comes after the end"
    message, delta = choice["message"], one["delta"]
    for name in ("content", "reasoning", "reasoning_content"):
        if name in delta:
            assert delta[name] or "role" in delta, "no delta is empty"
            message[name] = message.get(name, "") + delta[name]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            assert call["id"] and call["type"] in ("function", "custom") and call[call["type"]]["name"]
            calls.append({name: call[name] for name in ("id", "type", call["type"])})
        else:
            assert call["index"] == len(calls) - 1 and "id" not in call
            kind, text = calls[-1]["type"], "arguments" if calls[-1]["type"] == "function" else "input"
            calls[-1][kind] = {**calls[-1][kind], text: calls[-1][kind][text] + call[kind][text]}
    if "annotations" in delta:
        message["annotations"] = delta["annotations"]
    if one["logprobs"] is not None:
        choice.setdefault("logprobs", {"content": [], "refusal": None})["content"] += one["logprobs"]["content"]
    choice["finish_reason"] = one["finish_reason"]


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    if "tool_calls" in message and not message["content"]:
        message["content"] = None
    assert message.get("reasoning") == message.get("reasoning_content")
    return (
        choice
        | {"message": {"role": "assistant", "refusal": None, "annotations": [], **message}}
        | {"logprobs": choice.get("logprobs")}
    )
