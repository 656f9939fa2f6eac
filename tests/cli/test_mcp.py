"""`mlx-oss mcp`, and the argument `--mcp` with the servers of the config file."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

pytest.importorskip("mcp")

from mlx_oss import ChatSession, OptionError, ScriptedEngine, ToolCall, ToolResult, load_tokenizer
from mlx_oss.cli import main, mcp_arguments, settings, tool_arguments
from mlx_oss.tools import McpServer, PythonTool
from mlx_oss.tools.mcp.offered import OfferedTools
from mlx_oss.tools.reviews import reviews_of
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from tests.cli.test_terminal import PROMPT
from tests.engines import wait_until

ROOT = Path(__file__).parents[2]
ROGUE = ROOT / "tests" / "tools" / "mcp" / "rogue.py"
TOKENIZER = load_tokenizer()
PLAIN = f"{sys.executable} {ROGUE} plain"
MINE = '''
import os
from mlx_oss.tools import report_progress

print("neither must this", flush=True)
os.write(1, b"nor this")

def shout(text: str) -> str:
    """Says something loudly."""
    print("this must not disturb the protocol")
    report_progress(1, 2, "shouting")
    return text.upper()

def fail() -> str:
    """Does not work."""
    raise ValueError("out of order")
'''


@pytest.fixture
def servers(monkeypatch) -> Iterator[list[McpServer]]:
    """Servers that are closed after the test."""
    made: list[McpServer] = []
    yield made
    for server in made:
        server.close()


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """The config file, which does not exist yet."""
    monkeypatch.setattr(settings, "path", lambda: tmp_path / "config.toml")
    return tmp_path / "config.toml"


def results(server: McpServer, *calls: tuple[str, dict[str, object]]) -> list[ToolResult]:
    """The results of calls of a server's functions."""
    texts = [
        f"<|channel|>commentary to={server.name}.{name} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"
        for name, arguments in calls
    ]
    session = ChatSession(ScriptedEngine(*texts, "Done."), TOKENIZER, tools=[server])
    return [event for event in session.send("Go") if isinstance(event, ToolResult)]


def own(*arguments: str) -> McpServer:
    return McpServer([sys.executable, "-m", "mlx_oss", "mcp", *arguments], name="own", env={"PYTHONPATH": str(ROOT)})


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "whales.md").write_text("# Whales\n\nThe blue whale is the largest animal.\n")
    return folder


def test_the_browser_is_offered_as_the_reference_server_has_it(notes, servers):
    server = own("--tool", f"browser={notes}")
    servers.append(server)
    assert [tool.name for tool in server.namespace.tools] == ["search", "open", "find"]
    assert "Cite information from the tool" in str(server.namespace.description)
    found = results(server, ("search", {"query": "whale"}), ("open", {"id": 0}), ("find", {"pattern": "blue"}))
    assert "Whales†whales.md" in found[0].text and "largest animal" in found[1].text and "match at L4" in found[2].text
    assert "Invalid link id `99`" in results(server, ("open", {"id": 99}))[0].text


def test_a_server_of_one_tool_has_its_name(notes, servers):
    server = McpServer(
        [sys.executable, "-m", "mlx_oss", "mcp", "--tool", f"browser={notes}"], env={"PYTHONPATH": str(ROOT)}
    )
    servers.append(server)
    assert server.name == "browser"


@pytest.mark.skipif(isolation_here() not in GUARANTEES, reason="this machine has no sandbox")
def test_python_keeps_its_variables_and_its_sandbox(servers):
    server = own("--tool", "python")
    servers.append(server)
    (tool,) = server.namespace.tools
    assert tool.name == "python" and tool.parameters is not None and tool.parameters["required"] == ["code"]
    network = "import socket\nsocket.create_connection(('127.0.0.1', 9))\nprint('out')"
    first, second, third = results(
        server, *(("python", {"code": code}) for code in ("x = 41", "print(x + 1)", network))
    )
    assert first.error is None and second.text.strip() == "42" and "out\n" not in third.text and "Error" in third.text


@pytest.mark.skipif(isolation_here() not in GUARANTEES, reason="this machine has no sandbox")
@pytest.mark.parametrize("arguments", [{}, {"code": 5}, {"script": "print(1)"}])
def test_a_call_of_python_without_code_is_an_error(arguments):
    from mcp import Client

    async def call() -> Any:
        tools = OfferedTools([PythonTool()])
        async with Client(tools.server) as client:
            return await client.call_tool("python", arguments)

    result = asyncio.run(call())
    assert result.is_error and result.content[0].text == "Error: `code` must be the code, a text"


def test_functions_of_a_file_are_offered_and_what_they_print_does_not_disturb_the_protocol(tmp_path, servers):
    (tmp_path / "mine.py").write_text(MINE)
    server = own("--tool", str(tmp_path / "mine.py"))
    servers.append(server)
    shouted, failed = results(server, ("shout", {"text": "hey"}), ("fail", {}))
    assert shouted.text == "HEY" and shouted.error is None
    assert (
        failed.error is not None and "out of order" in failed.error and failed.text == "Error: ValueError: out of order"
    )


def test_only_the_protocol_is_written_to_stdout(notes, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = subprocess.run(
        [sys.executable, "-m", "mlx_oss", "mcp", "--tool", f"browser={notes}", "--tool", str(tmp_path / "mine.py")],
        input=b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\nnonsense\n',
        capture_output=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


def test_with_a_port_programs_on_this_machine_are_served_and_no_web_page(notes, servers):
    command = [sys.executable, "-m", "mlx_oss", "mcp", "--tool", f"browser={notes}", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        address = process.stderr.readline().decode().strip()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/mcp", address)[1])
        server = McpServer(address, name="own")
        servers.append(server)
        assert "largest" in results(server, ("search", {"query": "whale"}))[0].text
        for header, value in (("Host", "evil.example"), ("Origin", "http://evil.example")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            connection.request("POST", "/mcp", "{}", {**headers, header: value})
            assert connection.getresponse().status in (403, 421)
            connection.close()
        server.close()
        process.send_signal(signal.SIGINT)
        process.wait(20)


def test_without_tools_it_says_how_to_name_them(capsys):
    assert main(["mcp"]) == 2
    assert "--tool browser=./notes" in capsys.readouterr().err


def test_a_server_is_named_with_its_command(servers):
    servers += mcp_arguments.servers([f"mine={PLAIN}"])
    (server,) = servers
    assert server.name == "mine" and results(server, ("act", {}))[0].text == "act {}"


def test_a_server_of_the_config_file_is_used_when_it_is_asked_for(config, servers, monkeypatch):
    monkeypatch.setenv("MODE", "plain")
    config.write_text(f'[mcp.mine]\ncommand = "{sys.executable}"\nargs = ["{ROGUE}", "${{MODE}}"]\n')
    servers += mcp_arguments.servers(["mine"])
    assert servers[0].name == "mine" and main(["config"]) == 0
    with pytest.raises(OptionError, match=r"the table \[mcp\] in .* has mine"):
        mcp_arguments.servers(["yours"])


def test_the_file_of_another_program_is_read(tmp_path, servers):
    entry = {"command": sys.executable, "args": [str(ROGUE), "plain"], "disabled": False, "alwaysAllow": []}
    file = tmp_path / "mcp.json"
    other = {"command": "no-such-program", "disabled": True}
    file.write_text(json.dumps({"mcpServers": {"theirs": entry, "other": other}}))
    servers += mcp_arguments.servers([str(file)])
    assert [server.name for server in servers] == ["theirs"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("1", "write a table"),
        ('{ comand = "x" }', "'comand' is unknown"),
        ("{ args = [] }", "either a `command` or a `url`"),
        ('{ command = "x", url = "http://y" }', "either a `command` or a `url`"),
        ("{ command = 1 }", "write a text in quotes"),
        ('{ command = "x", args = "y" }', "write a list of texts"),
        ('{ command = "x", env = { A = "${NO_SUCH}" } }', "needs the environment variable NO_SUCH: set it"),
        ('{ command = "x", headers = { A = "b" } }', "headers are only for"),
        ('{ url = "http://x", type = "sse" }', "outdated"),
        ('{ command = "x", timeout = "long" }', "expected a number"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(config, entry, words):
    config.write_text(f"mcp.mine = {entry}\n")
    with pytest.raises(OptionError) as caught:
        mcp_arguments.servers(["mine"])
    assert words in str(caught.value) and "config.toml: mcp.mine" in str(caught.value)


@pytest.mark.parametrize("arguments", [["chat", "Hi", "--yes"], ["generate", "Hi", "--yes"], ["serve"]])
def test_a_server_that_cannot_be_started_is_one_line(arguments, capsys):
    assert main([*arguments, "--mcp", "mine=no-such-program"]) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: the MCP server mine cannot be used: ") and "no-such-program" in line


def test_two_servers_of_one_name_are_refused():
    with pytest.raises(OptionError, match="two servers are called 'mine'"):
        mcp_arguments.servers([f"mine={PLAIN}", f"mine={PLAIN}"])


def test_the_user_is_asked_before_each_function_and_an_always_is_for_that_function(servers, monkeypatch, capsys):
    servers += mcp_arguments.servers([f"mine={PLAIN}"])
    confirmation = tool_arguments.Confirmation(servers)
    assert confirmation.is_needed and set(reviews_of(servers)) == {"mine"}
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\nalways\nyes\n"))
    write, read = ToolCall("mine.write", '{"path": "\x1b[31m/etc"}'), ToolCall("mine.read", "{}")
    assert confirmation(write) is False and confirmation(write) is True and confirmation(write) is True
    assert confirmation.asks(read) and not confirmation.asks(write) and confirmation(read) is True
    shown = capsys.readouterr().err
    assert "run mine.write? yes, no, always: " in shown and "\x1b" not in shown and shown.count("run mine.read?") == 1


SCRIPTED = """
import sys
import mlx_oss
from mlx_oss.cli import main, model_arguments

call = "<|channel|>commentary to=rogue.act <|constrain|>json<|message|>{}<|call|>"
engine = mlx_oss.ScriptedEngine(call, "I go on.")
model_arguments.load = lambda args: (engine, mlx_oss.load_tokenizer())
sys.exit(main(["chat", "--no-history", "--mcp", sys.argv[1]]))
"""


def test_ctrl_c_in_a_terminal_stops_a_call_and_the_conversation_goes_on(tmp_path):
    log = tmp_path / "log"
    config = tmp_path / "mcp.json"
    entry = {"command": sys.executable, "args": [str(ROGUE), "mute-call"], "env": {"LOG": str(log)}}
    config.write_text(json.dumps({"mcpServers": {"rogue": entry}}))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
    variables["TERM"] = "xterm-256color"
    child = pexpect.spawn(sys.executable, ["-c", SCRIPTED, str(config)], env=variables, timeout=25, encoding="utf-8")
    child.expect(PROMPT)
    child.send("go\r")
    child.expect("run rogue.act. yes, no, always: ")
    child.send("yes\r")
    wait_until(lambda: log.exists() and "call act" in log.read_text())
    child.sendintr()
    child.expect(r"\[stopped\]")
    child.expect(PROMPT)
    child.send("on\r")
    child.expect("I go on.")
    assert "cancelled" in log.read_text()
    child.expect(PROMPT)
    child.sendcontrol("d")
    child.expect(pexpect.EOF)


def test_without_a_terminal_calls_need_yes(capsys):
    assert main(["chat", "--mcp", f"mine={PLAIN}", "Hi"]) == 2
    assert "give --yes to approve them all" in capsys.readouterr().err
