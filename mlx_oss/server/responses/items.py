"""Tells a transcript the items of a request: messages, reasoning, calls and their results.

Items of other types are passed over: clients give back whatever they have received, also from other servers. Knows
nothing of the other fields of a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mlx_oss.chat.message_reader import USUAL
from mlx_oss.chat.transcript import Transcript
from mlx_oss.errors import quoted
from mlx_oss.harmony import Message
from mlx_oss.harmony.header import is_name
from mlx_oss.server.asked import new_id
from mlx_oss.server.custom import wrapped
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.responses.tools import Tools

Item = Mapping[str, Any]

_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_OF_OTHERS = re.compile(r"gAAAA[\w=-]+")  # reasoning that OpenAI has encrypted: nobody else can read it
_NO_IMAGE = "(an image, which this model cannot see)"


class ItemReader:
    """Reads items one after another.

    Args:
        transcript: Is told what they say.
        tools: The tools of the request.
        stored: Finds an item by its id, for items that are only named.
    """

    def __init__(self, transcript: Transcript, tools: Tools, stored: Callable[[str], Item | None]) -> None:
        self._transcript, self._tools, self._stored = transcript, tools, stored

    def read(self, item: Fields) -> None:
        """Reads an item. Raises RequestError if it cannot be understood."""
        kind = item.get("type")
        if kind is None:
            kind = "message" if item.get("role") is not None else "item_reference"
        if kind == "item_reference":
            item = self._referenced(item)
            kind = item.get("type")
        match kind:
            case "message":
                self._read_message(item)
            case "reasoning":
                self._transcript.reason(_reasoning(item))
            case "function_call" | "custom_tool_call":
                self._read_call(item, str(kind))
            case "web_search_call" | "code_interpreter_call":
                if (id_ := item.optional_text("id")) is not None:
                    self._transcript.own_call(id_)
            case "mcp_call":
                self._read_server_call(item)
            case "function_call_output" | "custom_tool_call_output":
                self._read_result(item)

    def _referenced(self, item: Fields) -> Fields:
        if not isinstance(id_ := item.get("id"), str):
            raise RequestError(f"{item.path} has neither a type nor a role: give a message", item.path)
        found = self._stored(id_)
        if found is None:
            raise RequestError(
                f"{item.path} names the item {quoted(id_)}, which is not stored: give the item itself", item.where("id")
            )
        return Fields(found, item.path)

    def _read_message(self, item: Fields) -> None:
        role = item.one_of("role", ("user", "assistant", "system", "developer"), "user")
        if role == "user":
            self._transcript.say(_content(item, "content", "\n\n"))
        elif role != "assistant":
            self._transcript.instruct(_content(item, "content", "\n\n"))
        elif item.get("phase") == "commentary":
            self._transcript.add(Message("assistant", _content(item, "content"), "commentary"))
        else:
            self._transcript.answer(_content(item, "content"))

    def _read_call(self, item: Fields, kind: str) -> None:
        recipient = self._tools.recipient(item.text("name"), item.optional_text("namespace"))
        if not is_name(recipient):
            where = item.where("name")
            raise RequestError(f"{where} is {quoted(recipient)}: name tools in letters, digits, _ and -", where)
        if kind == "custom_tool_call":
            text = wrapped(item.text("input", ""))
        else:
            given = item.get("arguments")  # as the model wrote them, so they need not be JSON
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False) if given else "{}"
        channel, content_type = USUAL["function"]
        self._transcript.call(
            item.optional_text("call_id") or item.optional_text("id"),
            Message("assistant", text, channel, recipient, content_type),
        )

    def _read_server_call(self, item: Fields) -> None:
        """A call of an MCP server, with its result."""
        recipient, id_ = f"{item.text('server_label')}.{item.text('name')}", item.optional_text("id") or new_id("mcp")
        if not is_name(recipient) or self._transcript.waits(id_):  # of another server
            return
        channel, content_type = USUAL["function"]
        text = item.optional_text("arguments") or "{}"
        self._transcript.call(id_, Message("assistant", text, channel, recipient, content_type))
        error = item.get("error")
        if isinstance(error, Mapping):
            error = _parts(Fields(error), "content") or json.dumps(error, ensure_ascii=False)
        self._transcript.result(id_, f"Error: {error}" if error else item.optional_text("output") or "")

    def _read_result(self, item: Fields) -> None:
        id_ = item.text("call_id")
        if not self._transcript.waits(id_):
            where = item.where("call_id")
            raise RequestError(
                f"{where} is {quoted(id_)}, but no call before it has this id and no result yet: give the call too",
                where,
            )
        self._transcript.result(id_, _content(item, "output", "\n", sees_images=True))


def _reasoning(item: Fields) -> str:
    """The text of a reasoning item, in whichever form the client has kept it."""
    if text := _parts(item, "content"):
        return text
    hidden = item.get("encrypted_content")
    if isinstance(hidden, str) and hidden and not _OF_OTHERS.fullmatch(hidden):
        return hidden
    return _parts(item, "summary")


def _parts(item: Fields, name: str) -> str:
    texts = [part.get("text") for part in item.list(name) if isinstance(part, Mapping)]
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _content(item: Fields, name: str, between: str = "", *, sees_images: bool = False) -> str:
    """The text of a message or a result.

    Args:
        item: The item.
        name: Its field.
        between: What separates its parts.
        sees_images: Whether it may have images. The model is told that there was one.
    """
    value = item.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):  # a result that was not made a text
        if name == "output":
            return json.dumps(value, ensure_ascii=False)
        raise item.wrong(name, "a text, or a list of parts")
    texts = []
    for number, part in enumerate(value):
        where = f"{item.where(name)}[{number}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        fields = Fields(part, where)
        kind = fields.get("type")
        if kind == "refusal":
            texts.append(fields.text("refusal", ""))
        elif kind is None or kind in _TEXTS:
            texts.append(fields.text("text"))
        elif sees_images and kind == "input_image":
            texts.append(_NO_IMAGE)
        else:
            raise RequestError(
                f"{where} is of the type {quoted(kind)}, but the model reads only text: leave it out", where
            )
    return between.join(texts)
