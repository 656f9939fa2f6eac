"""A group of functions, as a server of tools is one."""

from __future__ import annotations

from mlx_oss import ToolDescription
from mlx_oss.errors import ToolError
from mlx_oss.harmony import ToolNamespace
from mlx_oss.tools import Tool
from mlx_oss.tools.group import ToolGroup


class Notes(ToolGroup):
    """Reads and writes nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        described = [ToolDescription("read", "Reads.", schema), ToolDescription("write", "Writes.", schema)]
        self._tools = {tool.name: Tool(tool, getattr(self, tool.name)) for tool in described}
        self.ran: list[str] = []

    @property
    def namespace(self) -> ToolNamespace:
        return ToolNamespace("notes", "My notes.", tuple(tool.description for tool in self._tools.values()))

    def tool(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def read(self, path: str = "") -> str:
        self.ran.append(path)
        if path == "gone":
            raise ToolError("there is no such note")
        return f"the note {path}"

    def write(self, path: str = "") -> str:
        self.ran.append(path)
        return "written"
