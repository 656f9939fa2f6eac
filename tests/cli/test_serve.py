"""`mlx-oss serve` starts where it is safe, says where it is, and ends as it is told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlx_oss.cli import main
from mlx_oss.cli.serve import _address
from tests.server.echo import Client, asked

LISTENS = re.compile(r"http://127\.0\.0\.1:\d+")


class Served:
    """`mlx-oss serve` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "mlx_oss", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = list[str]()
        assert self.process.stdout is not None and self.process.stderr is not None
        self.url = ""
        while not self.url:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            self.url = found[0] if (found := LISTENS.search(line)) else ""
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()))
        self._reader.start()

    def wait(self) -> int:
        status = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.rest = self.process.stdout.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@pytest.fixture
def served():
    running = []

    def serve(*arguments):
        running.append(Served(*arguments))
        return running[-1]

    yield serve
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.wait()


def chat(text: str, **fields: object) -> dict[str, object]:
    return {"model": "nano", "messages": [{"role": "user", "content": text}], **fields}


def test_it_answers_says_how_to_use_it_and_logs_nothing_that_was_said(served):
    server = served()
    assert asked(server.url, "/health")[1]["models"] == []
    status, body = asked(server.url, "/v1/chat/completions", chat("Are you the marmalade?", max_tokens=8))
    assert status == 200 and body["object"] == "chat.completion"
    assert asked(server.url, "/health")[1]["models"] == ["nano"]
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "codex" in server.rest and f"ANTHROPIC_BASE_URL={server.url}" in server.rest
    log = "".join(server.lines)
    assert "/v1/chat/completions: 200" in log and "marmalade" not in log


def test_prompts_are_logged_only_if_that_is_wanted(served):
    server = served("--log-prompts")
    asked(server.url, "/v1/chat/completions", chat("Are you the marmalade?\x1b[2J", max_tokens=8))
    server.process.terminate()
    server.wait()
    log = "".join(server.lines)
    assert "marmalade" in log and "\x1b" not in log


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish_and_a_second_one_does_not(served, sign):
    server = served()
    asked(server.url, "/v1/chat/completions", chat("Hi", max_tokens=2))
    streams = []
    for _ in range(2):
        client = Client(server.url)
        streams.append(client.send("/v1/chat/completions", chat("Tell me a story.", stream=True, max_tokens=2000)))
        assert streams[-1].readline().startswith(b"data: ")
    server.process.send_signal(sign)
    time.sleep(0.3)
    assert streams[0].readline() is not None and server.process.poll() is None
    with pytest.raises(OSError):
        asked(server.url, "/health")
    server.process.send_signal(sign)
    assert server.wait() == 0
    assert "Traceback" not in "".join(server.lines)


LOADING = """
import ctypes
import threading
import mlx_oss
from mlx_oss.cli import main

def load(*args, **options):
    print("loading", flush=True)
    ctypes.PyDLL(None).usleep({microseconds})  # holds the interpreter
    threading.Event().wait(300)

mlx_oss.load = load
main(["serve", "--port", "0", "--model", "nano"])
"""


@contextmanager
def loading(microseconds: int) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A server that holds the interpreter for a while and then loads a model for ever; a client that waits for it."""
    program = LOADING.format(microseconds=microseconds)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(found[0] for line in process.stdout if (found := LISTENS.search(line)))
        client = Client(url)
        client.begin("/v1/chat/completions", chat("Hi"))
        assert "loading\n" in process.stdout
        try:
            yield process, client
        finally:
            process.kill()
            client.leave()


def test_a_second_signal_ends_it_while_it_loads_a_model():
    with loading(0) as (process, _):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1


def test_two_signals_count_as_two_while_the_interpreter_is_held():
    with loading(2_000_000) as (process, _):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_does_not_load_what_nobody_waits_for(sign):
    with loading(0) as (process, client):
        client.leave()
        process.send_signal(sign)
        assert process.wait(60) == 0


def test_a_server_that_is_told_to_end_ends_when_its_answers_are_whole(served):
    server = served()
    asked(server.url, "/v1/chat/completions", chat("Hi", max_tokens=2))
    response = Client(server.url).send("/v1/chat/completions", chat("Who are you?", stream=True))
    response.readline()
    server.process.terminate()
    assert response.read().rstrip().endswith(b"data: [DONE]")
    assert server.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "lets other machines use the server: give an --api-key"),
        (["--host", "::"], "lets other machines use the server"),
        (["--host", "no.such.host.example", "--api-key", "x"], "cannot listen on no.such.host.example"),
        (["--api-key", ""], "the key is empty"),
        (["--port", "99999"], "cannot listen on port 99999"),
        (["--max-requests", "0"], "give at least 1"),
        (["--idle-unload", "0"], "more than 0"),
        (["--idle-unload", "nan"], "more than 0"),
        (["--model", "nothing"], "nothing"),
        (["--model", os.path.dirname(__file__)], "contains no *.safetensors file of a model"),
        (["--tool", "hammer"], "'hammer' is not a tool"),
        (["--cors", "*"], "is no origin"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys, arguments, reason):
    assert main(["serve", *arguments]) in (2, 3)
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_used_is_told_with_a_remedy(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", "--port", str(other.getsockname()[1])]) == 2
    assert "another program uses it; give another --port" in capsys.readouterr().err


def test_the_key_may_come_from_the_environment(served, monkeypatch):
    monkeypatch.setenv("MLX_OSS_API_KEY", "secret")
    server = served()
    assert asked(server.url, "/v1/models")[0] == 401
    assert asked(server.url, "/v1/models", x_api_key="secret")[0] == 200
    server.process.terminate()
    assert server.wait() == 0
    assert 'env_key="MLX_OSS_API_KEY"' in server.rest and "AUTH_TOKEN=$MLX_OSS_API_KEY" in server.rest
    assert "secret" not in server.rest + "".join(server.lines)


def test_a_server_for_other_machines_tells_the_name_of_this_one(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "mac.local")
    assert _address("0.0.0.0", 80) == "http://mac.local:80" and _address("::1", 80) == "http://[::1]:80"
