"""Reads conversations from plain JSON: the messages of OpenAI's chat API, and those of openai-harmony.

`message_writer` describes the form. Knows nothing of sessions and tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_oss.chat.transcript import Transcript
from mlx_oss.errors import HarmonyError, OptionError, quoted
from mlx_oss.harmony import DeveloperContent, Message, SystemContent, message_from_dict
from mlx_oss.harmony.header import is_name

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


class MessageError(OptionError):
    """Something in a list is no message.

    Attributes:
        param: Where it is, such as `messages[2].content`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def from_items(items: Iterable[AnyMessage]) -> tuple[str, list[Message]]:
    """Reads a conversation.

    Args:
        items: `harmony.Message`s, dictionaries as above, or objects that have `model_dump`, such as those of OpenAI's
            package. If an assistant's message has several calls, each is followed by its result, as gpt-oss would have
            read it.

    Returns:
        The instructions, from the messages of the system and the developer at the beginning ("" if there are none), and
        the messages after them.

    Raises:
        OptionError: If something is not a message; the error says which one.
    """
    if isinstance(items, str | bytes | Mapping | Message) or not isinstance(items, Iterable):
        raise OptionError(
            f"messages is {quoted(items)}, expected a list of messages, such as "
            '[{"role": "user", "content": "Hello"}]'
        )
    transcript = Transcript()
    read(items, transcript)
    return transcript.instructions, transcript.messages


def read(items: Iterable[Any], transcript: Transcript, *, from_others: bool = False) -> None:
    """Tells a transcript what was said.

    Args:
        items: As in `from_items`.
        transcript: What is told.
        from_others: Whether another program has written them, who may not know what this one reads: keys without a
            meaning are ignored then. Only OpenAI's form is read.

    Raises:
        MessageError: If something is not a message.
    """
    reader = _Reader(transcript, from_others)
    for number, item in enumerate(items):
        where = f"messages[{number}]"
        data = item.model_dump() if hasattr(item, "model_dump") else item
        if (text := _instructions(data, where)) is None:
            reader.read(data, where)
        else:
            transcript.instruct(text)


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
            raise MessageError(
                f"{where} is a {type(content).__name__} with more than instructions, which the session writes itself: "
                "leave it out, and give its values to ChatSession (reasoning_effort=, current_date=, tools=, "
                "response_format=)",
                where,
            )
        texts.append(content if isinstance(content, str) else content.instructions or "")
    return "".join(texts)


def _text(content: Any, where: str, key: str = "content") -> str:
    """The text of an OpenAI-style content: a str, or a list of parts of type `text`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        remedy = "json.dumps() makes one of a value" if content is not None else 'without text, give ""'
        raise MessageError(f"{where} has the {key} {quoted(content)}, expected a text: {remedy}", f"{where}.{key}")
    texts = list[str]()
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else part
        if kind not in (None, "text", "input_text", "output_text", "refusal") or not isinstance(text, str):
            raise MessageError(
                f"{where} has {key} of the type {quoted(kind or type(part).__name__)}, but gpt-oss reads only text: "
                'give {"type": "text", "text": ...}',
                f"{where}.{key}[{number}]",
            )
        texts.append(text)
    return "".join(texts)


class _Reader:
    """Reads messages one after another."""

    def __init__(self, transcript: Transcript, from_others: bool) -> None:
        self._transcript, self._from_others = transcript, from_others

    def read(self, data: Any, where: str) -> None:
        if isinstance(data, Message):
            self._transcript.add(_checked(data, where))
            return
        if not isinstance(data, Mapping):
            raise MessageError(
                f"{where} is {quoted(data)}, expected a Message or a dict with 'role' and 'content', such as "
                '{"role": "user", "content": "Hello"}',
                where,
            )
        if not self._from_others and any(key in data for key in _HARMONY_KEYS):
            try:
                self._transcript.add(_checked(message_from_dict(data), where))
            except HarmonyError as error:
                raise MessageError(f"{where}: {error}", where) from None
            return
        role = data.get("role")
        if not isinstance(role, str) or role not in _KEYS:
            raise MessageError(
                f"{where} has the role {quoted(role)}, expected one of system, developer, {', '.join(_KEYS)}",
                f"{where}.role",
            )
        unknown = [key for key in data if key not in _KEYS[role] and data[key]]
        if unknown and not self._from_others:
            raise MessageError(
                f"{where} has the key {quoted(unknown[0])}, which no message of the role {role!r} has: leave it out; "
                f"the keys are {', '.join(_KEYS[role])}",
                f"{where}.{unknown[0]}",
            )
        if role == "user":
            self._transcript.say(_text(data.get("content"), where), _name(data, where))
        elif role == "tool":
            self._read_result(data, where)
        else:
            self._read_assistant(data, where)

    def _read_assistant(self, data: Mapping[str, Any], where: str) -> None:
        for key in _REASONING_KEYS:
            if data.get(key):
                self._transcript.reason(_text(data[key], where, key))
                break
        content, calls = data.get("content"), data.get("tool_calls")
        if not calls:
            if content is not None:
                self._transcript.answer(_text(content, where))
            elif not self._from_others and not any(data.get(key) for key in _REASONING_KEYS):
                raise MessageError(f"{where} has neither content nor tool_calls: give one of them", where)
            return
        if not isinstance(calls, list | tuple):
            raise MessageError(
                f"{where}.tool_calls is {quoted(calls)}, expected a list of calls", f"{where}.tool_calls"
            )
        if content and (text := _text(content, where)):
            self._transcript.add(Message("assistant", text, "commentary"))
        read = [_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
        for id_, message in read:
            self._transcript.add_call(id_, message, has_others=len(read) > 1)

    def _read_result(self, data: Mapping[str, Any], where: str) -> None:
        content, id_, name = data.get("content"), data.get("tool_call_id"), data.get("name")
        text = "" if content is None and self._from_others else _text(content, where)
        if self._transcript.waits(id_):
            self._transcript.result(str(id_), text)
        elif id_ is not None:
            raise MessageError(
                f"{where} is the result of the call {quoted(id_)}, but no message before it has a call with this id "
                "that waits for a result: give the assistant's message with its tool_calls too",
                f"{where}.tool_call_id",
            )
        elif not (isinstance(name, str) and name):
            raise MessageError(
                f"{where} says not which call it answers: give it the 'tool_call_id' of that call",
                f"{where}.tool_call_id",
            )
        else:
            result = Message("tool", text, name=_recipient(name), recipient="assistant", channel="commentary")
            self._transcript.add(_checked(result, where))


def _name(data: Mapping[str, Any], where: str) -> str | None:
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise MessageError(f"{where} has the name {quoted(name)}, expected a text", f"{where}.name")
    if name and not is_name(name):
        raise MessageError(
            f"{where} has the name {quoted(name)}, which cannot stand in a header: name the author in letters, "
            "digits, _ and -",
            f"{where}.name",
        )
    return name or None


def _recipient(name: str) -> str:
    return name if "." in name else f"functions.{name}"


def _call(call: Any, where: str) -> tuple[str | None, Message]:
    """The id and the message of a call."""
    kind = call.get("type") or "function" if isinstance(call, Mapping) else None
    body = call.get(kind) if isinstance(kind, str) and kind in USUAL else None
    name = body.get("name") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(name, str) or not name:
        raise MessageError(
            f"{where} is {quoted(call)}, expected a call such as "
            '{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}',
            where,
        )
    written = body.get("arguments" if kind == "function" else "input", "")
    try:
        text = json.dumps(written, ensure_ascii=False) if isinstance(written, dict) else written
    except (TypeError, ValueError, RecursionError):
        text = None  # what JSON cannot express
    if not isinstance(text, str):
        raise MessageError(f"{where} has the arguments {quoted(written)}, expected their JSON as a text", where)
    channel, content_type = (
        call.get(key, usual) for key, usual in zip(("channel", "content_type"), USUAL[str(kind)], strict=True)
    )
    recipient = _recipient(name) if kind == "function" else name
    id_ = call.get("id")
    return id_ if isinstance(id_, str) else None, _checked(
        Message("assistant", text, channel, recipient, content_type), where
    )


def _checked(message: Message, where: str) -> Message:
    """A message that a conversation can hold. Raises MessageError for any other one."""
    texts = (message.channel, message.recipient, message.content_type, message.name)
    if not all(isinstance(content, str) for content in message.contents) or not all(
        isinstance(text, str | None) for text in texts
    ):
        raise MessageError(f"{where} has the content {quoted(message.content)}, expected a text", where)
    if message.role not in ("user", "assistant", "tool"):
        raise MessageError(f"{where} has the role {quoted(message.role)}, expected user, assistant or tool", where)
    if message.role == "tool" and not message.name:
        raise MessageError(
            f"{where} is a tool's result without a name: set Message.name to the tool that was called", where
        )
    for name in (message.recipient, message.name):
        if name and not is_name(name):
            raise MessageError(
                f"{where} names {quoted(name)}, which cannot stand in a header: name tools and authors in letters, "
                "digits, _ and -",
                where,
            )
    return message
