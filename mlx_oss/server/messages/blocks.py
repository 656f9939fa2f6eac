"""Reads the conversation of a request to Anthropic's API, block by block.

What the model cannot read, such as an image, is an error with its place; blocks of unknown types are left out. Knows
nothing of how a request is answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mlx_oss.chat.transcript import Transcript
from mlx_oss.errors import quoted
from mlx_oss.harmony import Message
from mlx_oss.harmony.header import is_name
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.messages.thinking import reasoning_in

_APART = "\n\n"  # between blocks of text
# Older versions of Claude Code put a line first that is another one each time, so no prefix would be found again.
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_UNREADABLE = ("image", "document", "container_upload", "audio", "video", "file")


def system_text(fields: Fields) -> str:
    """The instructions in `system`."""
    return _without_billing(_APART.join(filter(None, _texts(fields, "system")))) if fields.get("system") else ""


def _without_billing(text: str) -> str:
    return _BILLING.sub("", text)


def read_message(message: Fields, transcript: Transcript) -> None:
    """Tells a transcript one of the messages.

    Raises:
        RequestError: If something in it is wrong.
    """
    role = message.one_of("role", ("user", "assistant", "system", "developer"), "")
    if role in ("system", "developer"):
        text = _APART.join(_texts(message, "content"))
        transcript.instruct(text if transcript.messages or transcript.instructions else _without_billing(text))
    elif role == "user":
        _read_user(message, transcript)
    elif role == "assistant":
        _read_assistant(message, transcript)
    else:
        raise message.wrong("role", "user or assistant")


def _read_user(message: Fields, transcript: Transcript) -> None:
    said = list[str]()
    for block in _blocks(message, "content"):
        if block.get("type") == "tool_result":
            if said:
                transcript.say(_APART.join(said))
                said = []
            _read_result(block, transcript)
        elif (text := _text(block)) is not None:
            said.append(text)
    if said:
        transcript.say(_APART.join(said))


def _read_result(block: Fields, transcript: Transcript) -> None:
    id_ = block.text("tool_use_id")
    if not transcript.waits(id_):
        raise RequestError(
            f"{block.where('tool_use_id')} is {quoted(id_)}, but no message before it has a tool_use with this id that "
            "waits for a result: give the assistant's message with it too",
            block.where("tool_use_id"),
        )
    text = "\n".join(_texts(block, "content")) if block.get("content") is not None else ""
    if block.flag("is_error") and "error" not in text[:40].lower():
        text = f"Error: {text}"
    transcript.result(id_, text)


def _read_assistant(message: Fields, transcript: Transcript) -> None:
    for block in _blocks(message, "content"):
        kind = block.get("type")
        if kind == "thinking":
            transcript.reason(reasoning_in(block))
        elif kind == "tool_use":
            transcript.call(*_call(block))
        elif kind == "server_tool_use" and (id_ := block.optional_text("id")) is not None:
            transcript.own_call(id_)
        elif kind == "text" and (text := block.text("text", "")):
            transcript.answer(text)


def _name(block: Fields) -> str:
    name = block.text("name")
    if not name or not is_name(name):
        raise block.wrong("name", "the name of a tool, in letters, digits, _ and -")
    return name


def _call(block: Fields) -> tuple[str, Message]:
    arguments, recipient = block.get("input"), f"functions.{_name(block)}"
    text = json.dumps({} if arguments is None else arguments, ensure_ascii=False, separators=(",", ":"))
    return block.text("id"), Message("assistant", text, "commentary", recipient, "<|constrain|>json")


def _blocks(fields: Fields, name: str) -> Iterator[Fields]:
    """The blocks of a content, which may be a text."""
    content = fields.get(name)
    if isinstance(content, str):
        yield Fields({"type": "text", "text": content}, fields.where(name))
    elif isinstance(content, list):
        yield from fields.each(name)
    else:
        raise fields.wrong(name, "a text, or a list of blocks")


def _texts(fields: Fields, name: str) -> list[str]:
    """The texts of a content."""
    return [text for block in _blocks(fields, name) if (text := _text(block)) is not None]


def _text(block: Fields) -> str | None:
    """The text of a block; None if it has none."""
    kind: Any = block.get("type")
    if kind == "text":
        return block.text("text", "")
    if kind == "tool_reference":  # a tool that was found; all of them are described already
        return f"The tool {block.text('tool_name', '')} is available."
    if kind == "search_result":
        parts = [block.text("title", ""), block.text("source", ""), *_texts(block, "content")]
        return "\n".join(filter(None, parts))
    source = block.get("source")
    if kind == "document" and isinstance(source, dict) and source.get("type") == "text":
        return "\n".join(
            filter(None, [block.text("title", ""), Fields(source, block.where("source")).text("data", "")])
        )
    if kind in _UNREADABLE:
        raise RequestError(
            f"{block.path} is of type {quoted(kind)}, but the model reads text only: give blocks of type text",
            block.path,
        )
    return None
