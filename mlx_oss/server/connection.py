"""The two ends of a connection: reads the JSON of a request, and sends a response, whole or as a stream of events.

A client that leaves ends what is computed for it. Knows nothing of models and messages.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from mlx_oss import json_text
from mlx_oss.errors import MlxOssError
from mlx_oss.server.asked import Api, Frame, Writer, status_of
from mlx_oss.server.fields import RequestError
from mlx_oss.server.service import RETRY_SECONDS, Service

_log = logging.getLogger("mlx_oss.server")

BODY_BYTES = 32 << 20
_LARGE = 1 << 20  # bytes of a request that is read on a thread
_BODY_SECONDS = 60.0  # for the whole body
_QUIET_SECONDS = 4.0  # without an event, until the client is told that the server lives
_SLOW_SECONDS = 600.0  # that a client may take to read what was sent to it

T = TypeVar("T")


class ClientGone(Exception):
    """The client has left, so nobody needs the answer."""


class Endpoint:
    """The ASGI application of one API's path.

    Args:
        api: The API.
        service: What answers.
        logs_prompts: Whether the log gets the bodies of requests.
    """

    def __init__(self, api: Api, service: Service, *, logs_prompts: bool = False) -> None:
        self._api, self._service, self._logs_prompts = api, service, logs_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), 499
        try:
            status = await self._answer(scope, receive, send)
        except (ClientGone, ClientDisconnect):
            pass
        finally:
            self._service.metrics.count_request(self._api.path, status)
            _log.info("POST %s: %d after %.2f s", self._api.path, status, time.monotonic() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answers a request, and returns the status."""
        try:
            with ExitStack() as held:
                return await self._answer_within(scope, receive, send, held)
        except (ClientGone, ClientDisconnect):
            raise
        except Exception as error:
            tell_log(error)
            response = failure(self._api, error)
            await response(scope, receive, send)
            return response.status_code

    async def _answer_within(self, scope: Scope, receive: Receive, send: Send, held: ExitStack) -> int:
        """Answers a request in the places that it needs, which are given back afterwards."""
        body = await read_json(Request(scope, receive), lambda: held.enter_context(self._service.large_place()))
        if self._logs_prompts:
            _log.info("asked: %s", json.dumps(body, ensure_ascii=False))
        asked = await asyncio.to_thread(self._api.asked, body) if _is_large(scope) else self._api.asked(body)
        name = self._service.models.name_of(asked.model)
        held.enter_context(self._service.place())
        writer = self._api.writer(asked, name)
        stream = EventStream(send, writer, self._api.last)
        try:
            emit = stream.emit if asked.stream else _drop
            work = self._service.answer(asked, name, writer, emit, writer.confirm)
            await unless_gone(receive, work, stream.keep_alive if asked.stream else None)
        except ClientGone:
            raise
        except Exception as error:
            if not stream.has_begun:
                raise
            tell_log(error)
            await stream.emit(writer.fail(error))
        if asked.stream:
            await stream.end()
        else:
            await JSONResponse(writer.body)(scope, receive, send)
        return 200


def _is_large(scope: Scope) -> bool:
    """Whether reading a request's fields may take so long that others would notice."""
    length = Headers(scope=scope).get("content-length", "")
    return not (length.isascii() and length.isdecimal()) or int(length[:12]) > _LARGE


async def _drop(frames: Iterable[Frame]) -> None:
    for _ in frames:
        pass


def failure(api: Api, error: Exception) -> JSONResponse:
    """The response for an error."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(api.failure(error), status, headers)


def tell_log(error: Exception) -> None:
    """Logs an error that is not the client's: with a traceback if it is a bug."""
    if status_of(error) >= 500:
        _log.error("%s", error, exc_info=None if isinstance(error, MlxOssError) else error)


async def read_json(request: Request, grown: Callable[[], object] = lambda: None) -> Any:
    """The JSON of a request's body.

    Args:
        request: The request.
        grown: Called when the body turns out to be a large one. What it raises refuses the request.

    Raises:
        RequestError: If it is too large, too slow, or no JSON.
    """
    pieces, length = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                length += len(piece)
                if length > BODY_BYTES:
                    raise RequestError(f"the body has more than {BODY_BYTES >> 20} MiB: send less", status=413)
                if length > _LARGE >= length - len(piece):
                    grown()
                pieces.append(piece)
    except TimeoutError:
        raise RequestError(f"the body did not come within {_BODY_SECONDS:.0f} seconds", status=408) from None
    data = b"".join(pieces)
    return await asyncio.to_thread(_parsed, data) if length > _LARGE else _parsed(data)


def _parsed(data: bytes) -> Any:
    try:
        return json_text.loads(data.decode(), is_strict=True)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 at byte {error.start}: send JSON in UTF-8") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply: send less depth") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON ({error}): send one JSON object") from None


class EventStream:
    """Server-sent events of one response. The header is sent with the first of them.

    Args:
        send: The ASGI function.
        writer: Writes the events that keep the connection alive.
        last: What ends the stream.

    Attributes:
        has_begun: Whether anything has been sent.
    """

    def __init__(self, send: Send, writer: Writer, last: bytes) -> None:
        self.has_begun = False
        self._send, self._writer, self._last = send, writer, last
        self._sent = time.monotonic()

    async def emit(self, frames: Iterable[Frame]) -> None:
        """Sends events. Returns when the client has read most of what was sent."""
        if data := b"".join(map(encoded, frames)):
            await self._send_bytes(data)

    async def keep_alive(self) -> None:
        """Sends something if nothing was sent for a while."""
        if time.monotonic() - self._sent >= _QUIET_SECONDS:
            await self.emit(self._writer.wait())

    async def end(self) -> None:
        """Ends the stream."""
        await self._send_bytes(self._last, more=False)

    async def _send_bytes(self, data: bytes, *, more: bool = True) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        self._sent = time.monotonic()
        try:
            async with asyncio.timeout(_SLOW_SECONDS):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except (TimeoutError, OSError):
            raise ClientGone from None


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # proxies would keep events back
]


def encoded(frame: Frame) -> bytes:
    """An event as bytes."""
    name, data = frame
    text = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{text}" if name else text).encode(errors="replace")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T], keep_alive: Any = None) -> T:
    """Does the work, and ends it if the client leaves.

    Args:
        receive: The ASGI function; the whole body has been read.
        work: What is done.
        keep_alive: Called about once a second while it goes on.

    Raises:
        ClientGone: If the client has left. The work has then ended.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        while not task.done() and not gone.done():
            await asyncio.wait({task, gone}, timeout=1.0 if keep_alive else None, return_when=asyncio.FIRST_COMPLETED)
            if keep_alive and not task.done() and not gone.done():
                await keep_alive()
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
