"""One server for many tests: starting one takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.server.app import application
from mlx_oss.server.guard import Access
from mlx_oss.server.models import Models
from mlx_oss.server.responses import Responses
from mlx_oss.server.service import Service
from tests.server.conftest import Running
from tests.server.responses.streams import check, events_of, valid


@dataclass
class Asking:
    """Asks a server whose engine says what it is told to."""

    url: str
    engine: ScriptedEngine
    client: httpx.Client

    def post(self, body: Any, path: str = "") -> httpx.Response:
        return self.client.post(f"{self.url}/v1/responses{path}", json=body)

    def stream(self, script: Any, body: Any) -> dict[str, Any]:
        """The response at the end of a stream, whose events are checked."""
        self.engine.says(script)
        answer = self.post({**body, "stream": True})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return check(events_of(answer.text))

    def plain(self, script: Any, body: Any) -> dict[str, Any]:
        """The response to a request that asks for no stream."""
        self.engine.says(script)
        answer = self.post(body)
        assert answer.status_code == 200, answer.text
        return valid(answer.json())

    def refused(self, body: Any, path: str = "") -> dict[str, Any]:
        """The error of a request that is refused."""
        answer = self.post(body, path)
        assert 400 <= answer.status_code < 500, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
        return error

    @property
    def prompt(self) -> str:
        """The last prompt, as text."""
        return load_tokenizer().decode(list(self.engine.requests[-1].prompt))


@pytest.fixture(scope="package")
def shared_server() -> Iterator[Asking]:
    engine = ScriptedEngine()
    service = Service(Models.holding("gpt-oss-20b", engine, load_tokenizer()))
    running = Running(application(service, [Responses()], Access()))
    with httpx.Client(timeout=30) as client:
        yield Asking(running.url, engine, client)
    running.stop()


@pytest.fixture
def asking(shared_server: Asking) -> Iterator[Asking]:
    """A server that has no answers yet."""
    yield shared_server
    shared_server.engine._answers.clear()
