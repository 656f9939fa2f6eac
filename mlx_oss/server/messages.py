"""The messages of a request to OpenAI's chat completions, as messages of the harmony format.

Whatever cannot be said to the model is an error; nothing is dropped. Knows nothing of sessions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_oss.errors import OptionError, quoted
from mlx_oss.harmony import Message

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_AUTHOR = re.compile(r"[^\s<|\\/>]{1,64}")
_KEYS = {  # what a message of each role may have
    "system": {"content"},
    "developer": {"content"},
    "user": {"content", "name"},
    "assistant": {"content", "tool_calls", "reasoning", "reasoning_content"},
    "tool": {"content", "tool_call_id"},
}


class RequestError(OptionError):
    """A request that cannot be answered as it is.

    Attributes:
        param: The field that is wrong, such as `messages[2].content`. None if it is not one field.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def messages_from(data: Any) -> list[Message]:
    """The messages of a request.

    Instructions are messages of the role "system" or "developer" with a text. Calls that were made together come one
    after the other, each with its result: that is how the model makes them.

    Args:
        data: The field `messages`, as read from JSON.

    Raises:
        RequestError: If it is something else, or has something that cannot be said to the model.
    """
    if not isinstance(data, list) or not data:
        raise RequestError(f"messages is {quoted(data)}: give a list with at least one message", "messages")
    messages: list[Message] = []
    calls: dict[str, Message] = {}  # of the last message of the assistant, those without a result
    for number, message in enumerate(data):
        where = f"messages[{number}]"
        role, fields = _fields(message, where)
        if role == "tool":
            messages += _result(fields, calls, where)
            continue
        if calls:
            raise _no_result(calls, where)
        if role == "assistant":
            messages += _written(fields, where)
            calls = _calls(fields.get("tool_calls"), f"{where}.tool_calls")
        else:
            name = _author(fields.get("name"), where) if role == "user" else None
            messages.append(Message(role, _text(fields, where), name=name))
    if calls:
        raise _no_result(calls, "the end")
    if messages[-1].role not in ("user", "tool"):
        raise RequestError(
            f"the last message is of role {quoted(data[-1]['role'])}: end with a message of the user, or with the "
            "result of a tool",
            f"messages[{len(data) - 1}]",
        )
    return messages


def _fields(message: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """The role and the fields that have a value."""
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} is {quoted(message)}: give an object with role and content", where)
    role = message.get("role")
    if role not in [*_KEYS]:  # a list: role may be anything
        raise RequestError(f"{where} has role {quoted(role)}: use one of {', '.join(_KEYS)}", f"{where}.role")
    fields = {key: value for key, value in message.items() if key != "role" and value is not None and value != []}
    if unknown := sorted(fields.keys() - _KEYS[role]):
        raise RequestError(
            f"{where} has {quoted(unknown[0])}, which a message of role {quoted(role)} cannot have here: leave it out",
            f"{where}.{unknown[0]}",
        )
    return role, fields


def _text(fields: Mapping[str, Any], where: str) -> str:
    """The text of a message. Parts of type text follow each other, with nothing in between."""
    content, where = fields.get("content"), f"{where}.content"
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} is {quoted(content)}: give a text, or a list of parts of type text", where)
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind != "text":
            raise RequestError(
                f"{where}[{number}] is of type {quoted(kind)}, but the model reads text only: give parts of type text",
                f"{where}[{number}]",
            )
        if not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise RequestError(
                f'{where}[{number}] is {quoted(part)}: give {{"type": "text", "text": "..."}}', f"{where}[{number}]"
            )
    return "".join(part["text"] for part in content)


def _author(name: Any, where: str) -> str | None:
    if name is not None and not (isinstance(name, str) and _AUTHOR.fullmatch(name)):
        raise RequestError(
            rf"{where}.name is {quoted(name)}: give up to 64 characters without blanks and <|\/>", f"{where}.name"
        )
    return name


def _written(fields: Mapping[str, Any], where: str) -> Iterator[Message]:
    """What the assistant wrote before its calls: its reasoning, and the answer, or a preamble if calls follow."""
    reasoning = fields.get("reasoning", fields.get("reasoning_content"))
    if reasoning is not None and not isinstance(reasoning, str):
        raise RequestError(f"{where}.reasoning is {quoted(reasoning)}: give a text", f"{where}.reasoning")
    if reasoning:
        yield Message("assistant", reasoning, channel="analysis")
    has_calls = "tool_calls" in fields
    text = "" if has_calls and "content" not in fields else _text(fields, where)
    if text or not has_calls:
        yield Message("assistant", text, channel="commentary" if has_calls else "final")


def _calls(data: Any, where: str) -> dict[str, Message]:
    """The calls of a message by their ids."""
    calls: dict[str, Message] = {}
    if not isinstance(data, list | None):
        raise RequestError(f"{where} is {quoted(data)}: give a list of calls", where)
    for number, call in enumerate(data or ()):
        here = f"{where}[{number}]"
        function = (
            call.get("function") if isinstance(call, Mapping) and call.get("type") in ("function", None) else None
        )
        id_, name, arguments = (
            (call.get("id"), function.get("name"), function.get("arguments"))
            if isinstance(call, Mapping) and isinstance(function, Mapping)
            else (None, None, None)
        )
        if not isinstance(id_, str) or not isinstance(arguments, str) or id_ in calls:
            raise RequestError(
                f"{here} is {quoted(call)}: give an id of its own, the type function, and a function with name and "
                "arguments, a text",
                here,
            )
        if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
            raise RequestError(
                f"{here} calls {quoted(name)}: name a function in up to 64 letters, digits, _ and -",
                f"{here}.function.name",
            )
        recipient, kind = f"functions.{name}", "<|constrain|>json"
        calls[id_] = Message("assistant", arguments, channel="commentary", recipient=recipient, content_type=kind)
    return calls


def _result(fields: Mapping[str, Any], calls: dict[str, Message], where: str) -> list[Message]:
    """A call and its result."""
    id_ = fields.get("tool_call_id")
    call = calls.pop(id_, None) if isinstance(id_, str) else None
    if call is None:
        raise RequestError(
            f"{where}.tool_call_id is {quoted(id_)}, which no call before it has: a result comes after the message of "
            "the assistant with its call in tool_calls",
            f"{where}.tool_call_id",
        )
    text = _text(fields, where)
    return [call, Message("tool", text, name=call.recipient, recipient="assistant", channel="commentary")]


def _no_result(calls: Mapping[str, Message], where: str) -> RequestError:
    missing = quoted(next(iter(calls)))
    return RequestError(
        f"the call {missing} has no result before {where}: give a message of role tool with this tool_call_id",
        "messages",
    )
