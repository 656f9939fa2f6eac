"""Refuses requests that are not meant for this server: of other web pages, without the key, too large, not JSON.

A web page of anybody can make a browser send requests to this machine. So the Host header has to be a name of this
server (a page could give its own name this address later), the Origin its own unless it was allowed, and a body has to
be declared as JSON, which browsers do not send to others without asking first. Knows nothing of models.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_oss.errors import quoted

_OPEN = ("/health",)  # needs no key
_KINDS = {401: "authentication_error", 403: "permission_error"}
_METHODS = "GET, POST, DELETE, OPTIONS"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server.

    Attributes:
        hosts: Names that the Host header may have besides those of loopback. None: any name, which is safe only with a
            key.
        key: The key that every request has to give. None: none.
        origins: Origins of web pages that may use the server besides its own page.
        public: Paths that need no key: the files of the page.
    """

    hosts: Collection[str] | None = ()
    key: str | None = None
    origins: Collection[str] = ()
    public: Collection[str] = ()


class Guard:
    """The ASGI middleware.

    Args:
        app: What answers the requests that are let through.
        access: Who may use it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        is_allowed = origin is not None and origin in self._access.origins
        refusal = self._refusal(scope, headers, is_allowed)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif is_allowed:
            await self._app(scope, receive, _with_origin(send, str(origin)))
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers, is_allowed: bool) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own_name(host):
            return _refused(403, f"{quoted(host)} is not a name of this server: use its address, such as 127.0.0.1")
        if origin is not None and not is_allowed and not _is_same(origin, host):
            return _refused(403, f"pages of {quoted(origin)} may not use this server: `--cors ORIGIN` allows them")
        if origin is None and headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            return _refused(403, "other web pages may not use this server")
        if scope["method"] == "OPTIONS" and is_allowed:
            return _preflight(str(origin), headers.get("access-control-request-headers", ""))
        path = scope["path"]
        needs_key = self._access.key is not None and path not in _OPEN and path not in self._access.public
        if needs_key and not self._has_key(headers):
            return _refused(401, "a key is needed: give it as `Authorization: Bearer KEY`, or as `x-api-key`")
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return _refused(
                    415, f"the body is {quoted(kind or 'of no type')}: send JSON, Content-Type: application/json"
                )
        return None

    def _is_own_name(self, host: str) -> bool:
        if self._access.hosts is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name in self._access.hosts or is_loopback(name)

    def _has_key(self, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", ""), bearer.strip() if kind.lower() == "bearer" else ""]
        key = (self._access.key or "").encode()
        return any(hmac.compare_digest(text.encode(), key) for text in given if text)


def is_loopback(address: str) -> bool:
    """Whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _refused(status: int, message: str) -> JSONResponse:
    kind = _KINDS.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": None}
    headers = {"X-Should-Retry": "false"}  # Claude Code asks nine times, for minutes, before it tells of a wrong key
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"type": "error", "error": error}, status, headers)


def _preflight(origin: str, headers: str) -> Response:
    allowed = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": headers or "authorization, content-type",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }
    return Response(status_code=204, headers=allowed)


def _with_origin(send: Send, origin: str) -> Send:
    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers.append("Vary", "Origin")
        await send(message)

    return send_with_origin
