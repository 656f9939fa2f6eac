"""One run of a server: from the handshake to its end. Everything here runs on the loop of `background`.

Knows nothing of sessions, and of starting a server again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from mlx_oss.errors import ToolError
from mlx_oss.tools.mcp.fate import Fate
from mlx_oss.tools.mcp.listing import MOST_TOOLS
from mlx_oss.tools.mcp.messages import Filter
from mlx_oss.version import __version__

Open = Callable[[Fate, Filter], AbstractAsyncContextManager[Any]]
Progress = Callable[[float, float | None, str | None], Awaitable[None]]

_MOST_PAGES = 100
_CLOSING = 10.0  # seconds
_TELLING = 1.0  # seconds
for _name in ("mcp", "client"):  # the SDK's loggers, which would otherwise write to stderr what a server does wrong
    logging.getLogger(_name).addHandler(logging.NullHandler())


class Connection:
    """A server that runs.

    Args:
        open: Opens the transport; tells the fate why it ends.
        changed: Called when the server says that its tools have changed.

    Attributes:
        fate: Why it ended.
        name: What the server calls itself.
        instructions: What it says of itself.
    """

    def __init__(self, open: Open, changed: Callable[[], None]) -> None:
        self._open, self._changed = open, changed
        self.fate, self.name = Fate(), ""
        self.instructions: str | None = None
        self._client: Any = None
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self, seconds: float) -> None:
        """Starts the server. Raises ToolError if it does not answer as a server should within so many seconds."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(ready))
        try:
            await asyncio.wait([ready, self._life], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise ToolError(f"it did not answer within {seconds:g} s{self.why}")
            ready.result()
        except BaseException:
            self._life.cancel()
            await self.close()
            if ready.done():
                ready.exception()  # has been seen
            raise

    async def _live(self, ready: asyncio.Future[None]) -> None:
        from mcp import Client
        from mcp_types import Implementation

        try:
            async with Client(
                self._open(self.fate, Filter(self._changed)),
                cache=None,
                client_info=Implementation(name="mlx-oss", version=__version__),
            ) as client:
                self._client, self.instructions = client, client.instructions
                self.name = client.server_info.name if client.server_info else ""
                ready.set_result(None)
                over = [asyncio.create_task(event.wait()) for event in (self._closing, self.fate.over)]
                listening = asyncio.create_task(self._listen())
                await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
                for task in (*over, listening):
                    task.cancel()
                await asyncio.gather(*over, listening, return_exceptions=True)
        except BaseException as error:
            if not ready.done():
                ready.set_exception(ToolError(f"it ended{self.why}" if self._is_end(error) else problem(error)))
            if not isinstance(error, Exception):
                raise
        finally:
            self.fate.over.set()

    async def _listen(self) -> None:
        """Asks servers of the newest protocol to tell when their tools change: they do not by themselves."""
        with contextlib.suppress(Exception):  # of the protocol before, or it cannot
            async with self._client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    pass  # the filter has seen it

    async def tools(self) -> list[Any]:
        """The server's tools, as the SDK describes them."""
        found: list[Any] = []
        cursor, seen = None, set[str]()
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor or cursor in seen or len(found) >= MOST_TOOLS:
                break
            seen.add(cursor)
        return found

    async def call(self, name: str, arguments: Mapping[str, Any], progress: Progress) -> Any:
        """The result of a call, as the SDK has it. If this is cancelled, the server is told."""
        try:
            return await self._client.call_tool(name, dict(arguments), progress_callback=progress)
        except Exception as error:
            if _is_closed(error):
                with contextlib.suppress(TimeoutError):  # its end is about to be told, with a reason
                    await asyncio.wait_for(self.fate.over.wait(), _TELLING)
                self.fate.over.set()  # or else the SDK has given it up, for something that it sent
            raise

    async def close(self) -> None:
        """Ends the server, and waits for that."""
        self._closing.set()
        if self._life is not None:
            await asyncio.wait([self._life], timeout=_CLOSING)

    @property
    def is_over(self) -> bool:
        """Whether the server has ended."""
        return self.fate.over.is_set()

    @property
    def why(self) -> str:
        """What is known of its end, in parentheses."""
        return f" ({self.fate})" if str(self.fate) else ""

    def _is_end(self, error: BaseException) -> bool:
        return self.is_over and _is_closed(error)


def _is_closed(error: BaseException) -> bool:
    """Whether it is the SDK's own error; servers use its number for other errors."""
    from mcp_types import CONNECTION_CLOSED

    error = _first(error)
    return getattr(error, "code", None) == CONNECTION_CLOSED and str(error) == "Connection closed"


def problem(error: BaseException) -> str:
    """What went wrong, in a line."""
    error = _first(error)
    kind = type(error).__name__
    if isinstance(error, ToolError):
        return str(error)
    if kind == "ValidationError":
        return "it answered with something that the protocol does not know"
    text = " ".join(str(error).split())
    return text if kind == "MCPError" and text else f"{kind}: {text}" if text else kind


def _first(error: BaseException) -> BaseException:
    """The error itself: the SDK raises groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
