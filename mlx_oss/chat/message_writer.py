"""Writes conversations as plain JSON: the messages of OpenAI's chat API.

    {"role": "system", "content": "Be brief."}                         the instructions of a session
    {"role": "user", "content": "Hello"}
    {"role": "assistant", "content": "Hi!", "reasoning": "A greeting."}
    {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {...}}]}
    {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"}
    {"role": "developer", "content": "Be kind."}                       instructions in the middle of a conversation

What this form cannot express, such as a message on no channel, is written in the JSON form of openai-harmony, which
has the key `channel`. So nothing is lost; `message_reader` reads both. Knows nothing of sessions and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx_oss.chat.message_reader import USUAL
from mlx_oss.harmony import DeveloperContent, Message, is_reasoning, message_to_dict


def to_dicts(messages: Iterable[Message], instructions: str = "") -> list[dict[str, Any]]:
    """Writes a conversation as dictionaries for JSON; `message_reader.from_items` reads the same messages from them.

    Args:
        messages: The messages after the system and developer messages.
        instructions: Become a message of the role `system`; none if they are empty.
    """
    writer = _Writer()
    for message in messages:
        writer.write(message)
    writer.close()
    return [*([{"role": "system", "content": instructions}] if instructions else []), *writer.dicts]


class _Writer:
    """Writes messages; the reasoning and the preamble before a call or an answer share its dictionary."""

    def __init__(self) -> None:
        self.dicts: list[dict[str, Any]] = []
        self._calls = 0
        self._waiting: list[tuple[str, Message]] = []  # calls without a result: their ids and messages
        self._open: dict[str, Any] | None = None  # the last dictionary, if more can be added to it
        self._preamble: Message | None = None  # the one in it

    def write(self, message: Message) -> None:
        text = message.content
        is_plain = isinstance(text, str) and message.content_type is None and message.recipient is None
        author = message.role == "assistant" and message.name is None
        if message.role == "user" and is_plain and message.channel is None:
            self._add({"role": "user", "content": text, **({} if message.name is None else {"name": message.name})})
        elif message == Message("developer", text) and text == DeveloperContent(_instructions(text)):
            self._add({"role": "developer", "content": _instructions(text)})
        elif author and is_plain and text and is_reasoning(message):
            self._add({"role": "assistant", "content": None, "reasoning": text}, is_open=True)
        elif author and is_plain and text and message.channel == "commentary":
            opened = self._opened() or self._add({"role": "assistant", "content": None}, is_open=True)
            opened["content"], self._preamble = text, message
        elif author and is_plain and message.channel == "final":
            opened = self._opened() or self._add({"role": "assistant", "content": None})
            opened["content"], self._open = text, None
        elif author and isinstance(text, str) and message.recipient not in (None, "all", "", "functions."):
            self._write_call(message)
        elif message.role == "tool" and (call := self._call_of(message)) is not None:
            self._add({"role": "tool", "tool_call_id": call, "content": text})
        else:
            self._add(_harmony_dict(message))

    def _add(self, entry: dict[str, Any], *, is_open: bool = False) -> dict[str, Any]:
        self._split_preamble()
        self.dicts.append(entry)
        self._open = entry if is_open else None
        return entry

    def _opened(self) -> dict[str, Any] | None:
        """The last dictionary if a text can be added to it."""
        return self._open if self._open is not None and self._preamble is None else None

    def _split_preamble(self) -> None:
        """Gives a preamble that no call follows a dictionary of its own: as the content it would be the answer."""
        if self._preamble is None or self._open is None:
            return
        self._open["content"] = None
        if "reasoning" not in self._open:
            self.dicts.pop()
        self.dicts.append(_harmony_dict(self._preamble))
        self._preamble = None

    def close(self) -> None:
        """Call it after the last message."""
        self._split_preamble()

    def _write_call(self, message: Message) -> None:
        assert message.recipient is not None
        self._calls += 1
        id_, name = f"call_{self._calls}", message.recipient.removeprefix("functions.")
        kind = "function" if "." in message.recipient else "custom"
        name = message.recipient if "." in name else name
        body = {"name": name, "arguments" if kind == "function" else "input": message.content}
        call: dict[str, Any] = {"id": id_, "type": kind, kind: body}
        for key, usual in zip(("channel", "content_type"), USUAL[kind], strict=True):
            if (value := getattr(message, key)) != usual:
                call[key] = value
        opened = self._open
        if opened is None:
            opened = self._add({"role": "assistant", "content": None})
        opened["tool_calls"] = [call]
        self._open = self._preamble = None
        self._waiting.append((id_, message))

    def _call_of(self, result: Message) -> str | None:
        """The id of the call that a plain result answers."""
        if not isinstance(result.content, str) or result.recipient != "assistant" or result.content_type is not None:
            return None
        for place, (id_, call) in enumerate(self._waiting):
            if call.recipient == result.name:
                if (call.channel or "commentary") != result.channel:
                    return None
                del self._waiting[place]
                return id_
        return None


def _instructions(content: object) -> str:
    return (content.instructions if isinstance(content, DeveloperContent) else None) or ""


def _harmony_dict(message: Message) -> dict[str, Any]:
    """The message in the form of openai-harmony, with the key `channel` in any case."""
    return message_to_dict(message) | {"channel": message.channel}
