"""Whatever a client sends, and whenever it leaves, it gets one whole response, and others get theirs."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from mlx_oss import CheckpointError, DeviceError, EngineError, ScriptedEngine
from mlx_oss.server import connection, run, service
from tests.engines import HeldEngine, wait_until
from tests.server.echo import Client, Echo, asked, events

ASKED = {"text": "Hi"}


def held(*answers: str) -> HeldEngine:
    """Keeps back the answer to "slow"."""
    engine = HeldEngine(*answers)
    engine.hold("slow")
    return engine


def metric(url: str, name: str) -> float:
    text = asked(url, "/metrics")[1]
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"mlx_oss_{name} ")))


def test_a_response_is_the_answer(served):
    url = served(ScriptedEngine("Paris."), [Echo()])
    status, body = asked(url, "/echo", ASKED)
    assert status == 200 and body["texts"] == ["Paris."] and body["prompt_tokens"] > 50


def test_a_stream_has_the_answer_in_its_events_and_ends(served):
    url = served(ScriptedEngine("Paris, of course."), [Echo()])
    told = events(Client(url).send("/echo", ASKED | {"stream": True}))
    assert "".join(data["text"] for name, data in told if name == "delta") == "Paris, of course."
    assert [name for name, _ in told][:: len(told) - 1] == ["begin", ""] and told[-1][1] == "[DONE]"
    assert told[-2][0] == "end"


def test_several_answers_are_written_at_the_same_time(served):
    url = served(ScriptedEngine("One.", "Two.", "Three."), [Echo()])
    assert sorted(asked(url, "/echo", ASKED | {"n": 3})[1]["texts"]) == ["One.", "Three.", "Two."]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not JSON"),
        (b'{"text"', 400, "line 1 column 8"),
        (b'{"text": "\xff"}', 400, "not UTF-8 at byte 10"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b"[1]", 400, "give an object"),
        (b"null", 400, "the body is None"),
        (b'{"text": 7}', 400, "text is 7: give a text"),
        (b'{"text": "Hi", "n": 0}', 400, "n is 0: give a whole number of at least 1"),
        (b'{"text": "Hi", "n": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b'{"text": "Hi", "model": "gpt-5"}', 404, "there is no model 'gpt-5' here: use one of gpt-oss-20b"),
        (json.dumps({"text": "Hi " * 200_000}).encode(), 400, "leave no room to answer"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_body_is_refused_in_a_sentence(served, body, status, reason, stream):
    if stream and body.endswith(b"}"):
        body = body[:-1] + b', "stream": true}'
    url = served(ScriptedEngine("A"), [Echo()])
    got, error = asked(url, "/echo", body)
    assert got == status and reason in error["error"]["message"] and len(error["error"]["message"]) < 400
    assert asked(url, "/echo", ASKED)[1]["texts"] == ["A"]


def test_a_body_that_is_too_large_is_refused_while_it_comes(served, monkeypatch):
    monkeypatch.setattr(connection, "BODY_BYTES", 1 << 20)
    url = served(ScriptedEngine("A"), [Echo()])
    assert asked(url, "/echo", b"x" * (2 << 20))[0] == 413
    assert asked(url, "/echo", {"text": "Hi", "padding": "x" * 1_000_000})[0] == 200


def test_only_some_large_bodies_are_read_at_the_same_time(served, monkeypatch):
    monkeypatch.setattr(service, "_MOST_LARGE", 1)
    engine = held("A", "B", "C")
    url = served(engine, [Echo()])
    client = Client(url)
    client.begin("/echo", {"text": "slow", "padding": "x" * (2 << 20)})
    wait_until(lambda: bool(engine.held["slow"]))
    status, body = asked(url, "/echo", {"text": "Hi", "padding": "x" * (2 << 20)})
    assert status == 429 and "more than 1 MiB" in body["error"]["message"]
    assert asked(url, "/echo", ASKED)[0] == 200
    engine.release("slow")
    assert client.response().status == 200
    assert asked(url, "/echo", {"text": "Hi", "padding": "x" * (2 << 20)})[0] == 200


def test_a_body_that_drips_is_given_up(served, monkeypatch):
    monkeypatch.setattr(connection, "_BODY_SECONDS", 0.3)
    host, port = urlsplit(served(ScriptedEngine("A"), [Echo()])).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_connection_that_asks_nothing_is_given_up(served, monkeypatch):
    monkeypatch.setattr(run, "_HEAD_SECONDS", 0.2)
    host, port = urlsplit(served(ScriptedEngine("A"), [Echo()])).netloc.split(":")
    for sent in (b"", b"POST /echo HTTP/1.1\r\nHost: loc"):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(sent)
            assert client.recv(4096) == b""


def test_a_head_that_is_too_large_is_refused(served):
    host, port = urlsplit(served(ScriptedEngine("A"), [Echo()])).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 400")


def test_an_error_before_the_first_event_has_its_own_status(served):
    url = served(ScriptedEngine(context=20), [Echo()])
    for stream in (False, True):
        status, body = asked(url, "/echo", ASKED | {"stream": stream})
        assert status == 400 and body["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("error", [DeviceError("no memory"), EngineError("no more"), ValueError("secret")])
def test_a_stream_that_fails_says_so_and_ends(served, error, caplog):
    url = served(ScriptedEngine([200005, 17196, 200008, 12194, error], "B"), [Echo()])
    told = events(Client(url).send("/echo", ASKED | {"stream": True}))
    wanted = "this is a bug in mlx-oss" if isinstance(error, ValueError) else str(error)
    assert told[-2][0] == "fail" and wanted in told[-2][1]["message"] and told[-1][1] == "[DONE]"
    assert asked(url, "/echo", ASKED)[1]["texts"] == ["B"]
    assert str(error) in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceError("no memory"), 503),
        (EngineError("no more"), 503),
        (CheckpointError("the file is gone"), 500),
        (ValueError("secret"), 500),
    ],
)
def test_a_request_that_fails_fails_alone_and_only_a_bug_has_a_traceback(served, error, status, caplog):
    url = served(ScriptedEngine(error, "B"), [Echo()])
    got, body = asked(url, "/echo", ASKED)
    assert got == status and "secret" not in json.dumps(body)
    assert ("Traceback" in caplog.text) == isinstance(error, ValueError)
    assert asked(url, "/echo", ASKED)[1]["texts"] == ["B"]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_computed_for_a_client_that_has_left(served, stream):
    engine = held("A", "B")
    url = served(engine, [Echo()])
    client = Client(url)
    client.begin("/echo", {"text": "slow", "stream": stream})
    wait_until(lambda: bool(engine.held["slow"]))
    assert metric(url, "running_requests") == 1
    client.leave()
    wait_until(lambda: metric(url, "running_requests") == 0)
    assert asked(url, "/echo", ASKED)[1]["texts"] == ["B"]


def test_a_client_that_waits_is_told_that_the_server_lives(served, monkeypatch):
    monkeypatch.setattr(connection, "_QUIET_SECONDS", 0.1)
    engine = held("A")
    client = Client(served(engine, [Echo()]))
    response = client.send("/echo", {"text": "slow", "stream": True})
    assert response.readline() == b"event: begin\n"
    seen = [response.readline() for _ in range(8)]
    assert seen.count(b"event: wait\n") == 2
    engine.release("slow")
    assert events(response)[-1] == ("", "[DONE]")


def test_more_requests_than_allowed_are_told_to_come_later(served):
    engine = held("A", "B", "C")
    url = served(engine, [Echo()], most_requests=2)
    clients = [Client(url) for _ in range(2)]
    for client in clients:
        client.begin("/echo", {"text": "slow"})
    wait_until(lambda: len(engine.held.get("slow", ())) == 2)
    response = Client(url).send("/echo", ASKED | {"stream": True})
    assert response.status == 429 and int(response.headers["Retry-After"]) > 0
    assert "ask again" in json.loads(response.read())["error"]["message"]
    engine.release("slow")
    assert {client.response().status for client in clients} == {200}
    assert asked(url, "/echo", ASKED)[0] == 200


def test_a_reader_that_stops_holds_up_nobody_and_is_given_up(served, monkeypatch):
    monkeypatch.setattr(connection, "_SLOW_SECONDS", 1.0)
    engine = ScriptedEngine("word " * 100_000, "B")
    url = served(engine, [Echo()])
    host, port = urlsplit(url).netloc.split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        body = json.dumps(ASKED | {"stream": True}).encode()
        head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(engine.requests) == 1)
        assert asked(url, "/echo", ASKED)[1]["texts"] == ["B"]
        wait_until(lambda: metric(url, "running_requests") == 0)


@pytest.mark.parametrize("path", ["/", "/v1/embeddings", "/echo/", "/v1/../echo"])
def test_a_path_that_is_not_offered_is_a_404_with_a_sentence(served, path):
    status, body = asked(served(ScriptedEngine(), [Echo()]), path)
    assert status == 404 and "is not offered here" in body["error"]["message"]


def test_another_method_is_a_405(served):
    url = served(ScriptedEngine(), [Echo()])
    assert asked(url, "/echo")[0] == 405 and asked(url, "/v1/models", {})[0] == 405


def test_health_does_not_wait_for_what_is_computed(served):
    engine = held("A")
    url = served(engine, [Echo()])
    client = Client(url)
    client.begin("/echo", {"text": "slow"})
    wait_until(lambda: bool(engine.held["slow"]))
    started = time.monotonic()
    status, body = asked(url, "/health")
    assert status == 200 and body["status"] == "ok" and body["running"] == 1
    assert time.monotonic() - started < 10
    engine.release("slow")
    assert client.response().status == 200


def test_models_are_listed_as_openai_anthropic_and_ollama_do(served):
    url = served(ScriptedEngine(), [Echo()])
    listed = asked(url, "/v1/models")[1]
    assert listed["object"] == "list" and listed["data"][0]["id"] == "gpt-oss-20b"
    assert asked(url, "/v1/models/openai/gpt-oss-20b")[1]["id"] == "gpt-oss-20b"
    status, body = asked(url, "/v1/models/gpt-4")
    assert status == 404 and body["error"]["code"] == "model_not_found"
    assert asked(url, "/api/tags")[1]["models"][0]["name"] == "gpt-oss-20b"
    assert asked(url, "/api/version")[1]["version"] and asked(url, "/api/hello", None, "HEAD")[0] == 200


def test_metrics_count_requests_and_tokens(served):
    url = served(ScriptedEngine("A", "B"), [Echo()])
    for body in (ASKED, ASKED | {"stream": True}, {}):
        asked(url, "/echo", body)
    text = asked(url, "/metrics")[1]
    assert 'mlx_oss_requests_total{path="/echo",status="200"} 2' in text
    assert 'mlx_oss_requests_total{path="/echo",status="400"} 1' in text
    assert metric(url, "generated_tokens_total") == 10 and metric(url, "time_to_first_token_seconds_count") == 2
    for line in text.splitlines():
        assert line.startswith("# TYPE mlx_oss_") or float(line.rsplit(" ", 1)[1]) >= 0
