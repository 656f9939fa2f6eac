"""A server made with the official SDK, for both of its transports. Run as a program: `stdio`, or a port."""

from __future__ import annotations

import asyncio
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from pydantic import BaseModel

server = MCPServer("friendly", instructions="Adds and waits.")


class Weather(BaseModel):
    """The weather of a place."""

    degrees: int
    sky: str | None = None


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def weather(place: str) -> Weather:
    """Tells the weather."""
    return Weather(degrees=len(place))


@server.tool()
def pixel() -> Image:
    """Draws."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("out of order")


@server.tool()
async def wait(seconds: float, context: Context) -> str:
    """Waits, and tells so."""
    for step in range(10):
        await context.report_progress(step, 10, f"step {step}")
        await asyncio.sleep(seconds / 10)
    return "waited"


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool."""

    def more() -> str:
        """One more."""
        return "more"

    server.add_tool(more)
    await context.notify_tools_changed()
    return "grown"


@server.tool()
def big(size: int) -> str:
    """Gives a long text."""
    return "x" * size


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[1]))
