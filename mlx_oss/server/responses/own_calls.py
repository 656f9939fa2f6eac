"""The items of what the server itself runs: its calls, and the tools of MCP servers. As in `output`, with their events.

Knows nothing of the response around them, and of how calls are run.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlx_oss.events import ToolCall, ToolResult
from mlx_oss.server.asked import Frame, new_id
from mlx_oss.server.responses.output import Events, OutputItem
from mlx_oss.server.responses.servers import Listed

_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


class OwnCallItem(OutputItem):
    """A call that the server runs.

    Args:
        events: Numbers its events.
        index: Its place in the output.
        include: What of items is wanted besides the usual.
        call: The call.
    """

    def __init__(self, events: Events, index: int, include: Collection[str] = (), *, call: ToolCall) -> None:
        self._call = call
        super().__init__(events, index, include)

    @abstractmethod
    def take_result(self, result: ToolResult) -> None:
        """Its result is there."""


# The first line of what the browser shows: number, title and address.
_PAGE = re.compile(r"\[\d+\] .*? \((\S+?)(?:/find\?pattern=.*)?\)\n")


class SearchItem(OwnCallItem):
    """A call of the browser."""

    prefix = "ws"
    _failed = False

    def _first_fields(self) -> Mapping[str, Any]:
        return {"type": "web_search_call", "status": "in_progress", "action": _action(self._call)}

    def open(self) -> Iterator[Frame]:
        yield from super().open()
        yield self._event("web_search_call.in_progress")
        yield self._event("web_search_call.searching")

    def take_result(self, result: ToolResult) -> None:
        self._failed = result.error is not None
        action = self.data["action"]
        if not self._failed and "url" in action and (page := _PAGE.match(result.text)) is not None:
            self.data["action"] = {**action, "url": page[1]}

    def close(self, status: str) -> Iterator[Frame]:
        yield self._event("web_search_call.completed")
        self.data["status"] = "failed" if self._failed else status
        yield self._item_event("done")


class CodeItem(OwnCallItem):
    """A call of Python."""

    prefix = "ci"

    def _first_fields(self) -> Mapping[str, Any]:
        fields = {"type": "code_interpreter_call", "status": "in_progress", "code": ""}
        return {**fields, "container_id": new_id("cntr"), "outputs": None}

    def open(self) -> Iterator[Frame]:
        code = _code(self._call.arguments)
        yield from super().open()
        yield self._event("code_interpreter_call.in_progress")
        yield self._event("code_interpreter_call_code.delta", delta=code)
        yield self._event("code_interpreter_call_code.done", code=code)
        self.data["code"] = code
        yield self._event("code_interpreter_call.interpreting")

    def take_result(self, result: ToolResult) -> None:
        if "code_interpreter_call.outputs" in self._include:
            self.data["outputs"] = [{"type": "logs", "logs": result.text}]

    def close(self, status: str) -> Iterator[Frame]:
        yield self._event("code_interpreter_call.completed")
        self.data["status"] = status
        yield self._item_event("done")


class ServerCallItem(OwnCallItem):
    """A call of a tool of an MCP server."""

    prefix = "mcp"

    def _first_fields(self) -> Mapping[str, Any]:
        label, _, name = self._call.name.partition(".")
        fields = {"type": "mcp_call", "status": "in_progress", "server_label": label, "name": name, "arguments": ""}
        return {**fields, "output": None, "error": None, "approval_request_id": None}

    def open(self) -> Iterator[Frame]:
        text = self._call.arguments if self._call.arguments.strip() else "{}"
        yield from super().open()
        yield self._event("mcp_call.in_progress")
        yield self._event("mcp_call_arguments.delta", delta=text)
        yield self._event("mcp_call_arguments.done", arguments=text)
        self.data["arguments"] = text

    def take_result(self, result: ToolResult) -> None:
        if result.error is None:
            self.data["output"] = result.text
        else:
            content = [{"type": "text", "text": result.error}]
            self.data["error"] = {"type": "mcp_tool_execution_error", "content": content}

    def close(self, status: str) -> Iterator[Frame]:
        has_failed = self.data["error"] is not None
        yield self._event(f"mcp_call.{'failed' if has_failed else 'completed'}")
        self.data["status"] = "failed" if has_failed else status
        yield self._item_event("done")


class ServerListItem(OutputItem):
    """What the model is told of an MCP server.

    Args:
        events: Numbers its events.
        index: Its place in the output.
        include: What of items is wanted besides the usual.
        server: The server.
    """

    prefix = "mcpl"

    def __init__(self, events: Events, index: int, include: Collection[str] = (), *, server: Listed) -> None:
        self._server = server
        super().__init__(events, index, include)

    def _first_fields(self) -> Mapping[str, Any]:
        return {"type": "mcp_list_tools", "server_label": self._server.label, "tools": [], "error": None}

    def open(self) -> Iterator[Frame]:
        yield from super().open()
        yield self._event("mcp_list_tools.in_progress")

    def close(self, status: str) -> Iterator[Frame]:
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters or _NO_ARGUMENTS}
            for tool in self._server.tools
        ]
        self.data |= {"tools": [{**tool, "annotations": None} for tool in tools], "error": self._server.error}
        yield self._event(f"mcp_list_tools.{'completed' if self._server.error is None else 'failed'}")
        yield self._item_event("done")


def _code(arguments: str) -> str:
    from mlx_oss.tools.python import code_of

    return code_of(arguments)


def _action(call: ToolCall) -> Mapping[str, Any]:
    """What a call of the browser does."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    given = arguments if isinstance(arguments, dict) else {}
    match call.recipient.rpartition(".")[2]:
        case "open":
            page = given.get("id")
            return {"type": "open_page", "url": page if isinstance(page, str) else None}
        case "find":
            return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": ""}
    query = str(given.get("query", call.arguments))
    return {"type": "search", "query": query, "queries": [query]}
