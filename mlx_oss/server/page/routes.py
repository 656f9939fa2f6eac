"""The addresses of the page: its files, and what it asks besides questions. Knows nothing of what stands around them.

`PUBLIC` are those of its files, which a browser asks for without a key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlx_oss.chat.history import EFFORTS
from mlx_oss.errors import MlxOssError
from mlx_oss.server.asked import status_of
from mlx_oss.server.connection import read_json
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.page.approvals import Approvals
from mlx_oss.server.page.markdown import rendered
from mlx_oss.server.service import Service
from mlx_oss.tools.toolset import Toolset
from mlx_oss.weights.hub.names import NANO

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}


PUBLIC = tuple(_FILES)

_NANO = "It is a small demonstration model that comes with mlx-oss, and not gpt-oss: its answers are often wrong."
_KNOWN = {  # by the name of `--tool`; the descriptions of these tools are written for the model
    "python": "runs Python code in a sandbox",
    "browser": "searches and reads pages",
    "patch": "changes the files of a folder",
}


def page_routes(service: Service, approvals: Approvals, usual: Mapping[str, str]) -> list[BaseRoute]:
    """The routes of a server's page.

    Args:
        service: What answers.
        approvals: Where the reader's answers arrive.
        usual: Options of new conversations: `effort`, `instructions`.
    """
    calls = _Calls(service, approvals, usual)
    return [
        *(Route(path, _file(name, kind)) for path, (name, kind) in _FILES.items()),
        Route("/page/state", calls.state),
        Route("/page/confirm", _answering(calls.confirm), methods=["POST"]),
        Route("/page/render", _answering(calls.render), methods=["POST"]),
    ]


class _Calls:
    """What the page asks besides questions."""

    def __init__(self, service: Service, approvals: Approvals, usual: Mapping[str, str]) -> None:
        self._service, self._approvals, self._usual = service, approvals, usual
        self._about: list[dict[str, Any]] | None = None  # the tools

    async def state(self, request: Request) -> Response:
        """What there is: models, tools, efforts."""
        models = self._service.models
        if self._about is None:
            self._about = await asyncio.to_thread(self._tools)
        names = await asyncio.to_thread(lambda: models.names)
        notes = {NANO: _NANO} if NANO in names else {}
        return _json({"models": names, "notes": notes, "efforts": EFFORTS, "tools": self._about, **self._usual})

    async def confirm(self, asked: Fields) -> dict[str, Any]:
        """The reader says whether a call may run."""
        may_run = asked.flag("run")
        if not self._approvals.answer(asked.text("key"), may_run):
            raise RequestError("this call does not wait for an answer any more", "key", status=404)
        return {"run": may_run}

    async def render(self, asked: Fields) -> dict[str, Any]:
        """HTML of texts that the page has kept."""
        texts = asked.list("texts")
        if not all(isinstance(text, str) for text in texts):
            raise asked.wrong("texts", "a list of texts")
        return {"html": await asyncio.to_thread(lambda: [rendered(text) for text in texts])}

    def _tools(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "about": _KNOWN.get(name) or _about(Toolset(tool.make())),
                "asks": tool.needs_confirmation and not self._service.runs_unasked,
            }
            for name, tool in self._service.tools.items()
        ]


def _about(tools: Toolset) -> str:
    if len(tools.functions) == 1:
        return tools.functions[0].description.partition("\n")[0]
    names = [tool.name for tool in tools.functions] + [space.name for space in tools.namespaces]
    return ", ".join(names + [tool.name for space in tools.groups for tool in space.tools])


def _answering(call: Callable[[Fields], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            return _json(await call(Fields(await read_json(request))))
        except MlxOssError as error:
            return _json({"error": {"message": str(error)}}, status_of(error))

    return respond


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("mlx_oss.server.page").joinpath(name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = {**HEADERS, "ETag": tag, "Cache-Control": "no-cache"}  # a new release is seen at once

    async def respond(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return respond


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
