"""A server on 127.0.0.1 that answers with a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn
from starlette.routing import BaseRoute

from mlx_oss import Engine, load_tokenizer
from mlx_oss.server.app import application
from mlx_oss.server.asked import Api
from mlx_oss.server.guard import Access
from mlx_oss.server.models import Models
from mlx_oss.server.run import bound, configured
from mlx_oss.server.service import Service
from tests.engines import wait_until


class Running:
    """A server that runs on a thread."""

    def __init__(self, app: Any, port: int = 0) -> None:
        listening = bound("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = configured(app, timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def abort(self) -> None:
        """Closes the connections, as the system does when the process is killed."""
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """served(engine, apis): the base URL of a server. Further arguments are those of `Service`."""
    running: list[Running] = []

    def serve(
        engine: Engine, apis: Iterable[Api], routes: Sequence[BaseRoute] = (), tools: Any = None, **service: Any
    ) -> str:
        models = Models.holding("gpt-oss-20b", engine, load_tokenizer())
        app = application(Service(models, tools or {}, **service), apis, Access(), routes=routes)
        running.append(Running(app))
        return running[-1].url

    yield serve
    for each in running:
        each.stop()
