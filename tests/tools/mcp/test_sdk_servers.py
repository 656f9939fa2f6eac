"""Servers made with the official SDK, by both transports, with the newest protocol."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from mlx_oss import ChatSession, ScriptedEngine, ToolError, ToolProgress, ToolResult, load_tokenizer
from mlx_oss.tools import McpServer

FRIENDLY = Path(__file__).with_name("friendly.py")
TOKENIZER = load_tokenizer()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextmanager
def running(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server at a port of this machine."""
    process = subprocess.Popen([sys.executable, str(FRIENDLY), str(port)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["stdio", "http"])
def friendly(request) -> Iterator[McpServer]:
    if request.param == "stdio":
        with McpServer([sys.executable, str(FRIENDLY), "stdio"], timeout=20) as server:
            yield server
    else:
        port = free_port()
        with running(port), McpServer(f"http://127.0.0.1:{port}/mcp", timeout=20) as server:
            yield server


def turn(server: McpServer, name: str, **arguments: object) -> list[object]:
    """The events of a turn with one call."""
    text = f"<|channel|>commentary to=friendly.{name} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"
    return list(ChatSession(ScriptedEngine(text, "Done."), TOKENIZER, tools=[server]).send("Go"))


def result(server: McpServer, name: str, **arguments: object) -> ToolResult:
    (found,) = [event for event in turn(server, name, **arguments) if isinstance(event, ToolResult)]
    return found


def test_it_is_called_as_it_calls_itself_and_described(friendly):
    space = friendly.namespace
    assert space.name == friendly.name == "friendly" and space.description == "Adds and waits."
    assert [tool.name for tool in space.tools][:5] == ["add", "weather", "pixel", "fail", "wait"]


def test_values_are_told_once(friendly):
    assert result(friendly, "add", a=40, b=2).text == "42"
    assert json.loads(result(friendly, "weather", place="Oslo").text) == {"degrees": 4, "sky": None}


def test_an_image_is_an_attachment(friendly):
    found = result(friendly, "pixel")
    assert "image/png" in found.text and [each.data for each in found.attachments] == [b"\x89PNG"]


def test_errors_are_results(friendly):
    assert result(friendly, "fail").error == "Error executing tool fail"  # the SDK tells clients no more
    assert result(friendly, "add", a="x", b=1).error is not None


def test_progress_comes_between_call_and_result(friendly):
    events = turn(friendly, "wait", seconds=1.5)
    told = [event for event in events if isinstance(event, ToolProgress)]
    assert len(told) > 3 and told[0].total == 10 and told[-1].text.startswith("step ")
    assert told[0].recipient == "friendly.wait"


def test_a_long_result_is_cut_and_too_long_a_message_ends_no_turn(friendly):
    assert len(result(friendly, "big", size=1_000_000).text) < 60_000
    assert "more than 16 MiB" in result(friendly, "big", size=20_000_000).text
    assert result(friendly, "add", a=1, b=1).text == "2"


def test_a_tool_that_is_added_is_there_in_the_next_turn(friendly):
    text = "<|channel|>commentary to=friendly.grow <|constrain|>json<|message|>{}<|call|>"
    again = text.replace("grow", "more")
    session = ChatSession(ScriptedEngine(text, "Done.", again, "Done."), TOKENIZER, tools=[friendly])
    list(session.send("Go"))
    end = time.monotonic() + 10
    while "more" not in [tool.name for tool in friendly.namespace.tools] and time.monotonic() < end:
        time.sleep(0.05)  # the news come by a connection of their own
    assert [event.text for event in session.send("Go") if isinstance(event, ToolResult)] == ["more"]


def test_a_server_that_comes_back_at_its_address_is_used_again():
    port = free_port()
    with running(port):
        server = McpServer(f"http://127.0.0.1:{port}/mcp", timeout=10, start_timeout=10)
        assert result(server, "add", a=1, b=2).text == "3"
    assert "starting it again failed" in result(server, "add", a=1, b=2).text
    with running(port):
        assert result(server, "add", a=1, b=2).text == "3"
    server.close()
    with pytest.raises(ToolError, match=r"check that it runs at http://127\.0\.0\.1"):
        McpServer(f"http://127.0.0.1:{port}/mcp").start()


def test_headers_are_sent():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = McpServer(f"http://127.0.0.1:{port}/mcp", headers={"X-Key": "abc"}, start_timeout=1)
        with pytest.raises(ToolError, match="did not answer within 1 s"):
            server.start()
        listening.settimeout(5)
        asked, _ = listening.accept()
        with asked:
            assert b"x-key: abc" in asked.recv(65536).lower()
