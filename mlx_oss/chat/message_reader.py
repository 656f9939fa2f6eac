"""Reads conversations from plain JSON: the messages of OpenAI's chat API, and those of openai-harmony.

`message_writer` describes the form. Knows nothing of sessions and tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_oss.errors import HarmonyError, OptionError, quoted
from mlx_oss.harmony import DeveloperContent, Message, SystemContent, message_from_dict

AnyMessage = Message | Mapping[str, Any]

_HARMONY_KEYS = ("channel", "recipient", "content_type")
_REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")  # as different servers call it
_KEYS = {
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls", *_REASONING_KEYS),
    "tool": ("role", "content", "tool_call_id", "name"),
}
# Channel and content type of a call, unless it says otherwise: by its type in OpenAI's API.
USUAL = {"function": ("commentary", "<|constrain|>json"), "custom": ("analysis", "code")}


def from_items(items: Iterable[AnyMessage]) -> tuple[str, list[Message]]:
    """Reads a conversation.

    Args:
        items: `harmony.Message`s, dictionaries as above, or objects that have `model_dump`, such as those of OpenAI's
            package. The messages of the system and the developer have to come first. If an assistant's message has
            several calls, each is followed by its result, as gpt-oss would have read it.

    Returns:
        The instructions ("" if there are none) and the messages after them.

    Raises:
        OptionError: If something is not a message; the error says which one.
    """
    if isinstance(items, str | bytes | Mapping | Message) or not isinstance(items, Iterable):
        raise OptionError(
            f"messages is {quoted(items)}, expected a list of messages, such as "
            '[{"role": "user", "content": "Hello"}]'
        )
    instructions, reader = list[str](), _Reader()
    for number, item in enumerate(items):
        where = f"messages[{number}]"
        data = item.model_dump() if hasattr(item, "model_dump") else item
        if (text := _instructions(data, where)) is None:
            reader.read(data, where)
        elif reader.messages:
            raise OptionError(
                f"{where} is a message of the {_role(data)} in the middle of the conversation: put all of them first, "
                "where they become the instructions of the session"
            )
        elif text:
            instructions.append(text)
    return "\n\n".join(instructions), reader.messages


def _role(data: Any) -> Any:
    return data.role if isinstance(data, Message) else data.get("role") if isinstance(data, Mapping) else None


def _instructions(data: Any, where: str) -> str | None:
    """The text of a system or developer message; None for any other message."""
    if _role(data) not in ("system", "developer"):
        return None
    if isinstance(data, Mapping):
        return _text(data.get("content"), where)
    texts = list[str]()
    for content in data.contents:
        if isinstance(content, SystemContent) or (
            isinstance(content, DeveloperContent) and (content.tools or content.response_formats)
        ):
            raise OptionError(
                f"{where} is a {type(content).__name__} with more than instructions, which the session writes itself: "
                "leave it out, and give its values to ChatSession (reasoning_effort=, current_date=, tools=, "
                "response_format=)"
            )
        texts.append(content if isinstance(content, str) else content.instructions or "")
    return "".join(texts)


def _text(content: Any, where: str) -> str:
    """The text of an OpenAI-style content: a str, or a list of parts of type `text`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        remedy = "json.dumps() makes one of a value" if content is not None else 'without text, give ""'
        raise OptionError(f"{where} has the content {quoted(content)}, expected a text: {remedy}")
    texts = list[str]()
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in (None, "text", "input_text", "output_text") or not isinstance(text, str):
            raise OptionError(
                f"{where} has content of the type {quoted(kind or type(part).__name__)}, but gpt-oss reads only text: "
                'give {"type": "text", "text": ...}'
            )
        texts.append(text)
    return "".join(texts)


class _Reader:
    """Reads messages one after another, and puts the result of each call behind it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._calls: dict[str, Message] = {}  # those that wait for a result, by their ids
        self._together: list[Message] = []  # calls of one message, which wait for their results at the same time

    def read(self, data: Any, where: str) -> None:
        if isinstance(data, Message):
            self.messages.append(_checked(data, where))
            return
        if not isinstance(data, Mapping):
            raise OptionError(
                f"{where} is {quoted(data)}, expected a Message or a dict with 'role' and 'content', such as "
                '{"role": "user", "content": "Hello"}'
            )
        if any(key in data for key in _HARMONY_KEYS):
            try:
                self.messages.append(_checked(message_from_dict(data), where))
            except HarmonyError as error:
                raise OptionError(f"{where}: {error}") from None
            return
        role = data.get("role")
        if not isinstance(role, str) or role not in _KEYS:
            raise OptionError(
                f"{where} has the role {quoted(role)}, expected one of system, developer, {', '.join(_KEYS)}"
            )
        if unknown := [key for key in data if key not in _KEYS[role] and data[key]]:
            raise OptionError(
                f"{where} has the key {quoted(unknown[0])}, which no message of the role {role!r} has: leave it out; "
                f"the keys are {', '.join(_KEYS[role])}"
            )
        if role == "user":
            self.messages.append(Message("user", _text(data.get("content"), where), name=_name(data, where)))
        elif role == "tool":
            self._read_result(data, where)
        else:
            self._read_assistant(data, where)

    def _read_assistant(self, data: Mapping[str, Any], where: str) -> None:
        for key in _REASONING_KEYS:
            if data.get(key):
                self.messages.append(Message("assistant", _text(data[key], f"{where}.{key}"), "analysis"))
                break
        content, calls = data.get("content"), data.get("tool_calls")
        if not calls:
            if content is not None:
                self.messages.append(Message("assistant", _text(content, where), "final"))
            elif not any(data.get(key) for key in _REASONING_KEYS):
                raise OptionError(f"{where} has neither content nor tool_calls: give one of them")
            return
        if not isinstance(calls, list | tuple):
            raise OptionError(f"{where}.tool_calls is {quoted(calls)}, expected a list of calls")
        if content:
            self.messages.append(Message("assistant", _text(content, where), "commentary"))
        read = [_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
        self._together = [message for _, message in read] if len(read) > 1 else []
        self.messages += [message for _, message in read]
        self._calls |= {id_: message for id_, message in read if id_ is not None}

    def _read_result(self, data: Mapping[str, Any], where: str) -> None:
        text, id_, name = _text(data.get("content"), where), data.get("tool_call_id"), data.get("name")
        call = self._calls.pop(id_, None) if isinstance(id_, str) else None
        if call is None and id_ is not None:
            raise OptionError(
                f"{where} is the result of the call {quoted(id_)}, but no message before it has a call with this id "
                "that waits for a result: give the assistant's message with its tool_calls too"
            )
        if call is None and not (isinstance(name, str) and name):
            raise OptionError(f"{where} says not which call it answers: give it the 'tool_call_id' of that call")
        channel = (call.channel if call is not None else None) or "commentary"
        recipient = call.recipient if call is not None else _recipient(str(name))
        result = Message("tool", text, name=recipient, recipient="assistant", channel=channel)
        at = len(self.messages)
        if any(message is call for message in self._together):
            at = 1 + next(place for place, message in enumerate(self.messages) if message is call)
        self.messages.insert(at, result)


def _name(data: Mapping[str, Any], where: str) -> str | None:
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise OptionError(f"{where} has the name {quoted(name)}, expected a text")
    return name


def _recipient(name: str) -> str:
    return name if "." in name else f"functions.{name}"


def _call(call: Any, where: str) -> tuple[str | None, Message]:
    """The id and the message of a call."""
    kind = call.get("type") or "function" if isinstance(call, Mapping) else None
    body = call.get(kind) if isinstance(kind, str) and kind in USUAL else None
    name = body.get("name") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(name, str) or not name:
        raise OptionError(
            f"{where} is {quoted(call)}, expected a call such as "
            '{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}'
        )
    written = body.get("arguments" if kind == "function" else "input", "")
    try:
        text = json.dumps(written, ensure_ascii=False) if isinstance(written, dict) else written
    except (TypeError, ValueError, RecursionError):
        text = None  # what JSON cannot express
    if not isinstance(text, str):
        raise OptionError(f"{where} has the arguments {quoted(written)}, expected their JSON as a text")
    channel, content_type = (
        call.get(key, usual) for key, usual in zip(("channel", "content_type"), USUAL[str(kind)], strict=True)
    )
    recipient = _recipient(name) if kind == "function" else name
    id_ = call.get("id")
    return id_ if isinstance(id_, str) else None, _checked(
        Message("assistant", text, channel, recipient, content_type), where
    )


def _checked(message: Message, where: str) -> Message:
    """A message that a conversation can hold. Raises OptionError for any other one."""
    texts = (message.channel, message.recipient, message.content_type, message.name)
    if not all(isinstance(content, str) for content in message.contents) or not all(
        isinstance(text, str | None) for text in texts
    ):
        raise OptionError(f"{where} has the content {quoted(message.content)}, expected a text")
    if message.role not in ("user", "assistant", "tool"):
        raise OptionError(f"{where} has the role {quoted(message.role)}, expected user, assistant or tool")
    if message.role == "tool" and not message.name:
        raise OptionError(f"{where} is a tool's result without a name: set Message.name to the tool that was called")
    return message
