"""A server with the page, on 127.0.0.1, that answers with a scripted engine."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.generation.engine import Engine, Item, Request, Stream
from mlx_oss.server.app import application
from mlx_oss.server.guard import Access
from mlx_oss.server.models import Models
from mlx_oss.server.page.api import PageApi
from mlx_oss.server.page.routes import PUBLIC
from mlx_oss.server.service import Service
from mlx_oss.server.toolbox import BuiltinTool
from mlx_oss.tools import PythonTool
from tests.server.conftest import Running

THINK = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{}<|return|>"
PYTHON = "<|channel|>analysis to=python code<|message|>{}<|call|>"
WEATHER = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.
    """
    return f"18 degrees in {city}"


class Interpreter(PythonTool):
    """Stands for the tool `python`, and keeps what it was told to run."""

    def __init__(self, ran: list[str]) -> None:
        super().__init__(isolation="limits")
        self.ran = ran

    def call(self, function: str, text: str) -> str:
        self.ran.append(text)
        return f"ran {len(self.ran)}"


class Typist(ScriptedEngine):
    """Takes its time for each token.

    Attributes:
        delay: Seconds for each token.
        gate: While it is cleared, nothing is written.
        written: Tokens so far.
        reply: Makes an answer of a prompt's last message, if none is left.
    """

    def __init__(self, *answers: Any, delay: float = 0.0, reply: Callable[[str], str] | None = None) -> None:
        super().__init__(*answers)
        self.delay, self.gate, self.written, self.reply = delay, threading.Event(), 0, reply
        self.gate.set()

    def submit(self, request: Request) -> Stream:
        if self.reply is not None and not self._answers:
            said = load_tokenizer().decode(list(request.prompt)).split("<|message|>")[-1].partition("<|end|>")[0]
            self.says(self.reply(said))
        return super().submit(request)

    def _at_once(self, function: Callable[[], Item | None]) -> Future[Item | None]:
        future: Future[Item | None] = Future()

        def write() -> None:
            self.gate.wait(30)
            time.sleep(self.delay)
            self.written += 1
            done = super(Typist, self)._at_once(function)
            error = done.exception()
            future.set_exception(error) if error else future.set_result(done.result())

        threading.Thread(target=write, daemon=True).start()
        return future


@dataclass
class PageServer:
    """A server that runs.

    Attributes:
        url: Where.
        engine: What it says.
        ran: The code that its tool `python` has run.
        service: What answers in it.
        abort: Ends it at once, as if its process were killed.
    """

    url: str
    engine: Any
    ran: list[str]
    service: Service
    abort: Callable[[], None]

    def answer(self, *parts: Any, **more: Any) -> list[dict[str, Any]]:
        """All events of an answer."""
        with self.begin(*parts, **more) as response:
            return [sent(line) for line in response if line.startswith(b"data: ")]

    @contextmanager
    def begin(self, *parts: Any, **more: Any) -> Iterator[http.client.HTTPResponse]:
        """The response of a stream, which is left at the end of the block."""
        with self.send("/page/answer", {"parts": list(parts), **more}) as response:
            yield response

    @contextmanager
    def send(self, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """The response for a request: POST if it has a body."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request("GET" if data is None else "POST", path, data, sent | headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def asked(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON of a response; its text if it is no JSON."""
        with self.send(path, body, **headers) as response:
            data = response.read().decode()
        return response.status, json.loads(data) if data.startswith("{") else data


@contextmanager
def page_server(
    engine: Engine, *, port: int = 0, key: str | None = None, tools: bool = False, more: Any = (), **service: Any
) -> Iterator[PageServer]:
    """Serves an engine until the block ends.

    Args:
        engine: The engine.
        port: Where; 0 for any free port.
        key: The key of the server.
        tools: With the tools `python` and `weather`.
        more: Groups of functions.
        **service: Other arguments of `Service`.
    """
    ran: list[str] = []
    own = {"python": BuiltinTool(lambda: [Interpreter(ran)], True), "weather": BuiltinTool(lambda: [weather])}
    groups = {group.namespace.name: BuiltinTool(lambda group=group: [group], True, group) for group in more}
    made = Service(Models.holding("gpt-oss-20b", engine, load_tokenizer()), (own if tools else {}) | groups, **service)
    running = Running(application(made, [PageApi(made)], Access(key=key, public=PUBLIC)), port)
    try:
        yield PageServer(running.url, engine, ran, made, running.abort)
    finally:
        running.stop()


def question(text: str = "Hi") -> dict[str, str]:
    return {"kind": "question", "text": text}


def text_of(told: list[dict[str, Any]], kind: str = "answer") -> str:
    return "".join(event["text"] for event in told if event["type"] == "text" and event["kind"] == kind)


def one(told: list[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The only event of a type."""
    (event,) = [event for event in told if event["type"] == kind]
    return event


def sent(line: bytes) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return data
