"""Custom tools of OpenAI's APIs, which take a text instead of JSON.

The model knows functions. So a custom tool is one with a single argument, and its calls are translated in both
directions. Knows nothing of messages.
"""

from __future__ import annotations

import json

from mlx_oss import json_text
from mlx_oss.harmony import ToolDescription
from mlx_oss.server import options
from mlx_oss.server.fields import Fields

_ARGUMENT = "input"


def as_function(fields: Fields) -> ToolDescription:
    """The function that stands for a custom tool.

    Args:
        fields: Name, description and format of the tool. The model is told of a grammar, which is not enforced.
    """
    described, format_ = options.function(fields, parameters=""), fields.fields("format")
    text = described.description
    grammar = (format_.fields("grammar") or format_) if format_ is not None else None
    if grammar is not None and isinstance(grammar.get("definition"), str):
        text += f"\n\nThe input follows this {grammar.get('syntax') or 'lark'} grammar:\n{grammar.get('definition')}"
    properties = {_ARGUMENT: {"type": "string", "description": "The whole input of the tool."}}
    schema = {"type": "object", "properties": properties, "required": [_ARGUMENT], "additionalProperties": False}
    return ToolDescription(described.name, text.strip(), schema)


def wrapped(text: str) -> str:
    """The arguments of the function for an input."""
    return json.dumps({_ARGUMENT: text}, ensure_ascii=False)


def unwrapped(arguments: str) -> str:
    """The input in the arguments of the function; what is no such JSON is the input itself."""
    try:
        value = json_text.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get(_ARGUMENT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
