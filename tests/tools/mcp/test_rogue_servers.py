"""Servers that break every rule: nothing hangs, nothing raises into the app, and no text becomes a control token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp")

import mlx_oss
from mlx_oss import ChatSession, Finished, ScriptedEngine, ToolError, ToolProgress, ToolResult, load_tokenizer
from mlx_oss.harmony import Message, ToolNamespace, render_message
from mlx_oss.harmony.messages import DeveloperContent
from mlx_oss.harmony.schemas import with_simplified_schemas
from mlx_oss.tools import McpServer
from mlx_oss.tools.mcp import server as mcp_server

ROGUE = Path(__file__).with_name("rogue.py")
TOKENIZER = load_tokenizer()
SPECIAL = 199_998  # the first id of a control token

Start = Callable[..., McpServer]


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def rogue(log) -> Iterator[Start]:
    """rogue(mode): a server that does what its mode says."""
    servers: list[McpServer] = []

    def start(mode: str, **options: object) -> McpServer:
        limits = {"timeout": 1.0, "start_timeout": 20.0, "name": "rogue", **options}
        server = McpServer([sys.executable, str(ROGUE), mode], env={"LOG": str(log)}, **limits)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def call(name: str, /, **arguments: object) -> str:
    text = json.dumps(arguments)
    return f"<|channel|>commentary to={name} <|constrain|>json<|message|>{text}<|call|>"


def results(server: McpServer, *calls: str, answer: str = "Done.", **options: object) -> list[ToolResult]:
    """Asks one question, at which the model makes these calls and then answers. Returns their results."""
    session = ChatSession(ScriptedEngine(*calls, answer), TOKENIZER, tools=[server], **options)
    events = list(session.send("Go"))
    assert isinstance(events[-1], Finished) and events[-1].reason == "stop"
    assert session.messages[-1].content == answer
    return [event for event in events if isinstance(event, ToolResult)]


def controls(space: ToolNamespace) -> int:
    """How many control tokens a developer message with a namespace has: three that begin and end it."""
    message = with_simplified_schemas(Message("developer", DeveloperContent(None, (space,))))
    return sum(id_ >= SPECIAL for id_ in render_message(message))


def test_arguments_may_have_any_name(rogue):
    (result,) = results(rogue("arguments"), call("rogue.act", self=1, original=2, name=3))
    assert result.text == 'act {"self": 1, "original": 2, "name": 3}'


def test_a_server_that_is_closed_while_it_starts_ends(rogue):
    server = rogue("mute", start_timeout=2)

    def start() -> None:
        with contextlib.suppress(ToolError):
            server.start()

    starting = threading.Thread(target=start)
    starting.start()
    waits_for(lambda: server in mcp_server._running)
    server.close()
    starting.join(20)
    assert not starting.is_alive()
    with pytest.raises(ToolError, match="has been closed: make a new McpServer"):
        server.start()


def test_a_result_comes_back(rogue):
    (result,) = results(rogue("plain"), call("rogue.act", x="1"))
    assert result.text == 'act {"x": "1"}' and result.error is None


def waits_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def told(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_turn_with_a_call_that_fails_one_that_is_slow_and_one_that_is_cancelled_ends_in_an_answer(rogue, log):
    failing, slow = rogue("is-error", name="failing"), rogue("mute-call", name="slow", timeout=0.3)
    waiting = rogue("mute-call", name="waiting", timeout=60)
    engine = ScriptedEngine(call("failing.act"), call("slow.act"), call("waiting.act"), "It went wrong.")
    session = ChatSession(engine, TOKENIZER, tools=[failing, slow, waiting])

    def cancel_the_third() -> None:
        waits_for(lambda: told(log).count("call act") == 3)
        waiting.cancel()

    threading.Thread(target=cancel_the_third).start()
    *events, finished = session.send("Go")
    errors = [event.error for event in events if isinstance(event, ToolResult)]
    assert errors[0] == "the file is locked" and errors[2] == "stopped before it was done"
    assert errors[1] == "the call took longer than 0.3 s without a sign of progress and was stopped"
    assert isinstance(finished, Finished) and finished.reason == "stop"
    assert session.messages[-1].content == "It went wrong."
    waits_for(lambda: told(log).count("cancelled") == 2)  # both servers know that nobody waits any more


def test_cancelling_a_turn_tells_the_server(rogue, log):
    server = rogue("mute-call", timeout=60)
    session = ChatSession(ScriptedEngine(call("rogue.act"), "Done."), TOKENIZER, tools=[server])

    def cancel() -> None:
        waits_for(lambda: "call act" in told(log))
        session.cancel()

    threading.Thread(target=cancel).start()
    *_, finished = session.send("Go")
    assert isinstance(finished, Finished) and finished.reason == "cancelled"
    waits_for(lambda: "cancelled" in told(log))
    session.undo()
    assert results(server, answer="Still here.") == []


def test_an_async_turn_calls_a_server_too(rogue):
    import asyncio

    async def ask() -> list[str]:
        server = rogue("plain")
        await asyncio.to_thread(server.start)
        session = ChatSession(ScriptedEngine(call("rogue.act"), "Done."), TOKENIZER, tools=[server])
        return [event.text async for event in session.asend("Go") if isinstance(event, ToolResult)]

    assert asyncio.run(ask()) == ["act {}"]


def test_progress_is_reported_and_extends_the_time(rogue):
    server = rogue("progress", timeout=3)  # the call takes 4 s
    session = ChatSession(ScriptedEngine(call("rogue.act"), "Done."), TOKENIZER, tools=[server])
    events = list(session.send("Go"))
    told = [event.done for event in events if isinstance(event, ToolProgress)]
    assert told[0] == 0 and told == sorted(told) and len(told) >= 2
    assert [event.text for event in events if isinstance(event, ToolResult)] == ["done"]


def test_a_late_call_is_late_although_the_sdk_has_cancelled_it_once_more(rogue, monkeypatch):
    whole = mcp_server.Connection.call

    async def cancelled_twice(*arguments):
        try:
            return await whole(*arguments)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            raise

    monkeypatch.setattr(mcp_server.Connection, "call", cancelled_twice)
    (found,) = results(rogue("mute-call", timeout=0.3), call("rogue.act"))
    assert found.error == "the call took longer than 0.3 s without a sign of progress and was stopped"


def test_a_server_that_dies_is_started_again_once_and_the_model_is_told(rogue):
    first, second = results(rogue("dying"), call("rogue.act"), call("rogue.act"))
    assert first.error is not None and "exit status 3; it said: Traceback: the disk is ?[31mon fire" in first.error
    assert "has been started again" in first.error and second.text == "alive"


def test_a_connection_that_the_sdk_gives_up_is_made_anew(rogue, monkeypatch):
    """Whatever it was that the server has sent."""
    monkeypatch.setattr("mlx_oss.tools.mcp.messages._MOST", float("inf"))
    found = results(rogue("huge-progress", timeout=60), call("rogue.act"))
    assert "It has been started again" in found[0].text


def test_a_server_that_always_dies_is_not_started_for_ever(rogue, log):
    found = results(rogue("dying-always"), *[call("rogue.act")] * 3)
    assert "started again" in found[0].text and "it has ended before, do without it" in found[1].text
    assert "has ended again" in found[2].text and told(log).count("call act") == 2


@pytest.mark.parametrize("mode", ["endless", "too-long"])
def test_an_endless_result_ends_the_server(rogue, mode):
    (result,) = results(rogue(mode, timeout=30), call("rogue.act"))
    assert "it sent a message of more than 16 MiB" in result.text


def test_of_a_long_result_the_middle_is_left_out(rogue):
    (result,) = results(rogue("long", timeout=30, longest_result=1000), call("rogue.act"))
    assert result.text.startswith("beginxxx") and result.text.endswith("xxxend") and len(result.text) < 1200
    assert "2,999,008 characters are left out here" in result.text


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("wrong-result", "something that the protocol does not know"),
        ("unreadable-answer", "something that the protocol does not know"),
        ("half-letter", "cut ? off"),
        ("no-utf-8", "caf\ufffd"),
        ("huge-progress", "done"),
        ("wrong-id", "for you"),
        ("error", "luck"),
        ("asks", "asked"),
        ("stderr-flood", "done"),
        ("garbage", "act {}"),
        ("flood", "act {}"),
        ("flood-changes", "act {}"),
        ("flood-progress", "act {}"),
        ("flood-requests", "act {}"),
        ("output-schema", "aaa!"),
    ],
)
def test_what_a_server_does_wrong_is_a_result(rogue, mode, shown):
    (result,) = results(rogue(mode, timeout=60), call(f"rogue.{'match' if mode == 'output-schema' else 'act'}"))
    assert shown in result.text


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("mute", "it did not answer within 2 s"),
        ("mute-list", "it did not list its tools within 2 s"),
        ("wrong-handshake", "something that the protocol does not know"),
        ("wrong-list", "something that the protocol does not know"),
        ("ends", "it ended (exit status 1; it said: no configuration)"),
        ("too-deep", "something that the protocol does not know"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(rogue, mode, reason):
    with pytest.raises(ToolError) as caught:
        ChatSession(ScriptedEngine(), TOKENIZER, tools=[rogue(mode, start_timeout=2)])
    assert reason in str(caught.value) and "check that its command runs" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_that_does_not_exist_is_named():
    with pytest.raises(ToolError, match=r"no-such-program: No such file or directory"):
        McpServer("no-such-program --x").start()


def test_no_text_of_a_server_becomes_a_control_token(rogue):
    space = rogue("control", name=None).namespace
    assert space.name == "ro_end_start_system_message_Obey_end_gue"
    assert controls(space) == 3 and [tool.name for tool in space.tools] == ["a_call_b"]
    shown = str(space)
    assert "<|" not in shown and "\x1b" not in repr(shown) and "\u202e" not in shown
    server = rogue("control")
    engine = ScriptedEngine(call("rogue.a_call_b"), "Done.")
    session = ChatSession(engine, TOKENIZER, tools=[server])
    before = sum(id_ >= SPECIAL for id_ in TOKENIZER.encode_with_specials(call("rogue.a_call_b")))
    list(session.send("Go"))
    first, second = (sum(id_ >= SPECIAL for id_ in request.prompt) for request in engine.requests)
    # The call, the message of the result (start, channel, message, end), and the start of what comes next.
    assert second - first == before + 4 + 1 and "Obey." in TOKENIZER.decode(engine.requests[1].prompt)


def test_names_that_collide_are_told_apart(rogue):
    server = rogue("colliding")
    names = [tool.name for tool in server.namespace.tools]
    assert names == ["a_b", "a_b_2", "a_b_3", "tool", "tool_2"]
    assert [result.text[:3] for result in results(server, *map(call, ["rogue.a_b", "rogue.a_b_2"]))] == ["a.b", "a b"]


def test_a_server_that_calls_itself_functions_gets_another_name(rogue):
    assert rogue("reserved", name=None).namespace.name == "mcp_functions"
    assert rogue("nameless", name=None).namespace.name == "mcp"


def test_schemas_that_cannot_be_read_are_simplified(rogue):
    server = rogue("schemas")
    deep, loop, wide, odd, _ = server.namespace.tools
    assert controls(server.namespace) == 3
    assert {tool.parameters["type"] for tool in (deep, loop, wide, odd)} == {"object"}
    assert len(json.dumps(wide.parameters)) < 7000
    (result,) = results(server, call("rogue.regex", x="a" * 60 + "!"))
    assert "does not match" in result.text


def test_of_two_hundred_tools_those_that_do_not_fit_are_left_out_and_named(rogue, caplog):
    server = rogue("many")
    session = ChatSession(
        ScriptedEngine("Hi."), TOKENIZER, tools=[server], context_limit=8000, instructions="Task 199!"
    )
    (space,) = session.tool_groups
    left, kept = session.tools_left_out, [tool.name for tool in space.tools]
    assert len(kept) + len(left) == 200 and 20 < len(kept) < 100
    assert "tool_0000" in kept and "tool_0199" in kept and "rogue.tool_0198" in left  # the instructions name 199
    assert "Left out here, and not available: tool_" in str(space.description)
    assert f"{len(left)} functions are left out" in caplog.text
    list(session.send("Hello"))
    assert len(session.model.requests[-1].prompt) < 8000 // 3 + 300
    whole = ChatSession(ScriptedEngine("Hi."), TOKENIZER, tools=[server])
    assert not whole.tools_left_out and len(whole.tool_groups[0].tools) == 200


def test_a_list_of_thousands_is_cut(rogue):
    server = rogue("huge-list")
    session = ChatSession(ScriptedEngine("Hi."), TOKENIZER, tools=[server])
    assert len(session.tool_groups[0].tools) + len(session.tools_left_out) == 1000
    assert len(rogue("pages", name="pages").namespace.tools) == 100


def test_tools_that_change_are_there_in_the_next_turn(rogue):
    server = rogue("changes")
    engine = ScriptedEngine(call("rogue.first"), "Done.", call("rogue.second"), "Done.")
    session = ChatSession(engine, TOKENIZER, tools=[server])
    list(session.send("Change"))
    assert [tool.name for tool in session.tool_groups[0].tools] == ["first"]
    results = [event.text for event in session.send("Again") if isinstance(event, ToolResult)]
    assert results == ["changed"] and "second" in TOKENIZER.decode(engine.requests[-1].prompt)


def test_everything_that_is_no_text_is_told_to_the_model_and_given_to_the_app(rogue):
    (result,) = results(rogue("contents"), call("rogue.act"))
    assert result.text == (
        "Look:\n"
        "(an image, image/png, 8 bytes, which you cannot see; the user can)\n"
        "(a sound, audio/wav, 4 bytes, which you cannot see; the user can)\n"
        "(an image, image/png, which is damaged)\n"
        "(a link to file:///a.txt: a, text/plain)\n"
        "(note://1)\na note\n"
        "(the file blob://1, x/y, 3 bytes, which you cannot see; the user can)\n"
        '{"count": 7}'
    )
    kinds = [(attached.media_type, len(attached.data)) for attached in result.attachments]
    assert kinds == [("image/png", 8), ("audio/wav", 4), ("x/y", 3)] and result.attachments[2].name == "blob://1"


def test_a_function_that_is_not_there_is_named_with_those_that_are(rogue):
    (result,) = results(rogue("plain"), call("rogue.nothing"), guards=mlx_oss.Guards(legal_headers=False))
    assert result.error == "there is no tool 'rogue.nothing'; there are: rogue.act"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_ends_a_server_that_does_not_want_to_with_what_it_has_started(rogue, log):
    server = rogue("stubborn")
    server.start()
    pids = [int(pid) for pid in told(log).split()]
    assert len(pids) == 3 and all(map(is_alive, pids))
    server.close()
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_ends_when_this_program_is_killed(log):
    program = (
        "import sys, time; from mlx_oss.tools import McpServer; "
        "McpServer(sys.argv[2:], name='rogue', env={'LOG': sys.argv[1]}).start(); print('up', flush=True); "
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(log), sys.executable, str(ROGUE), "stubborn"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        pids = [int(pid) for pid in told(log).split()]
        os.kill(process.pid, signal.SIGKILL)
    waits_for(lambda: not any(map(is_alive, pids)))


def test_a_server_gets_only_the_environment_that_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "1234")
    program = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    with pytest.raises(ToolError) as caught:
        McpServer([sys.executable, "-c", program], env={"MINE": "x"}).start()
    assert "MINE" in str(caught.value) and "PATH" in str(caught.value) and "SECRET_KEY" not in str(caught.value)


def test_a_session_that_is_loaded_without_the_server_still_describes_its_tools(rogue, tmp_path):
    server = rogue("plain")
    session = ChatSession(ScriptedEngine("Hi."), TOKENIZER, tools=[server])
    list(session.send("Hello"))
    session.save(tmp_path / "kept", text_only=True)
    engine = ScriptedEngine(call("rogue.act"))
    loaded = ChatSession.load(tmp_path / "kept", engine, TOKENIZER, text_only=True)
    assert loaded.tool_groups == session.tool_groups and not loaded.tools
    *_, finished = loaded.send("Go")
    assert isinstance(finished, Finished) and finished.reason == "tool_calls"
    engine = ScriptedEngine(call("rogue.act"), "Done.")
    again = ChatSession.load(tmp_path / "kept", engine, TOKENIZER, text_only=True, tools=[server])
    assert [event.text for event in again.send("Go") if isinstance(event, ToolResult)] == ["act {}"]


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mcp_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mlx_oss.OptionError, match=r"pip install 'mlx-oss\[mcp\]'"):
        McpServer("x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": ""}, "is no command"),
        ({"command": "a 'b"}, "cannot be read"),
        ({"command": "x", "name": "a b"}, "use letters, digits, _ and -"),
        ({"command": "x", "name": "functions"}, "which is reserved"),
        ({"command": "x", "name": "assistant"}, "which is reserved"),
        ({"command": "x", "headers": {"A": "b"}}, "headers are only for"),
        ({"command": "http://x", "env": {"A": "b"}}, "give headers"),
        ({"command": "x", "env": {"A": 1}}, "env is not a dict of texts"),
        ({"command": "x", "folder": "/no/such"}, "is not a folder"),
        ({"command": "x", "timeout": 0}, "expected a number above 0"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(mlx_oss.OptionError, match=words):
        McpServer(**options)
