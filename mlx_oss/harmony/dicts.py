"""Converts messages to plain dictionaries and back, in the JSON form of openai-harmony 0.0.8 (`to_dict`, `from_dict`).

Whatever that form can express but a `Message` cannot raises HarmonyError; nothing is dropped. The key
`response_formats` of a developer message is an addition of this package; openai-harmony ignores it.
Knows nothing of files and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, get_args

from mlx_oss.errors import HarmonyError, quoted
from mlx_oss.harmony.messages import (
    Content,
    DeveloperContent,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)

_TEXT_FIELDS = ("name", "channel", "recipient", "content_type")
_SYSTEM_LINES = ("model_identity", "conversation_start_date", "knowledge_cutoff")


def message_to_dict(message: Message) -> dict[str, Any]:
    """Converts a message to a dictionary that can be written as JSON.

    Args:
        message: The message to convert.

    Returns:
        The fields of the message. Fields that are None are left out, except the lines of a system message: there null
        means that the line is left out, and a missing key means the default.
    """
    fields = {"role": message.role, "name": message.name, "content": [*map(_content_to_dict, message.contents)]}
    return _without_none(fields | {field: getattr(message, field) for field in _TEXT_FIELDS})


def message_from_dict(data: Any) -> Message:
    """Converts a dictionary, as read from JSON, to a message.

    Args:
        data: The fields of the message. `content` is a text or a list of contents, each of type `text`,
            `system_content` or `developer_content`.

    Returns:
        The message.

    Raises:
        HarmonyError: If a key is missing, unknown or of the wrong type. The error names the key.
    """
    fields = _fields(data, "a message", ("role", "content", *_TEXT_FIELDS))
    role: Any = fields.get("role")
    if role not in get_args(Role):
        raise HarmonyError(f"a message has role {quoted(role)}: use one of {', '.join(get_args(Role))}")
    texts = {field: _text(fields, field, "a message") for field in _TEXT_FIELDS}
    return Message(role, _contents_from_dict(fields.get("content"), role), **texts)


def _content_to_dict(content: Content) -> dict[str, Any]:
    if isinstance(content, str):
        return {"type": "text", "text": content}
    tools = {namespace.name: _namespace_to_dict(namespace) for namespace in content.tools}
    if isinstance(content, DeveloperContent):
        formats = [_without_none(asdict(format_)) for format_ in content.response_formats]
        developer = {"instructions": content.instructions, "tools": tools, "response_formats": formats or None}
        return _without_none({"type": "developer_content", **developer})
    lines = {line: getattr(content, line) for line in _SYSTEM_LINES}
    effort = content.reasoning_effort and content.reasoning_effort.capitalize()
    channels = {"valid_channels": list(content.valid_channels), "channel_required": True}
    return {"type": "system_content", **lines, "reasoning_effort": effort, "channel_config": channels, "tools": tools}


def _namespace_to_dict(namespace: ToolNamespace) -> dict[str, Any]:
    tools = [_without_none(asdict(tool)) for tool in namespace.tools]
    return _without_none({"name": namespace.name, "description": namespace.description, "tools": tools})


def _contents_from_dict(data: Any, role: str) -> Content | tuple[Content, ...]:
    if isinstance(data, str):
        return data
    if not isinstance(data, list) or not all(isinstance(content, Mapping) for content in data):
        raise HarmonyError(
            f"the content of a message of role {quoted(role)} must be a string or a list of content objects"
        )
    contents = tuple(map(_content_from_dict, data))
    return contents[0] if len(contents) == 1 else contents


def _content_from_dict(content: Mapping[str, Any]) -> Content:
    where = f"content of type {quoted(content.get('type'))}"
    if content.get("type") == "text":
        return _text(_fields(content, where, ("type", "text")), "text", where) or ""
    if content.get("type") == "developer_content":
        fields = _fields(content, where, ("type", "instructions", "tools", "response_formats"))
        namespaces, formats = _namespaces(fields.get("tools")), _response_formats(fields.get("response_formats"))
        return DeveloperContent(_text(fields, "instructions", where), namespaces, formats)
    if content.get("type") == "system_content":
        return _system_from_dict(content, where)
    raise HarmonyError(f"{where} is unknown: use text, system_content or developer_content")


def _system_from_dict(content: Mapping[str, Any], where: str) -> SystemContent:
    """A missing key means the default, as in openai-harmony. null leaves the line out."""
    fields = _fields(content, where, ("type", *_SYSTEM_LINES, "reasoning_effort", "channel_config", "tools"))
    values: dict[str, Any] = {line: _text(fields, line, where) for line in _SYSTEM_LINES if line in fields}
    if "reasoning_effort" in fields:
        effort = _text(fields, "reasoning_effort", where)
        values["reasoning_effort"] = effort and effort.lower()
        if values["reasoning_effort"] not in (None, *get_args(ReasoningEffort)):
            raise HarmonyError(
                f"reasoning_effort is {quoted(effort)}: use one of {', '.join(get_args(ReasoningEffort))}"
            )
    if "channel_config" in fields:
        values["valid_channels"] = _channels(fields["channel_config"])
    return SystemContent(tools=_namespaces(fields.get("tools")), **values)


def _channels(data: Any) -> tuple[str, ...]:
    if data is None:
        return ()
    fields = _fields(data, "channel_config", ("valid_channels", "channel_required"))
    channels = fields.get("valid_channels", [])
    if not isinstance(channels, list) or not all(isinstance(channel, str) for channel in channels):
        raise HarmonyError(f"valid_channels is {quoted(channels)}: give a list of channel names")
    if channels and fields.get("channel_required") is not True:
        raise HarmonyError("channel_required must be true: the system message of gpt-oss always requires a channel")
    return tuple(channels)


def _namespaces(data: Any) -> tuple[ToolNamespace, ...]:
    if data is None:
        return ()
    if not isinstance(data, Mapping):
        raise HarmonyError(
            f"tools is {quoted(data)}: give an object that maps the name of each namespace to the namespace"
        )
    return tuple(map(_namespace, data.values()))


def _namespace(data: Any) -> ToolNamespace:
    fields = _fields(data, "a tool namespace", ("name", "description", "tools"))
    name = _text(fields, "name", "a tool namespace") or ""
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise HarmonyError(f"the tools of namespace {quoted(name)} must be a list")
    return ToolNamespace(name, _text(fields, "description", name), tuple(_tool(tool, name) for tool in tools))


def _tool(data: Any, namespace: str) -> ToolDescription:
    where = f"a tool of namespace {quoted(namespace)}"
    fields = _fields(data, where, ("name", "description", "parameters"))
    parameters = fields.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise HarmonyError(f"{where} has parameters {quoted(parameters)}: give a JSON schema, which is an object")
    return ToolDescription(_text(fields, "name", where) or "", _text(fields, "description", where) or "", parameters)


def _response_formats(data: Any) -> tuple[ResponseFormat, ...]:
    if not isinstance(data, list | None):
        raise HarmonyError(f"response_formats is {quoted(data)}: give a list of formats")
    return tuple(map(_response_format, data or ()))


def _response_format(data: Any) -> ResponseFormat:
    fields = _fields(data, "a response format", ("name", "schema", "description"))
    name, schema = _text(fields, "name", "a response format"), fields.get("schema")
    if not name or not isinstance(schema, Mapping):
        raise HarmonyError(f"response format {quoted(name)} must have a name, and a JSON schema under the key 'schema'")
    return ResponseFormat(name, schema, _text(fields, "description", f"response format {quoted(name)}"))


def _fields(data: Any, where: str, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise HarmonyError(f"{where} must be an object, not {quoted(data)}")
    if unknown := [key for key in data if key not in known]:
        raise HarmonyError(f"{where} has the unknown key {quoted(unknown[0])}: the known keys are {', '.join(known)}")
    return data


def _text(fields: Mapping[str, Any], key: str, where: str) -> str | None:
    value = fields.get(key)
    if not isinstance(value, str | None):
        raise HarmonyError(f"{where} has {key} {quoted(value)}: give a string")
    return value


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
