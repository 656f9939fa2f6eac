"""An API of the tests' own, as small as one can be: {"text": ..., "stream": ..., "n": ...} asks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from mlx_oss.chat.transcript import Transcript
from mlx_oss.events import AnswerDelta, Event, PrefillProgress
from mlx_oss.server.asked import Api, Asked, Cost, Frame, Writer, message_of, new_id
from mlx_oss.server.fields import Fields


class EchoWriter(Writer):
    def __init__(self) -> None:
        self.texts = dict[int, str]()
        self.prompt_tokens, self._id = 0, ""
        self.costs = list[Cost]()

    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        self.prompt_tokens = prompt_tokens
        return [("begin", {"prompt_tokens": prompt_tokens})]

    def take(self, event: Event, choice: int = 0) -> Iterable[Frame]:
        if isinstance(event, AnswerDelta):
            self.texts[choice] = self.texts.get(choice, "") + event.text
            yield "delta", {"text": event.text, "choice": choice}
        elif isinstance(event, PrefillProgress):
            yield "reading", {"done": event.done}

    def call_id(self, choice: int = 0) -> str:
        return new_id("call")

    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        self.costs = costs
        return [("end", {})]

    def wait(self) -> Iterable[Frame]:
        return [("wait", {})]

    def fail(self, error: Exception) -> Iterable[Frame]:
        return [("fail", {"message": message_of(error)})]

    @property
    def body(self) -> Mapping[str, Any]:
        return {"texts": [self.texts[choice] for choice in sorted(self.texts)], "prompt_tokens": self.prompt_tokens}


class Echo(Api):
    path = "/echo"
    last = b"data: [DONE]\n\n"

    def asked(self, body: Any) -> Asked:
        fields, transcript = Fields(body), Transcript()
        transcript.say(fields.text("text"))
        count = fields.integer("n", least=1) or 1
        return Asked(transcript, fields.optional_text("model"), fields.flag("stream"), count=count)

    def writer(self, asked: Asked, model: str) -> EchoWriter:
        return EchoWriter()


class Response:
    """A response, which keeps its connection. It closes both when it is let go: nothing here refers to it."""

    def __init__(self, client: Client, response: http.client.HTTPResponse) -> None:
        self._client, self._response = client, response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()
        self._client.leave()

    def __del__(self) -> None:
        self.close()


class Client:
    """A connection to a server; each request needs one of its own."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def send(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Response:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method or ("GET" if data is None else "POST"), path, data, sent)
        return self.response()

    def begin(self, path: str, body: Any) -> None:
        """Sends a request without waiting for the response."""
        self._connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def response(self) -> Response:
        return Response(self, self._connection.getresponse())

    def leave(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        self._connection.close()


def asked(url: str, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of a response; its text if it is no JSON."""
    client = Client(url)
    with client.send(path, body, method, **headers) as response:
        data = response.read().decode()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, data


def streamed(url: str, path: str, body: Any) -> str:
    """The text of a stream."""
    client = Client(url)
    with client.send(path, body) as response:
        assert response.status == 200 and response.headers["Content-Type"].startswith("text/event-stream")
        return response.read().decode()


def events(response: Response) -> list[tuple[str, Any]]:
    """The events of a stream."""
    told = []
    for block in response.read().decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if lines:
            data = lines["data"]
            told.append((lines.get("event", ""), json.loads(data) if data != "[DONE]" else data))
    return told
