"""Reads the messages of a server, and lets through to the SDK what is asked for, without what could hold it up.

Knows nothing of how messages come.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

# Of what a server tells by itself, nothing else is used. A server that writes a log all the time costs no more than
# reading it.
_NOTIFICATIONS = {
    "notifications/cancelled",
    "notifications/subscriptions/acknowledged",
}
_CHANGED = "notifications/tools/list_changed"
_PROGRESS = "notifications/progress"
_MOST_REQUESTS = 1000  # of a server, that nobody is known to have answered
_MOST = 1e300  # of a number, which the SDK makes a float
_UNKNOWN = {"code": -32603, "message": "it answered with something that the protocol does not know"}


def read(line: bytes) -> Any:
    """A line as a JSON-RPC message of the SDK; None if it is none.

    Letters that cannot be are replaced, such as half of a pair where a server has cut a text. An answer that cannot be
    read becomes an error, so that nobody waits for it any longer.

    Args:
        line: What the server has written.
    """
    from mcp_types import jsonrpc_message_adapter

    with contextlib.suppress(ValueError):
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    try:
        value = json.loads(line.decode(errors="replace"))
        mended = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        return None
    with contextlib.suppress(ValueError):
        return jsonrpc_message_adapter.validate_json(mended, by_name=False)
    if not isinstance(value, dict) or "method" in value or "id" not in value:
        return None
    with contextlib.suppress(ValueError):
        error = {"jsonrpc": "2.0", "id": value["id"], "error": _UNKNOWN}
        return jsonrpc_message_adapter.validate_python(error, by_name=False)
    return None


class Filter:
    """Lets messages of one server through.

    Args:
        changed: Called when the server tells that its tools have changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed, self._unanswered = changed, 0

    def passed(self, message: Any) -> bool:
        """Whether a message is let through. What is unwanted in it is taken out of it.

        Args:
            message: A JSON-RPC message as the SDK reads it.
        """
        result = getattr(message, "result", None)
        if isinstance(result, dict):
            if isinstance(tools := result.get("tools"), list):
                result["tools"] = [_readable(tool) for tool in tools if _has_name(tool)]
            return True
        if not hasattr(message, "method"):
            return True
        if not hasattr(message, "id"):
            if message.method == _CHANGED:
                self._changed()
            if message.method == _PROGRESS:
                return _tells_progress(message.params or {})
            return message.method in _NOTIFICATIONS
        self._unanswered += 1  # the SDK answers each request, and would wait with any number of answers
        return self._unanswered <= _MOST_REQUESTS

    def sent(self, message: Any) -> None:
        """A message has been sent to the server, perhaps an answer.

        Args:
            message: A JSON-RPC message of the SDK.
        """
        if not hasattr(message, "method"):
            self._unanswered -= 1


def _tells_progress(params: dict[str, Any]) -> bool:
    """Whether the numbers are some that the SDK can work with; one that is too large would end the connection."""
    return all(
        isinstance(number, int | float) and -_MOST < number < _MOST
        for number in (params.get("progress"), params.get("total") or 0)
    )


def _has_name(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str)


def _readable(tool: dict[str, Any]) -> dict[str, Any]:
    """What is used of the description of a tool, so that one wrong description does not spoil the list.

    The schemas of results are left out: the SDK would check each result against them, with regular expressions of the
    server's that can take for ever.
    """
    given = tool.get("inputSchema")
    schema = {**given, "type": "object"} if isinstance(given, dict) else {"type": "object"}
    properties, required = schema.get("properties"), schema.get("required")
    if not (isinstance(properties, dict) and all(isinstance(inner, dict) for inner in properties.values())):
        schema.pop("properties", None)
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        schema.pop("required", None)
    texts = {name: tool[name] for name in ("name", "title", "description") if isinstance(tool.get(name), str)}
    return {**texts, "inputSchema": schema}
