"""Anthropic's Messages and its paths: to ask, and to count the tokens of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlx_oss.server.asked import Api, Asked, Writer
from mlx_oss.server.connection import failure, read_json, tell_log
from mlx_oss.server.messages.request import asked
from mlx_oss.server.messages.response import MessageWriter, failure_body
from mlx_oss.server.service import Service

PATH = "/v1/messages"


class Messages(Api):
    """The API.

    Args:
        own: Names of the server's own tools that may run.
    """

    path = PATH

    def __init__(self, own: Collection[str] = ()) -> None:
        self._own = own

    def asked(self, body: Any) -> Asked:
        return asked(body, self._own)

    def writer(self, asked: Asked, model: str) -> Writer:
        return MessageWriter(asked, model)

    def routes(self, service: Service) -> Sequence[BaseRoute]:
        async def count(request: Request) -> Response:
            try:
                asked = self.asked(await read_json(request))
                with service.place():
                    async with service.models.use(service.models.name_of(asked.model)) as model:
                        tokens = await asyncio.to_thread(service.count_tokens, model, asked)
            except Exception as error:
                tell_log(error)
                return failure(self, error)
            return JSONResponse({"input_tokens": tokens})

        return [Route(f"{PATH}/count_tokens", count, methods=["POST"])]

    def failure(self, error: Exception) -> Mapping[str, Any]:
        return failure_body(error)
