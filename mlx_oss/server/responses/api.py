"""The Responses API and its paths: to ask, to count the tokens of a prompt, to read and delete what is stored."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlx_oss.errors import quoted
from mlx_oss.server.asked import Api, Asked, Writer, new_id
from mlx_oss.server.connection import failure, read_json, tell_log
from mlx_oss.server.fields import RequestError
from mlx_oss.server.responses.items import Item
from mlx_oss.server.responses.request import Details, History, not_stored, read_request
from mlx_oss.server.responses.servers import Servers
from mlx_oss.server.responses.store import Store, Stored
from mlx_oss.server.responses.tools import BROWSER, PYTHON
from mlx_oss.server.responses.writer import ResponseWriter
from mlx_oss.server.service import Service

_log = logging.getLogger("mlx_oss.server")

_PREFIXES = {"reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_PAGE, _LONGEST_PAGE = 20, 100


class Responses(Api):
    """OpenAI's Responses API.

    Args:
        store: Keeps the responses of requests that do not say `"store": false`. None: in memory.
        own: Names of the server's own tools that may run.
        servers: The MCP servers that there are.
    """

    path = "/v1/responses"
    last = b"data: [DONE]\n\n"

    def __init__(self, store: Store | None = None, own: Collection[str] = (), servers: Servers | None = None) -> None:
        self._store = store or Store()
        self._own, self._servers = frozenset(own) & {BROWSER, PYTHON}, servers

    def asked(self, body: Any) -> Asked:
        with _readable():
            return read_request(body, self._own, History(self._before, self._store.item), self._servers)

    def _before(self, id_: str) -> Sequence[Item]:
        found = self._store.conversation(id_)
        if found is None:
            raise not_stored(id_)
        return found

    def writer(self, asked: Asked, model: str) -> Writer:
        details: Details = asked.details

        def keep(response: Mapping[str, Any]) -> None:
            try:
                self._store.keep(Stored(response, [_whole(item) for item in details.items]))
            except sqlite3.Error as error:  # such as a disk that is full: the response is as good without
                _log.error("a response is not stored: %s", error)

        return ResponseWriter(details, model, keep if details.is_stored else None)

    def routes(self, service: Service) -> Sequence[BaseRoute]:
        paths = _Paths(self, self._store, service)
        one = f"{self.path}/{{id}}"
        return (
            Route(f"{self.path}/input_tokens", paths.count, methods=["POST"]),
            Route(f"{self.path}/compact", paths.compact, methods=["POST"]),
            Route(one, paths.get, methods=["GET"]),
            Route(one, paths.delete, methods=["DELETE"]),
            Route(f"{one}/input_items", paths.items, methods=["GET"]),
        )


@contextmanager
def _readable() -> Iterator[None]:
    """Makes an error of the store one for the client. Its file may be locked or damaged."""
    try:
        yield
    except sqlite3.Error as error:
        raise RequestError(
            f"the stored responses cannot be used now ({error}): ask again, or send the whole conversation as `input`",
            status=503,
        ) from None


def _whole(item: Item) -> Item:
    """An item of a request as responses have it: with an id and a type, and the text of a message as a part."""
    kind = item.get("type") or "message"
    id_ = item.get("id")
    whole = {**item, "id": id_ if isinstance(id_, str) else new_id(_PREFIXES.get(kind, "msg")), "type": kind}
    if kind == "message" and isinstance(text := item.get("content"), str):
        part: Item = {"type": "input_text", "text": text}
        if item.get("role") == "assistant":
            part = {"type": "output_text", "text": text, "annotations": []}
        whole |= {"status": "completed", "content": [part]}
    return whole


class _Paths:
    def __init__(self, api: Responses, store: Store, service: Service) -> None:
        self._api, self._store, self._service = api, store, service

    async def count(self, request: Request) -> Response:
        """How many tokens the prompt of a request has."""
        try:
            asked = self._api.asked(await read_json(request))
            name = self._service.models.name_of(asked.model)
            with self._service.place():
                async with self._service.models.use(name) as model:
                    tokens = await asyncio.to_thread(self._service.count_tokens, model, asked)
            return JSONResponse({"object": "response.input_tokens", "input_tokens": tokens})
        except Exception as error:
            tell_log(error)
            return failure(self._api, error)

    async def compact(self, request: Request) -> Response:
        """Refuses what would otherwise be the id of a response."""
        raise HTTPException(404)

    async def get(self, request: Request) -> Response:
        """A response that is stored."""
        try:
            return JSONResponse(self._stored(request).response)
        except RequestError as error:
            tell_log(error)
            return failure(self._api, error)

    async def delete(self, request: Request) -> Response:
        """Forgets a response."""
        id_ = request.path_params["id"]
        try:
            with _readable():
                if not self._store.delete(id_):
                    raise _missing(id_)
        except RequestError as error:
            tell_log(error)
            return failure(self._api, error)
        return JSONResponse({"id": id_, "object": "response", "deleted": True})

    async def items(self, request: Request) -> Response:
        """The items of a stored response's request, page by page."""
        try:
            items = self._stored(request).items
            limit = request.query_params.get("limit", str(_PAGE))
            if not limit.isascii() or not limit.isdecimal() or len(limit) > 3 or not 1 <= int(limit) <= _LONGEST_PAGE:
                raise RequestError(f"limit is {quoted(limit)}: give a whole number from 1 to {_LONGEST_PAGE}", "limit")
        except RequestError as error:
            tell_log(error)
            return failure(self._api, error)
        ordered = list(items) if request.query_params.get("order") == "asc" else list(reversed(items))
        ids = [item["id"] for item in ordered]
        after = request.query_params.get("after")
        start = ids.index(after) + 1 if after in ids else 0
        page = ordered[start : start + int(limit)]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        has_more = start + len(page) < len(ordered)
        return JSONResponse({"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": has_more})

    def _stored(self, request: Request) -> Stored:
        id_ = request.path_params["id"]
        with _readable():
            found = self._store.get(id_)
        if found is None:
            raise _missing(id_)
        return found


def _missing(id_: str) -> RequestError:
    return RequestError(f"the response {quoted(id_)} is not stored here: ask again", "id", status=404)
