"""Our own tools as a server of the Model Context Protocol: for programs that want the sandbox or the folder search.

The tools have the names of gpt-oss's reference servers: the browser is `search`, `open` and `find`, Python is `python`
with the argument `code`. They run as they do in a session, with the same limits. Knows nothing of the command line.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_oss.errors import OptionError
from mlx_oss.events import Attachment, ToolCall, ToolResult
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.toolset import AnyTool, Toolset
from mlx_oss.version import __version__

PATH = "/mcp"  # of the server that has an address
_NAME = "mlx-oss"
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
_CODE = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "The code; what it prints is the result."}},
    "required": ["code"],
}


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool as clients see it.

    Attributes:
        description: Its name, text and schema.
        recipient: Whom a call is sent to.
    """

    description: ToolDescription
    recipient: str


def offered(tools: Sequence[AnyTool]) -> dict[str, Offered]:
    """The tools by the names that clients use. Raises OptionError if two have the same one."""
    toolset, found = Toolset(tools), list[Offered]()
    for space in toolset.namespaces:
        found += [Offered(tool, f"{space.name}.{tool.name}") for tool in space.tools]
        if not space.tools:
            found.append(Offered(ToolDescription(space.name, space.description or "", _CODE), space.name))
    found += [Offered(tool, f"functions.{tool.name}") for tool in toolset.functions]
    by_name: dict[str, Offered] = {}
    for one in found:
        if by_name.setdefault(one.description.name, one) is not one:
            raise OptionError(f"two tools are called {one.description.name!r}: leave out one of them")
    return by_name


class OfferedTools:
    """A server with these tools.

    Args:
        tools: The tools, which all clients share.

    Raises:
        OptionError: If two tools have the same name.
    """

    def __init__(self, tools: Sequence[AnyTool]) -> None:
        from mcp.server import Server

        self._tools, self._toolset, self._by_name = tools, Toolset(tools), offered(tools)
        spaces = self._toolset.namespaces
        is_one = len(spaces) == 1 and not self._toolset.functions
        texts = [space.description for space in spaces if space.description]
        self.server = Server(
            spaces[0].name if is_one else _NAME,
            version=__version__,
            instructions="\n\n".join(texts) or None,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    def close(self) -> None:
        """Ends what the tools have started."""
        for tool in self._tools:
            if isinstance(tool, SystemTool):
                tool.close()

    async def serve_streams(self) -> None:
        """Serves the client at stdin and stdout, until stdin ends. What else is written to stdout goes to stderr."""
        from mcp.server.stdio import stdio_server

        async with stdio_server() as (reading, writing):
            await self.server.run(reading, writing, self.server.create_initialization_options())

    async def _list(self, context: Any, params: Any) -> Any:
        from mcp_types import ListToolsResult, Tool

        described = [one.description for one in self._by_name.values()]
        return ListToolsResult(
            tools=[
                Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters or _NO_ARGUMENTS))
                for tool in described
            ]
        )

    async def _call(self, context: Any, params: Any) -> Any:
        found = self._by_name.get(params.name)
        recipient = found.recipient if found else f"functions.{params.name}"
        arguments = params.arguments or {}
        if found and found.description.parameters is _CODE and not isinstance(arguments.get("code"), str):
            return _result(ToolResult(recipient, "Error: `code` must be the code, a text", error="no code"))
        call = ToolCall(recipient, json.dumps(arguments, ensure_ascii=False))
        invocation = self._toolset.invoke(call)
        try:
            await invocation.aperform()
            while invocation.is_running:
                for told in invocation.take_progress():
                    await context.session.report_progress(told.done, told.total, told.text or None)
                await invocation.aperform()
        except asyncio.CancelledError:  # the client has cancelled the call, or is gone
            invocation.cancel()
            raise
        return _result(invocation.result)


def _result(result: ToolResult) -> Any:
    from mcp_types import CallToolResult, TextContent

    blocks = [TextContent(type="text", text=result.text), *map(_block, result.attachments)]
    return CallToolResult(content=blocks, is_error=result.error is not None)


def _block(attachment: Attachment) -> Any:
    from mcp_types import AudioContent, BlobResourceContents, EmbeddedResource, ImageContent

    data, kind = base64.b64encode(attachment.data).decode(), attachment.media_type
    if kind.startswith("image/"):
        return ImageContent(type="image", data=data, mime_type=kind)
    if kind.startswith("audio/"):
        return AudioContent(type="audio", data=data, mime_type=kind)
    address = attachment.name if ":" in attachment.name else "file:///attachment"
    return EmbeddedResource(type="resource", resource=BlobResourceContents(uri=address, blob=data, mime_type=kind))
