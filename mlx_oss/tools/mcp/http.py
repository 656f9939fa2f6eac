"""A server with an address: its transport (streamable HTTP), with a limit for what one answer may take.

Knows nothing of what messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mlx_oss.tools.mcp.fate import Fate
from mlx_oss.tools.mcp.messages import Filter
from mlx_oss.tools.mcp.stdio import LONGEST_MESSAGE

_CONNECT, _SILENCE = 30.0, 300.0  # seconds


@asynccontextmanager
async def transport(url: str, headers: Mapping[str, str], fate: Fate, messages: Filter) -> AsyncIterator[Any]:
    """Connects to a server, for the SDK's client.

    Args:
        url: Its address.
        headers: Headers of all requests, such as a key.
        fate: Gets to know why it ended.
        messages: Lets its messages through.

    Yields:
        The streams of messages, as the SDK's own transports do.
    """
    import anyio
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Limited(httpx2.AsyncByteStream):
        """The body of a response, which fails when it gets too long."""

        def __init__(self, body: Any) -> None:
            self._body, self._left = body, LONGEST_MESSAGE

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self._body:
                self._left -= len(piece)
                if self._left < 0:
                    fate.reason = f"it sent a message of more than {LONGEST_MESSAGE // 2**20} MiB"
                    raise httpx2.ReadError(fate.reason)
                yield piece

        async def aclose(self) -> None:
            await self._body.aclose()

    async def limit(response: httpx2.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):  # whose events the SDK limits
            response.stream = Limited(response.stream)

    client = httpx2.AsyncClient(
        headers=dict(headers),
        timeout=httpx2.Timeout(_CONNECT, read=_SILENCE),
        event_hooks={"response": [limit]},
    )
    async with (
        client,
        streamable_http_client(url, http_client=client, max_sse_event_size=LONGEST_MESSAGE) as (from_server, to_server),
    ):
        to_client, let_through = anyio.create_memory_object_stream[Any](0)
        carrying = asyncio.create_task(_carry(from_server, to_client, messages, fate))
        try:
            yield let_through, to_server
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)
            let_through.close()
            to_client.close()


async def _carry(from_server: Any, to_client: Any, messages: Filter, fate: Fate) -> None:
    """Hands the server's messages to the client."""
    import anyio

    try:
        async with to_client:
            async for message in from_server:
                if isinstance(message, Exception):
                    fate.strange_lines += 1
                elif messages.passed(message.message):
                    await to_client.send(message)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
    finally:
        fate.over.set()
