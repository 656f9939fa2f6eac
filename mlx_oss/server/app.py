"""The paths of the server, put together as one ASGI application."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mlx_oss.generation import compute_thread
from mlx_oss.server.asked import Api
from mlx_oss.server.connection import Endpoint
from mlx_oss.server.guard import Access, Guard
from mlx_oss.server.service import Service
from mlx_oss.version import __version__

_OLLAMA_VERSION = "0.13.4"  # clients ask for one that knows the Responses API


def application(
    service: Service,
    apis: Iterable[Api],
    access: Access,
    *,
    routes: Sequence[BaseRoute] = (),
    logs_prompts: bool = False,
) -> Guard:
    """The application.

    Args:
        service: What answers.
        apis: The APIs that are offered.
        access: Who may use it.
        routes: Further paths.
        logs_prompts: Whether the log gets the bodies of requests.
    """
    info, apis = _Information(service), list(apis)
    own: list[BaseRoute] = [
        *(Route(api.path, _Post(Endpoint(api, service, logs_prompts=logs_prompts))) for api in apis),
        *(route for api in apis for route in api.routes(service)),
        Route("/health", info.health),
        Route("/metrics", info.metrics),
        Route("/v1/models", info.models),
        Route("/v1/models/{name:path}", info.model),
        Route("/api/version", info.version),
        Route("/api/tags", info.tags),
        Route("/api/hello", info.hello),
    ]
    app = Starlette(routes=[*own, *routes], exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    return Guard(app, access)


class _Post:
    """Lets only POST through to an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        await self._endpoint(scope, receive, send)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"{request.url.path} is not offered here: the APIs are /v1/responses, /v1/chat/completions, /v1/messages",
        405: f"{request.method} is not what {request.url.path} takes: use {(error.headers or {}).get('Allow', 'GET')}",
    }.get(error.status_code, error.detail)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    content = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"type": "error", "error": content}, error.status_code, error.headers)


class _Information:
    """What the server tells of itself."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """Whether the server can compute. Does not wait for what is being computed."""
        pulse, metrics = compute_thread.pulse(), self._service.metrics
        status = "stopping" if self._service.is_ending else "ok" if pulse.is_alive else "dead"
        content = {
            "status": status,
            "version": __version__,
            "models": [model.name for model in self._service.models.loaded],
            "running": metrics.running,
            "waiting": self._service.models.waiting,
            "busy_seconds": round(pulse.busy_seconds, 3),
        }
        return JSONResponse(content, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        loaded = self._service.models.loaded
        text = self._service.metrics.text(self._service.models.waiting, loaded[0].engine if loaded else None)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        data = [self._described(name) for name in self._service.models.names]
        content = {"object": "list", "data": data, "has_more": False, "first_id": data[0]["id"]}
        return JSONResponse(content | {"last_id": data[-1]["id"]})

    async def model(self, request: Request) -> Response:
        from mlx_oss.server.asked import status_of
        from mlx_oss.server.fields import RequestError

        try:
            return JSONResponse(self._described(self._service.models.name_of(request.path_params["name"])))
        except RequestError as error:
            content = {"message": str(error), "type": "invalid_request_error", "param": "model", "code": error.code}
            return JSONResponse({"error": content}, status_of(error))

    def _described(self, name: str) -> dict[str, object]:
        """A model as OpenAI's and Anthropic's lists have it."""
        created = self._service.models.created
        return {"id": name, "object": "model", "created": created, "owned_by": "mlx-oss", "type": "model"} | {
            "display_name": name,
            "created_at": _iso(created),
        }

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": _OLLAMA_VERSION})

    async def tags(self, request: Request) -> Response:
        modified = _iso(self._service.models.created)
        own = self._service.models.names
        names = dict.fromkeys([*own, *(name.replace("gpt-oss-", "gpt-oss:") for name in own)])  # as Ollama calls them
        return JSONResponse({"models": [{"name": name, "model": name, "modified_at": modified} for name in names]})

    async def hello(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def _iso(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
